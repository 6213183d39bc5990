"""Decoding: what is right comes out bit for bit, everything else is refused with the file's name and the remedy."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from segkd import decode as files
from segkd.registry import UserError

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = RGB[..., 0].copy()


def encoded(picture, kind="PNG", **options):
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def png(width, height, depth, colour, rows=b"", palette=b""):
    """A PNG by its parts, of any bit depth; ``rows`` are packed rows without filter bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    step = len(rows) // height if height and rows else 0
    lines = b"".join(b"\0" + rows[step * row : step * (row + 1)] for row in range(height)) if rows else b""
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body += chunk(b"PLTE", palette) if palette else b""
    return files.PNG_HEAD + body + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def palette_picture():
    picture = Image.fromarray(GREY % 4)
    picture.putpalette(bytes(range(12)))
    return picture


def test_images_bit_for_bit_and_grey_palette_and_opaque_ones_as_rgb():
    for kind, options in {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}}.items():
        np.testing.assert_array_equal(files.decode_image(encoded(RGB, kind, **options), "x"), RGB)
    np.testing.assert_array_equal(files.decode_image(encoded(GREY), "x"), np.stack([GREY] * 3, -1))
    np.testing.assert_array_equal(files.decode_image(encoded(np.dstack([RGB, np.full((6, 8), 255, np.uint8)])), "x"), RGB)
    want = np.array(range(12), np.uint8).reshape(4, 3)[GREY % 4]
    np.testing.assert_array_equal(files.decode_image(encoded(palette_picture()), "x"), want)
    jpeg = encoded(GREY, "JPEG")
    np.testing.assert_array_equal(files.decode_image(jpeg, "x")[..., 1], np.asarray(Image.open(io.BytesIO(jpeg))))


@pytest.mark.parametrize("depth, kind", [(1, 0), (2, 0), (4, 0), (8, 0), (1, 3), (2, 3), (4, 3), (8, 3)])
def test_masks_of_any_depth_keep_their_numbers(depth, kind):
    """Grey of 2 and 4 bits is stretched to 0..255 by image libraries: the class numbers must not be."""
    values = np.arange(24).reshape(3, 8) % 2**depth
    bits = (values[..., None] >> np.arange(depth - 1, -1, -1) & 1).reshape(3, -1)
    data = png(8, 3, depth, kind, np.packbits(bits, 1).tobytes(), bytes(range(3 * 2**depth % 256)) if kind == 3 and depth < 8 else
               np.random.default_rng(0).bytes(768) if kind == 3 else b"")  # fmt: skip
    got = files.decode_mask(data, "m.png")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, values)


def test_palette_masks_are_read_as_indices_and_as_colours():
    data = encoded(palette_picture())
    np.testing.assert_array_equal(files.decode_mask(data, "m", palette=True), GREY % 4)
    np.testing.assert_array_equal(files.decode_colours(data, "m"), np.array(range(12), np.uint8).reshape(4, 3)[GREY % 4])


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_a_noted_turn_of_one_is_none_and_published_sets_are_read_as_stored():
    np.testing.assert_array_equal(files.decode_image(encoded(RGB, exif=turned(1)), "x"), RGB)
    np.testing.assert_array_equal(files.decode_image(encoded(RGB, exif=turned(6)), "x", as_stored=True), RGB)


def broken_bytes(data, at):
    return data[:at] + bytes(8) + data[at + 8 :]


NOISE = np.random.default_rng(1).integers(0, 256, (60, 60, 3), dtype=np.uint8)
BAD_EITHER = {
    "empty": (b"", "x.png is empty: get it again"),
    "text": (b"<html>not found</html>", "x.png cannot be read"),
    "cut off": (encoded(NOISE)[:5000], "x.png cannot be read"),
    "damaged": (broken_bytes(encoded(NOISE), 3000), "x.png cannot be read"),
    "another format": (encoded(palette_picture(), "GIF"), "x.png cannot be read"),
    "16-bit grey": (encoded(Image.fromarray(GREY.astype(np.uint16) * 256)), "x.png has 16 bits or more a channel: save it"),
    "16-bit colours": (png(2, 2, 16, 2, bytes(24)), "x.png has 16 bits or more a channel"),
    "pages": (encoded(GREY, "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]), "x.png holds 2 pictures .pages or an"),
    "animation": (encoded(GREY, save_all=True, append_images=[Image.fromarray(255 - GREY)]), "x.png holds 2 pictures"),
    "turned": (encoded(GREY, exif=turned(6)), "x.png is to be shown turned .EXIF orientation 6.*exif_transpose"),
    "mirrored": (encoded(GREY, "TIFF", exif=turned(2)), "x.png is to be shown turned .EXIF orientation 2"),
    "float": (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "x.png has 16 bits or more a channel"),
    "bomb": (png(9460, 9460, 8, 0), "x.png is too large .*cut it into pieces of at most 89478485"),
    "huge bomb": (png(100_000, 100_000, 1, 0), "x.png is too large"),
}  # fmt: skip
BAD_IMAGE = {
    "cut off jpeg": (encoded(NOISE, "JPEG")[:1500], "x.png cannot be read"),
    "a fourth band": (encoded(Image.fromarray(RGB).convert("RGBX"), "TIFF"), "x.png has 4 bands, of which RGB would be read"),
    "cmyk": (encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "x.png has the colour space CMYK: convert it to RGB"),
    "lab": (encoded(Image.fromarray(RGB).convert("LAB"), "TIFF"), "x.png has the colour space LAB"),
    "see-through": (encoded(np.dstack([RGB, GREY])), "x.png has see-through pixels"),
}  # fmt: skip
BAD_MASK = {
    "rgb": (encoded(RGB), "x.png holds RGB colours where class numbers are due: save it as an index PNG"),
    "rgba": (encoded(np.dstack([RGB, GREY])), "x.png holds RGBA colours where class numbers are due"),
    "grey with alpha": (encoded(Image.fromarray(GREY).convert("LA")), "x.png holds LA colours"),
    "cmyk": (encoded(Image.fromarray(RGB).convert("CMYK"), "TIFF"), "x.png holds CMYK colours"),
    "jpeg": (encoded(GREY, "JPEG"), "x.png is a JPEG, which changes class numbers"),
}


BAD_COLOURS = {
    "cmyk": (encoded(Image.fromarray(RGB).convert("CMYK"), "TIFF"), "x.png has the colour space CMYK"),
    "see-through": (encoded(np.dstack([RGB, GREY])), "x.png has see-through pixels"),
    "jpeg": (encoded(RGB, "JPEG"), "x.png is a JPEG, which changes colours"),
}
CASES = [
    pytest.param(decode, *case, id=f"{decode.__name__[7:]}: {what}")
    for decode, cases in ((files.decode_image, BAD_IMAGE), (files.decode_mask, BAD_MASK), (files.decode_colours, BAD_COLOURS))
    for what, case in (BAD_EITHER | cases).items()
]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("decode, data, message", CASES)
def test_bad_files_are_refused_by_name(decode, data, message):
    with pytest.raises(UserError, match=message) as caught:
        decode(data, "x.png")
    assert "\n" not in str(caught.value)


def test_a_palette_is_asked_for_and_sizes_that_differ():
    with pytest.raises(UserError, match="m.png has no palette: say that the masks hold `index`"):
        files.decode_mask(encoded(GREY), "m.png", palette=True)
    files.check_sizes(RGB, GREY, "a.jpg", "a.png")
    with pytest.raises(UserError, match=r"a.jpg is \(6, 8\) .H, W. but its mask a.png is \(8, 6\)"):
        files.check_sizes(RGB, GREY.T, "a.jpg", "a.png")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=300)
@given(st.data())
def test_damaged_files_give_user_errors_or_arrays(data):
    """No byte pattern makes anything but a UserError of one line or an array of the right kind."""
    kinds = [(RGB, "PNG"), (RGB, "JPEG"), (RGB, "WEBP"), (RGB, "BMP"), (RGB, "TIFF"), (GREY, "PNG"), (palette_picture(), "PNG")]
    content = bytearray(encoded(*data.draw(st.sampled_from(kinds))))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    for decode, dimensions in ((files.decode_image, 3), (files.decode_mask, 2), (files.decode_colours, 3)):
        try:
            array = decode(content, "x")
        except UserError as error:
            assert "\n" not in str(error) and str(error).startswith("x ")
        else:
            assert array.dtype == np.uint8 and array.ndim == dimensions


def mat(content):
    out = io.BytesIO()
    savemat(out, content)
    return out.getvalue()


def test_mat_files():
    raw = np.arange(6, dtype=np.uint16).reshape(1, 6) * 90
    np.testing.assert_array_equal(files.decode_mat(mat({"S": raw, "T": 1}), "a.mat", "S"), raw)
    np.testing.assert_array_equal(files.decode_mat(mat({"G": {"L": raw}}), "a.mat", "G", "L"), raw)


@pytest.mark.parametrize("data, message", [
    (b"", "a.mat cannot be read"), (b"x" * 300, "a.mat cannot be read"), (mat({"T": 1}), "a.mat cannot be read .KeyError"),
    (mat({"S": np.zeros((90, 90))})[:300], "a.mat cannot be read"),
    (mat({"S": np.zeros((2, 2))}), r"a.mat: S is float64 \(2, 2\), not integers"),
    (mat({"S": np.zeros((2, 2, 2), np.uint8)}), r"a.mat: S is uint8 \(2, 2, 2\)"), (mat({"S": "text"}), "a.mat: S is"),
])  # fmt: skip
def test_bad_mat_files(data, message):
    with pytest.raises(UserError, match=message) as caught:
        files.decode_mat(data, "a.mat", "S")
    assert "\n" not in str(caught.value)
