"""Maps out of what networks hold: channels first, channels last, or tokens in a row."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from segkd.registry import UserError


def as_map(tensor: Tensor, layout: str, grid: tuple[int, int] | None = None) -> Tensor:
    """A map (B, C, h, w) from a tensor of a `layout_of`; ``grid`` (h, w) of tokens, of which the last h*w count."""
    if layout == "tokens":
        tokens, (height, width) = tensor.shape[1], grid
        if height * width > tokens:
            raise UserError(f"adapt: {tokens} tokens are fewer than the grid {height}x{width} has")
        return tensor[:, tokens - height * width :].transpose(1, 2).unflatten(2, (height, width))
    return tensor.permute(0, 3, 1, 2) if layout == "channels last" else tensor


def layout_of(tensor: Tensor, what: str, linear: bool, size: tuple[int, int]) -> str:
    """``map``, ``channels last`` or ``tokens``: what a tensor called ``what`` is on an image of ``size`` (H, W).

    A Linear layer (``linear``) gives its channels last; elsewhere the sides tell, as a grid is the image under a stride.
    """
    if tensor.ndim == 3:
        return "tokens"
    if tensor.ndim != 4:
        shape = tuple(tensor.shape)
        raise UserError(f"adapt: {what} has shape {shape}; it must be (B, C, h, w), (B, h, w, C) or (B, N, C)")
    first, last = (shape in set(_grids(*size)) for shape in (tuple(tensor.shape[2:]), tuple(tensor.shape[1:3])))
    return "channels last" if linear or (last and not first) else "map"


def _grids(height: int, width: int) -> list[tuple[int, int]]:
    """Grids of an image under whole strides, sides rounded up, then down."""
    strides = range(1, max(height, width) + 1)
    up = [(-(-height // s), -(-width // s)) for s in strides]
    return up + [(max(1, height // s), max(1, width // s)) for s in strides]


@lru_cache(maxsize=64)
def token_grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Grid (h, w) of tokens on an image (height, width): its sides over one stride, with at most one class token.

    UserError where no stride fits.
    """
    for extra in (0, 1):
        for rows, columns in _grids(height, width):
            if rows * columns == tokens - extra:
                return rows, columns
    raise UserError(
        f"adapt: {tokens} tokens are no grid of a {height}x{width} image; give grid=(tokens, height, width) -> (h, w)"
    )
