"""Declared fields: type and range stand beside each one, and a value that does not fit is one line for the user."""

from __future__ import annotations

import functools
import math
import reprlib
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from segkd.registry import UserError, unknown


class That(NamedTuple):
    """A condition beside a type, as in ``Annotated[float, That(lambda x: x > 0, "> 0")]``, and its words."""

    holds: Callable[[Any], bool]
    words: str


Positive = Annotated[float, That(lambda x: x > 0, "> 0")]
NotNegative = Annotated[float, That(lambda x: x >= 0, ">= 0")]
Fraction = Annotated[float, That(lambda x: 0 <= x <= 1, "from 0 to 1")]
Momentum = Annotated[float, That(lambda x: 0 <= x < 1, ">= 0 and < 1")]
Count = Annotated[int, That(lambda x: x >= 1, ">= 1")]
Whole = Annotated[int, That(lambda x: x >= 0, ">= 0")]

hints_of = functools.lru_cache(functools.partial(get_type_hints, include_extras=True))  # asked for every row of every table


def fit_all(values: Mapping[str, Any], hints: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    """All values as their hints have them; an unknown name, called a ``kind``, is answered with the nearest one.

    A list becomes a tuple, a whole number a float, a mapping a dataclass. ``where``: what a name follows, "kd.", "a.yaml: ".
    """
    for key in values:
        if key not in hints:
            raise unknown(f"{kind} of {where.rstrip('.: ')}:", key, hints)
    return {key: _fit(value, hints[key], f"{where}{key}") for key, value in values.items()}


def _fit(value: Any, hint: Any, where: str) -> Any:
    made = next((option for option in _options(hint) if is_dataclass(option)), None)
    if made and isinstance(value, Mapping):
        return made(**fit_all(value, hints_of(made), "key", f"{where}."))
    return check(value, hint, where)


def check(value: Any, hint: Any, where: str) -> Any:
    """``value`` as ``hint`` has it, or UserError with ``where``, what is allowed and what was found.

    A boolean is no number, and a number is finite.
    """
    for option in _options(hint):
        with suppress(ValueError, OverflowError):
            return _as(value, option)
    if isinstance(value, str) and _parts(hint)[0] is Literal:
        raise unknown(f"{where}:", value, map(str, _parts(hint)[1]))
    raise UserError(f"{where}: expected {words(hint)}, got {reprlib.repr(value)}")


_parts = functools.lru_cache(lambda hint: (get_origin(hint), get_args(hint)))


def _options(hint: Any) -> tuple:
    origin, inner = _parts(hint)
    return inner if origin in (types.UnionType, Union) else (hint,)


def _as(value: Any, hint: Any) -> Any:
    """The same for one of a hint's options, without words: ValueError."""
    origin, inner = _parts(hint)
    if origin is Annotated:
        value = _as(value, inner[0])
        good = all(that.holds(value) for that in inner[1:])
    elif origin is Literal:
        good = any(value == one and type(value) is type(one) for one in inner)
    elif origin in (tuple, list):
        kinds = inner if origin is tuple or not isinstance(value, (list, tuple)) else inner * len(value)
        good = isinstance(value, (list, tuple)) and len(value) == len(kinds)
        for one, kind in zip(value if good else (), kinds):
            _as(one, kind)  # a whole number in it stays one: it is part of a run's id
        value = tuple(value) if good and origin is tuple else value
    elif hint in (float, int):
        good = isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        value = hint(value) if good else value
    else:
        good = hint is Any or isinstance(value, origin or hint)
    if not good:
        raise ValueError
    return value


def words(hint: Any) -> str:
    """A type and its range as a user reads it: ``(int >= 1, int >= 1) or None``."""
    origin, inner = _parts(hint)
    if origin is Annotated:
        return " ".join([words(inner[0]), *(that.words for that in inner[1:])])
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inner))
    if len(_options(hint)) > 1:
        return " or ".join(map(words, inner))
    if origin in (tuple, list):
        return ("({})" if origin is tuple else "list of {}").format(", ".join(map(words, inner)))
    return "None" if hint is type(None) else "a mapping" if is_dataclass(hint) else getattr(origin or hint, "__name__", str(hint))
