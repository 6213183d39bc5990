"""Files of `segkd predict`: which images and masks there are, what they hold, and results that appear whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from segkd.metrics import IGNORE
from segkd.predict.network import Network
from segkd.registry import UserError

ENDS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def find_images(places: Sequence[Path]) -> dict[str, Path]:
    """Name (path below its folder without the ending) to file; UserError: nothing there, or two images of one name."""
    found: dict[str, Path] = {}
    for place in map(Path, places):
        if not place.exists():
            raise UserError(f"no image or folder '{place}'")
        inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in ENDS and p.is_file() and not p.name.startswith("."))
        for path in inside if place.is_dir() else [place]:
            name = (path.relative_to(place) if place.is_dir() else Path(path.name)).with_suffix("").as_posix()
            if name in found:
                raise UserError(f"'{found[name]}' and '{path}' would both be '{name}': rename one, or predict them into two folders")
            found[name] = path
    if not found:
        raise UserError(f"no images in {', '.join(map(str, places))}: looked for {' '.join(ENDS)}")
    return found


def find_label(folder: Path, name: str) -> Path:
    """The mask of an image; UserError that says what was looked for."""
    for end in (".png", ".bmp", ".tif", ".tiff"):
        if (path := Path(folder) / f"{name}{end}").is_file():
            return path
    raise UserError(f"no mask '{Path(folder) / name}.png' for the image '{name}': every image needs one of its name in --labels")


def read_image(path: Path) -> np.ndarray:
    """RGB uint8 (H, W, 3), turned as its camera noted; UserError for what is no image, damaged or of too many pixels."""
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"{image.mode}: more than 8 bits a channel")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels: cut it first") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as an image ({str(error).splitlines()[0][:80]})") from error


def read_label(path: Path, network: Network, size: tuple[int, int]) -> np.ndarray:
    """Classes uint8 (H, W) of a mask, 255 ignored; UserError: unreadable, another size, a value or colour that no class has."""
    masks = network.masks
    colours = masks["holds"] == "colours"
    try:
        with Image.open(path) as image:
            if not colours and len(image.getbands()) != 1:
                raise UserError(f"{path} holds {image.mode} where class numbers are due: masks are grey or palette PNG")
            raw = np.asarray(image.convert("RGB") if colours else image).astype(np.int64)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a mask ({str(error).splitlines()[0][:80]})") from error
    code = lambda values: np.asarray(values, np.int64).reshape(-1, 3) @ (65536, 256, 1)  # noqa: E731
    raw = raw @ (65536, 256, 1) if colours else raw
    known = [code(masks[key]) if colours else np.asarray(masks[key], np.int64) for key in ("values", "ignored")]
    if raw.shape != size:
        raise UserError(f"{path} is {raw.shape[0]}x{raw.shape[1]}, its image {size[0]}x{size[1]}: they must be of one size")
    label = np.full(size, IGNORE, np.uint8)
    for number, value in enumerate(known[0]):
        label[raw == value] = number
    strange = raw[(label == IGNORE) & ~np.isin(raw, np.concatenate(known))]
    if strange.size:
        shown = f"#{strange[0]:06x}" if colours else str(strange[0])
        raise UserError(f"{path} holds {shown}, which is neither a class nor ignored: the file knows {masks['values']}, ignored {masks['ignored']}")
    return label


def write_pictures(out: Path, name: str, image: np.ndarray, label: np.ndarray, network: Network) -> None:
    """The mask as an index PNG in the classes' colours, and the image with these laid over it."""
    mask = Image.fromarray(label)
    colours = np.zeros((256, 3), np.uint8)  # all of them: PNG would store fewer than 8 bits otherwise
    colours[: len(network.palette)] = network.palette
    mask.putpalette(colours.tobytes())
    over = Image.fromarray(((image.astype(np.uint16) + colours[label]) // 2).astype(np.uint8))
    for folder, picture, kind in (("masks", mask, "png"), ("overlays", over, "jpeg")):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        _whole(out / folder / f"{name}.{'png' if kind == 'png' else 'jpg'}", buffer.getvalue())


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)
    _whole(path, text.getvalue().encode())


def _whole(path: Path, data: bytes) -> None:
    """The file appears whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror}); what is there is whole: make room, then repeat the command") from error
