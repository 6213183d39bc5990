"""Image, mask and .mat bytes to arrays, strictly: what is not exactly what is due is refused by name, with the remedy."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from segkd.registry import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MOST_PIXELS = 89_478_485  # Pillow's own limit, at which it only warns: a quarter of a gigabyte as RGB
SAMPLES, ORIENTATION = 277, 274  # TIFF's and EXIF's numbers
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
PNG_HEAD, PNG_DEPTH, PNG_COLOUR = b"\x89PNG\r\n\x1a\n", 24, 25  # signature; offsets of bit depth and colour type


def decode_image(data: bytes, where: str, as_stored: bool = False) -> np.ndarray:
    """RGB uint8 (H, W, 3) of an image file's bytes; grey and palette images become RGB.

    UserError as of `open_picture`, and for CMYK and other colour spaces and see-through pixels.
    """
    return _rgb(open_picture(data, where, as_stored), where)


def _rgb(picture: Image.Image, where: str) -> np.ndarray:
    if picture.mode in ("P", "PA", "LA", "RGBA"):
        pixels = np.array(picture.convert("RGBA"))
        if (pixels[..., 3] != 255).any():
            raise UserError(f"{where} has see-through pixels: put it on a background and save it as RGB")
        return np.ascontiguousarray(pixels[..., :3])
    if picture.mode not in ("RGB", "L", "1"):
        raise UserError(f"{where} has the colour space {picture.mode}: convert it to RGB")
    return np.array(picture.convert("RGB"))


def decode_mask(data: bytes, where: str, palette: bool = False) -> np.ndarray:
    """Class numbers uint8 (H, W) of a mask file's bytes: grey values or palette indices as they are stored.

    ``palette``: only palette indices will do. UserError as for images, and for colours where numbers are due and for JPEG,
    which changes them.
    """
    picture = _lossless(data, where, "class numbers")
    if picture.mode not in ("P", "L", "1"):
        raise UserError(f"{where} holds {picture.mode} colours where class numbers are due: save it as an index PNG")
    if palette and picture.mode != "P":
        raise UserError(f"{where} has no palette: say that the masks hold `index`, not `palette`")
    values = np.array(picture).astype(np.uint8)
    if picture.mode == "L" and _png_depth(data) in (2, 4):  # Pillow stretches them to 0..255
        values //= 255 // (2 ** _png_depth(data) - 1)
    return values


def decode_colours(data: bytes, where: str) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a mask whose colours are its classes; palette entries count by their colour."""
    return _rgb(_lossless(data, where, "colours"), where)


def _lossless(data: bytes, where: str, what: str) -> Image.Image:
    picture = open_picture(data, where)
    if picture.format == "JPEG":
        raise UserError(f"{where} is a JPEG, which changes {what}: save masks as PNG from their source")
    return picture


def decode_mat(data: bytes, where: str, variable: str, field: str | None = None) -> np.ndarray:
    """The integers (H, W) of a MATLAB file's ``variable``, or of the ``field`` of the struct of that name."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError(f'{where} needs scipy: pip install "segkd[analysis]"') from error
    with _reading(where):
        values = loadmat(io.BytesIO(data), variable_names=[variable])[variable]
        values = np.asarray(values[0, 0][field] if field else values)
    if values.ndim != 2 or values.dtype.kind not in "ui" or not values.size:
        raise UserError(f"{where}: {field or variable} is {values.dtype} {values.shape}, not integers (H, W): get it again")
    return values


def image_size(data: bytes, where: str) -> tuple[int, int]:
    """Height and width that the head of an image file names; UserError if it cannot be read."""
    with _reading(where), Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        return picture.height, picture.width


def check_sizes(image: np.ndarray, label: np.ndarray, image_where: str, label_where: str) -> None:
    """UserError that names both files if the label has not the image's height and width."""
    size = image.shape[:2]
    if size != label.shape:
        raise UserError(f"{image_where} is {size} (H, W) but its mask {label_where} is {label.shape}: save both at one size")


def open_picture(data: bytes, where: str, as_stored: bool = False, most: int = MOST_PIXELS) -> Image.Image:
    """The decoded picture of a file's bytes; ``where`` names the file in messages.

    ``as_stored``: a turn that EXIF notes is known not to count. UserError: empty, cut off or no image; several pictures;
    bands beside the colours; a noted turn; 16 bits a channel; more than ``most`` pixels.
    """
    if not data:
        raise UserError(f"{where} is empty: get it again")
    with _reading(where, most):
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > most:
            raise Image.DecompressionBombError(f"{picture.width} x {picture.height} pixels")
        if _png_depth(data) == 16 or picture.mode in SIXTEEN_BITS:
            raise UserError(f"{where} has 16 bits or more a channel: save it with 8")
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":  # a phone's JPEG and its preview
            raise UserError(f"{where} holds {picture.n_frames} pictures (pages or an animation): save each as a file of its own")
        bands = getattr(picture, "tag_v2", {}).get(SAMPLES, 0)
        if bands > len(picture.getbands()):
            raise UserError(f"{where} has {bands} bands, of which {picture.mode} would be read: save the colours alone")
        turn = 1 if as_stored else picture.getexif().get(ORIENTATION, 1)
        if turn in range(2, 9):
            raise UserError(
                f"{where} is to be shown turned (EXIF orientation {turn}), and its partner may not be: turn it once "
                "(`ImageOps.exif_transpose` of Pillow, `exiftran -a`), or take the note away if the mask fits it as it is stored"
            )
        picture.load()
    return picture


@contextmanager
def _reading(where: str, most: int = MOST_PIXELS) -> Iterator[None]:
    """Whatever a damaged file makes of its decoder is one UserError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{where} is too large ({error}): cut it into pieces of at most {most} pixels") from error
    except Exception as error:
        raise UserError(f"{where} cannot be read ({type(error).__name__}: {error}): get it again") from error


def _png_depth(data: bytes) -> int | None:
    """Bits a channel of a PNG; None for another format and for palettes, whose depth does not matter."""
    if not data.startswith(PNG_HEAD) or len(data) <= PNG_COLOUR or data[PNG_COLOUR] == 3:
        return None
    return data[PNG_DEPTH]
