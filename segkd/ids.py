"""Raw mask values and colours to train ids: a table per data set, in which a value that nobody declared is an error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from segkd.metrics import IGNORE
from segkd.registry import UserError

Colour = tuple[int, int, int]
CODE = (65536, 256, 1)  # a colour as one number: its product with this


class IdMap:
    """``ids[n]`` is the raw value of train id n, ``void`` are raw values for 255, ``rest`` the train id of all others.

    Without ``rest`` a value that is in neither is an error. There are 1 to 255 classes; no value may be given twice.
    """

    def __init__(self, ids: Sequence[int], void: Sequence[int] = (), rest: int | None = None):
        self.ids, self.void, self.rest = tuple(ids), tuple(void), rest
        known = _distinct((*self.ids, *self.void), len(self.ids))
        # One entry more than values: it stands for everything beyond, below zero included (index -1 is the last).
        self._table = np.full(max(max(known) + 2, 256), -1 if rest is None else rest, np.int16)
        self._table[list(self.void)] = IGNORE
        self._table[list(self.ids)] = np.arange(len(self.ids))

    def __call__(self, raw: np.ndarray, where: str) -> np.ndarray:
        """Train ids uint8 (H, W) of the raw integers ``raw`` (H, W); UserError that names ``where`` and the value."""
        index = raw if raw.dtype == np.uint8 else np.clip(raw.astype(np.int64), -1, len(self._table) - 1)
        label = self._table[index]
        wrong = label < 0
        if wrong.any():
            raise UserError(
                f"{where} holds the label {raw[wrong][0]} in {np.count_nonzero(wrong)} pixels: classes are "
                f"{format_ranges(self.ids)}, void is {format_ranges(self.void) or 'none'}; is it this set's mask?"
            )
        return label.astype(np.uint8)


class ColourMap:
    """The same for masks whose colours are the classes: ``ids[n]`` is the colour of train id n, ``void`` are ignored."""

    def __init__(self, ids: Sequence[Colour], void: Sequence[Colour] = ()):
        self.ids, self.void = tuple(ids), tuple(void)
        codes = np.array(_distinct([int(np.dot(colour, CODE)) for colour in (*self.ids, *self.void)], len(self.ids)))
        order = np.argsort(codes)
        self._codes = codes[order]
        self._ids = np.array([*range(len(self.ids)), *[IGNORE] * len(self.void)], np.uint8)[order]

    def __call__(self, colours: np.ndarray, where: str) -> np.ndarray:
        """Train ids uint8 (H, W) of RGB ``colours`` uint8 (H, W, 3); UserError that names ``where`` and the colour."""
        codes = colours.astype(np.int64) @ CODE
        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        wrong = self._codes[places] != codes
        if wrong.any():
            raise UserError(
                f"{where} holds the colour #{codes[wrong][0]:06x} in {np.count_nonzero(wrong)} pixels, which is no class's: "
                "add it to `classes` or to `ignore`"
            )
        return self._ids[places]


def format_ranges(numbers: Iterable[int]) -> str:
    """(0, 1, 2, 5) -> "0-2 5", sorted; see `sets.parse_ranges`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if not runs or number > runs[-1][-1] + 1:
            runs.append([])
        runs[-1].append(number)
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _distinct(values: Sequence[int], classes: int) -> Sequence[int]:
    """``values`` if each is there once, none is below zero and they hold 1 to 255 classes."""
    if len(set(values)) != len(values):
        doubled = next(value for value in values if list(values).count(value) > 1)
        raise UserError(f"the mask value {doubled} (colour #{doubled:06x}) is given twice: one value, one class (without `value` the classes hold 0, 1, 2 ...)")
    if not 1 <= classes <= IGNORE or min(values) < 0:
        raise UserError(f"{classes} classes, smallest value {min(values, default=None)}: 1 to {IGNORE} classes, none below 0")
    return values
