"""Files of `segkd predict`: which images and masks there are, what they hold, and results that appear whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from segkd.decode import MOST_PIXELS, check_sizes, decode_colours, decode_mask, open_picture
from segkd.ids import ColourMap, IdMap
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
            name = path.relative_to(place if place.is_dir() else place.parent).with_suffix("").as_posix()
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
    picture = open_picture(_bytes(path), str(path), as_stored=True, most=2 * MOST_PIXELS)
    return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def read_label(path: Path, ids: IdMap | ColourMap, image: np.ndarray, of: Path) -> np.ndarray:
    """Classes uint8 (H, W) of a mask, 255 ignored; UserError: unreadable, another size, a value or colour that no class has."""
    decode = decode_colours if isinstance(ids, ColourMap) else decode_mask
    label = ids(decode(_bytes(path), str(path)), str(path))
    check_sizes(image, label, str(of), str(path))
    return label


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable") from error


def write_pictures(out: Path, name: str, image: np.ndarray, label: np.ndarray, network: Network) -> None:
    """The mask as an index PNG in the classes' colours, and the image with these laid over it."""
    mask = Image.fromarray(label)
    colours = np.zeros((256, 3), np.uint8)  # all of them: PNG would store fewer than 8 bits otherwise
    colours[: len(network.palette)] = network.palette
    mask.putpalette(colours.tobytes())
    over = Image.fromarray(((image.astype(np.uint16) + colours[label]) // 2).astype(np.uint8))
    for path, picture, kind in ((f"masks/{name}.png", mask, "png"), (f"overlays/{name}.jpg", over, "jpeg")):
        picture.save(buffer := io.BytesIO(), kind)
        _whole(out / path, buffer.getvalue())


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
