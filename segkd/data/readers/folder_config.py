"""segkd.yaml: how a user's own folder of images and masks is described; every key is checked."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import yaml

from segkd.data.files.layout import Layout
from segkd.data.readers.sets import generated_palette, parse_colour
from segkd.fields import That, check, fit_all, hints_of
from segkd.ids import Colour, ColourMap, IdMap
from segkd.metrics import IGNORE
from segkd.registry import UserError

SPLITS = ("train", "val", "test")
UNLABELLED = "unlabelled"  # a split of images alone
NEEDED = "a study needs train and val, and reports on test where there is one; add it to `splits`, as in {train: 0.8, val: 0.1, test: 0.1}"
LONGEST = 2**20  # bytes of a description


def _is_below(path: str) -> bool:
    return not (path.startswith(("/", "~")) or "\\" in path or path[1:2] == ":" or ".." in path.split("/"))


Some = That(bool, "that is not empty")
Name = Annotated[str, Some, That(bool, "(put yes, no and numbers in quotes)")]
Below = Annotated[str, Some, That(_is_below, "and does not lead out of the data set")]
Endings = Annotated[list[Annotated[str, That(lambda end: end and "/" not in end, "such as .png or _mask.png")]], Some]
Share = Annotated[float, That(lambda x: 0 < x <= 1, "above 0, at most 1")]
Byte = Annotated[int, That(lambda x: 0 <= x <= 255, "from 0 to 255")]
Channels = Annotated[tuple[int, int, int], That(lambda colour: all(0 <= x <= 255 for x in colour), "from 0 to 255")]
Digits = Annotated[str, That(re.compile("#?[0-9a-fA-F]{6}").fullmatch, "such as '#ff0000'")]


@dataclass(frozen=True)
class Class:
    """An entry of ``classes``; a bare text is a name."""

    name: Name
    colour: Channels | Digits | None = None
    value: Byte | None = None


@dataclass(frozen=True)
class Description:
    """What the file may say. ``ignore``: a value of a mask, or a list of them. ``splits``: to a sub-folder, a list or a share."""

    classes: Annotated[list, Some]
    masks_hold: Literal["index", "palette", "colours"] = "index"
    ignore: Any = None
    images: Below = "images"
    masks: Below = "masks"
    image_ends: Endings = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
    mask_ends: Endings = (".png", ".bmp", ".tif", ".tiff")
    splits: Annotated[dict, Some] = field(default_factory=lambda: {split: split for split in SPLITS})


@dataclass(frozen=True)
class FolderConfig:
    """A checked description. ``splits`` maps a split to a sub-folder, a list file or a share; see ``split_kind``."""

    where: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    masks_hold: str
    ids: IdMap | ColourMap
    files: Layout
    split_kind: str  # "folder", "list" or "share"
    splits: dict[str, str | float]

    def layout(self, split: str) -> Layout:
        """Folders and list of one split; UserError for a split that is not described."""
        if split not in self.splits:
            raise UserError(f"{self.where} describes no {split}, only {', '.join(self.splits)}: {NEEDED}")
        value = self.splits[split]
        if self.split_kind == "list":
            return replace(self.files, lists=(value,)).at("", split)
        return self.files.at("", value if self.split_kind == "folder" else split)

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
    said = Description(**fit_all({"classes": None} | _read(data, where), hints_of(Description), "key", f"{where}: "))
    classes = _classes(said.classes, where)
    spare = generated_palette(len(classes) + 1)[1:]  # for classes without a colour; black is void's
    palette = tuple(_colour(one.colour) if one.colour else other for one, other in zip(classes, spare))
    kind, splits = _splits(said.splits, where)
    images, masks = (_folder(getattr(said, key), where, key, kind) for key in ("images", "masks"))
    files = Layout(images, masks, _ends(said.image_ends), _ends(said.mask_ends))
    if (images, files.image_ends) == (masks, files.mask_ends):
        raise UserError(f"{where}: images and masks are the same files: give them other folders or other endings")
    ids = _ids(said, classes, palette, where)
    return FolderConfig(where, tuple(one.name for one in classes), palette, said.masks_hold, ids, files, kind, splits)


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


def _classes(rows: list, where: str) -> list[Class]:
    rows = [{"name": None} | row if isinstance(row, dict) else {"name": row} for row in rows]
    classes = [Class(**fit_all(row, hints_of(Class), "key", f"{where}: class {place}.")) for place, row in enumerate(rows, 1)]
    names = [one.name for one in classes]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{where}: two classes are called {doubled[0]!r}: give each a name of its own")
    if len(rows) > IGNORE:
        raise UserError(f"{where}: {len(rows)} classes, at most {IGNORE} fit: merge some")
    return classes


def _colour(value: Colour | str) -> Colour:
    return parse_colour(value) if isinstance(value, str) else value


def _ids(said: Description, classes: list[Class], palette: tuple[Colour, ...], where: str) -> IdMap | ColourMap:
    """How values of a mask, or its colours, become train ids."""
    colours = said.masks_hold == "colours"
    for one in classes:
        if colours and (one.colour is None or one.value is not None):
            raise UserError(f"{where}: the masks hold colours, so class {one.name!r} needs a `colour` and no `value`")
    several = isinstance(said.ignore, list) and not (colours and all(type(value) is int for value in said.ignore))
    values = said.ignore if several else [] if said.ignore is None else [said.ignore]
    ignored = [check(value, Channels | Digits if colours else Byte, f"{where}: ignore") for value in values]
    ids = [place if one.value is None else one.value for place, one in enumerate(classes)]
    try:
        if colours:
            return ColourMap(palette, [_colour(value) for value in ignored])
        return IdMap(ids, [IGNORE] if said.ignore is None and IGNORE not in ids else ignored)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _ends(values: list[str]) -> tuple[str, ...]:
    return tuple(f".{value}" if value.isalnum() else value for value in values)  # jpg is .jpg


def _plain(path: str) -> str:
    return path.removeprefix("./").strip("/")


def _folder(path: str, where: str, key: str, kind: str) -> str:
    """The path with the place of the split's sub-folder in it."""
    path = _plain(path)
    if kind == "share" and "{split}" in path:
        raise UserError(f"{where}: {key} '{path}' has sub-folders for splits that are shares: name the sub-folders in `splits`")
    return f"{path}/{{split}}" if kind == "folder" and "{split}" not in path else path


def _splits(said: dict, where: str) -> tuple[str, dict[str, str | float]]:
    """What the splits are, and each one's folder, list or share."""
    splits = fit_all(said, dict.fromkeys((*SPLITS, UNLABELLED), Share | Below), "split", f"{where}: splits.")
    kinds = {"share" if isinstance(value, float) else "list" if value.endswith(".txt") else "folder" for value in splits.values()}
    if len(kinds) > 1:
        raise UserError(f"{where}: splits must all be sub-folders, all lists (.txt) or all shares above 0, not {said!r}")
    if kinds != {"share"}:
        return kinds.pop(), {split: _plain(value) for split, value in splits.items()}
    if UNLABELLED in splits:
        raise UserError(f"{where}: a share of the images with masks cannot be {UNLABELLED}: give all splits as sub-folders or lists")
    if abs(sum(splits.values()) - 1) > 1e-6:
        raise UserError(f"{where}: the shares of the splits add up to {sum(splits.values()):g}: make them add up to 1")
    return "share", {split: splits[split] for split in SPLITS if split in splits}  # whatever the order in the file
