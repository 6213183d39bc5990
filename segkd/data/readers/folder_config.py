"""segkd.yaml: how a user's own folder of images and masks is described; every key is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import yaml

from segkd.ids import Colour, ColourMap, IdMap
from segkd.data.files.layout import Layout
from segkd.data.readers.sets import generated_palette, parse_colour
from segkd.metrics import IGNORE
from segkd.registry import UserError, unknown

KEYS = ("classes", "masks_hold", "ignore", "images", "masks", "image_ends", "mask_ends", "splits")
CLASS_KEYS = ("name", "colour", "value")
HOLDS = ("index", "palette", "colours")
SPLITS = ("train", "val", "test")
UNLABELLED = "unlabelled"  # a split of images alone
NEEDED = "a study needs train and val, and reports on test where there is one; add it to `splits`, as in {train: 0.8, val: 0.1, test: 0.1}"
IMAGE_ENDS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MASK_ENDS = (".png", ".bmp", ".tif", ".tiff")
LONGEST = 2**20  # bytes of a description


@dataclass(frozen=True)
class FolderConfig:
    """A checked description. ``splits`` maps a split to a sub-folder, a list file or a share; see ``split_kind``."""

    where: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    masks_hold: str
    ids: IdMap | ColourMap
    images: str
    masks: str
    image_ends: tuple[str, ...]
    mask_ends: tuple[str, ...]
    split_kind: str  # "folder", "list" or "share"
    splits: dict[str, str | float]

    def layout(self, split: str) -> Layout:
        """Folders and list of one split; UserError for a split that is not described."""
        if split not in self.splits:
            raise UserError(f"{self.where} describes no {split}, only {', '.join(self.splits)}: {NEEDED}")
        value = self.splits[split]
        lists = (value,) if self.split_kind == "list" else ()
        layout = Layout(self.images, self.masks, self.image_ends, self.mask_ends, lists)
        return layout.at("", value if self.split_kind == "folder" else split)

    def in_share(self, split: str, name: str) -> bool:
        """Whether ``name`` falls into ``split``: each split has an interval of [0, 1), each name a place in it."""
        place, start = place_of(name), 0.0
        for other, share in self.splits.items():
            if start <= place < start + share or (other == list(self.splits)[-1] and place >= start):
                return other == split
            start += share
        return False


def place_of(name: str) -> float:
    """A number in [0, 1) that depends on the name alone, so that new images do not move others to another split."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48


def parse_config(data: bytes, where: str) -> FolderConfig:
    """The description in ``data``; UserError that names ``where``, the key and the value."""
    values = _read(data, where)
    for key in values:
        if key not in KEYS:
            raise unknown(f"key in {where}:", key, KEYS)
    holds = values.get("masks_hold", "index")
    if holds not in HOLDS:
        raise unknown(f"masks_hold in {where}:", holds, HOLDS)
    rows = _rows(_typed(where, values, "classes", list, None), where)
    palette = _palette(rows, where)
    kind, splits = _splits(_typed(where, values, "splits", dict, {split: split for split in SPLITS}), where)
    ends = [_ends(_typed(where, values, key, list, list(default)), where, key)
            for key, default in (("image_ends", IMAGE_ENDS), ("mask_ends", MASK_ENDS))]  # fmt: skip
    images, masks = (_folder(_typed(where, values, key, str, key), where, key, kind) for key in ("images", "masks"))
    if (images, ends[0]) == (masks, ends[1]):
        raise UserError(f"{where}: images and masks are the same files: give them other folders or other endings")
    ids = _ids(holds, rows, palette, values.get("ignore"), where)
    return FolderConfig(where, tuple(row["name"] for row in rows), palette, holds, ids, images, masks, *ends, kind, splits)


class _Loader(yaml.SafeLoader):
    """Plain YAML in which a key is given once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read(data: bytes, where: str) -> dict:
    if len(data) > LONGEST:
        raise UserError(f"{where} has {len(data)} bytes: a description has at most {LONGEST}")
    try:
        loader = _Loader(data)
        values = loader.get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{where} is not YAML that can be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{where} must hold keys and values, at least `classes`: see docs/your-own-data.md")
    return values


def _typed(where: str, values: dict, key: str, kind: type, default):
    value = values.get(key, default)
    if not isinstance(value, kind) or not value:
        words = {list: "a list", dict: "a table", str: "a text"}
        raise UserError(f"{where}: {key} must be {words[kind]} that is not empty, not {value!r}")
    return value


def _rows(rows: list, where: str) -> list[dict]:
    """Classes as tables with a name; a bare text is a name."""
    rows = [row if isinstance(row, dict) else {"name": row} for row in rows]
    for row in rows:
        for key in row:
            if key not in CLASS_KEYS:
                raise unknown(f"key of a class in {where}:", key, CLASS_KEYS)
        if not isinstance(row.get("name"), str) or not row["name"]:
            raise UserError(f"{where}: a class needs a name, not {row.get('name')!r} (put yes, no and numbers in quotes)")
    names = [row["name"] for row in rows]
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:
        raise UserError(f"{where}: two classes are called '{doubled[0]}': give each a name of its own")
    if len(rows) > IGNORE:
        raise UserError(f"{where}: {len(rows)} classes, at most {IGNORE} fit: merge some")
    return rows


def _colour(value: object, where: str) -> Colour:
    """[255, 0, 0] or "#ff0000"."""
    try:
        if isinstance(value, str):
            return parse_colour(value)
        red, green, blue = value
        if all(type(channel) is int and 0 <= channel <= 255 for channel in (red, green, blue)):
            return red, green, blue
    except (TypeError, ValueError):
        pass
    raise UserError(f"{where}: {value!r} is no colour: write [255, 0, 0] or '#ff0000'")


def _palette(rows: list[dict], where: str) -> tuple[Colour, ...]:
    """The colours given, and generated ones for classes without; black is void's."""
    spare = generated_palette(len(rows) + 1)[1:]
    return tuple(_colour(row["colour"], where) if "colour" in row else spare[place] for place, row in enumerate(rows))


def _ids(holds: str, rows: list[dict], palette: tuple[Colour, ...], ignore: object, where: str) -> IdMap | ColourMap:
    values = ignore if isinstance(ignore, list) and (holds != "colours" or not _is_colour(ignore)) else [ignore]
    given = [] if ignore is None else values
    try:
        if holds != "colours":
            return _index_map(rows, ignore, given, where)
        for row in rows:
            if "colour" not in row or "value" in row:
                raise UserError(f"the masks hold colours, so class '{row['name']}' needs a `colour` and no `value`")
        return ColourMap(palette, [_colour(value, where) for value in given])
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(where) else f"{where}: {text}") from error


def _index_map(rows: list[dict], ignore: object, given: list, where: str) -> IdMap:
    ids = [row.get("value", place) for place, row in enumerate(rows)]
    if ignore is None:
        given = [] if IGNORE in ids else [IGNORE]
    for value in (*ids, *given):
        if type(value) is not int or not 0 <= value <= 255:
            raise UserError(f"{value!r} is no mask value: index masks hold 0 to 255")
    return IdMap(ids, given)


def _is_colour(value: list) -> bool:
    return len(value) == 3 and all(type(channel) is int for channel in value)


def _ends(values: list, where: str, key: str) -> tuple[str, ...]:
    if not all(isinstance(value, str) and value and "/" not in value for value in values):
        raise UserError(f"{where}: {key} lists endings of file names such as .png or _mask.png, not {values!r}")
    return tuple(f".{value}" if value.isalnum() else value for value in values)  # jpg is .jpg


def _inside(path: str, where: str, key: str) -> str:
    """A path below the folder, with "/"."""
    if path.startswith(("/", "~")) or "\\" in path or path[1:2] == ":" or ".." in path.split("/"):
        raise UserError(f"{where}: {key} '{path}' leads out of the data set: give a path below its folder")
    return path.removeprefix("./").strip("/")


def _folder(path: str, where: str, key: str, kind: str) -> str:
    """The path with the place of the split's sub-folder in it."""
    path = _inside(path, where, key)
    if kind == "share" and "{split}" in path:
        raise UserError(f"{where}: {key} '{path}' has sub-folders for splits that are shares: name the sub-folders in `splits`")
    return f"{path}/{{split}}" if kind == "folder" and "{split}" not in path else path


def _splits(splits: dict, where: str) -> tuple[str, dict[str, str | float]]:
    for split in splits:
        if split not in (*SPLITS, UNLABELLED):
            raise unknown(f"split in {where}:", split, (*SPLITS, UNLABELLED))
    kinds: dict[str, Callable[[object], bool]] = {
        "share": lambda value: type(value) in (int, float) and 0 < value <= 1,
        "list": lambda value: isinstance(value, str) and value.endswith(".txt"),
        "folder": lambda value: isinstance(value, str) and value != "" and not value.endswith(".txt"),
    }
    for kind, fits in kinds.items():
        if all(fits(value) for value in splits.values()):
            if kind == "share":
                return kind, _shares(splits, where)
            return kind, {split: _inside(value, where, "splits") for split, value in splits.items()}
    raise UserError(f"{where}: splits must all be sub-folders, all lists (.txt) or all shares above 0, not {splits!r}")


def _shares(splits: dict[str, float], where: str) -> dict[str, float]:
    """Shares in the order train, val, test, whatever the order in the file."""
    if UNLABELLED in splits:
        raise UserError(f"{where}: a share of the images with masks cannot be {UNLABELLED}: give all splits as sub-folders or lists")
    total = sum(splits.values())
    if abs(total - 1) > 1e-6:
        raise UserError(f"{where}: the shares of the splits add up to {total:g}: make them add up to 1")
    return {split: float(splits[split]) for split in _in_order(splits)}


def _in_order(splits: Iterable[str]) -> list[str]:
    return [split for split in SPLITS if split in set(splits)]
