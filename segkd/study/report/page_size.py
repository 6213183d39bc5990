"""Keep a page small: where it is above the limit, its pictures are encoded anew, then made smaller, until it fits."""

from __future__ import annotations

import base64
import io
import re

from segkd.registry import UserError

LIMIT = 3_000_000  # bytes of a page
STEPS = ((90, 4000), (80, 1600), (75, 1200), (65, 900), (50, 640))  # (WebP quality, largest side in pixels)
PICTURE = re.compile(r"data:image/(?:png|jpeg|webp);base64,([A-Za-z0-9+/=]+)")


def fit(body: str, name: str, limit: int = LIMIT) -> str:
    """The page's text, its pictures as they are if it is within ``limit`` bytes, else no smaller than needed.

    UserError: even the smallest pictures do not bring it there.
    """
    if len(body.encode()) <= limit:
        return body
    for quality, side in STEPS:
        found = PICTURE.sub(lambda match: smaller(match[0], quality, side), body)
        if len(found.encode()) <= limit:
            return found
    size = len(found.encode()) / 1e6
    raise UserError(f"page {name} has {size:.1f} MB with its pictures at {side} pixels, at most {limit / 1e6:g} are allowed: split it")


def smaller(picture: str, quality: int, side: int) -> str:
    """A picture (data address) as WebP with no side above ``side`` pixels; as it was if that is not less."""
    address = webp(base64.b64decode(PICTURE.fullmatch(picture)[1]), quality, side)
    return min(address, picture, key=len)


def webp(data: bytes, quality: int, side: int) -> str:
    """The bytes of a picture as a WebP data address, on white where it is transparent."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    flat.thumbnail((side, side))
    buffer = io.BytesIO()
    flat.save(buffer, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
