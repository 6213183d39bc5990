"""The tables of encoders and networks: each encoder's own file fills them (`register`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from segkd.models.encoders.base import Encoder
from segkd.models.heads.base import Head
from segkd.models.images import IMAGENET, Normalisation
from segkd.models.weights import State
from segkd.registry import Registry


class Package(NamedTuple):
    """A distribution of the package index that holds one file of weights (Apache 2.0), and what its pinned version has."""

    name: str
    version: str
    file: str
    sha256: str


@dataclass(frozen=True)
class EncoderSpec:
    """How an encoder is built, which heads go on it, and what is known of its weights.

    ``build(width, output_stride)``; ``heads``: {arch: (head, width)}, the width of its feature at
    width 1, None as the head has it from the encoder's maps; ``aux``: whether its networks
    have an auxiliary head (in the papers: those with a ResNet). Of weights: ``pretrained``: timm's network of the same
    layout; ``package``: an installable one; ``unused``: prefixes of keys beyond the encoder (a classifier's); ``input``:
    what they read unless they say otherwise; ``renamed(state, what)``: a state under our names, and whether it is the
    CIRKD family's, which reads BGR in 0-255.
    """

    build: Callable[[float, int], Encoder]
    heads: Mapping[str, tuple[type[Head], int | None]]
    aux: bool
    pretrained: str | None = None
    package: Package | None = None
    unused: tuple[str, ...] = ()
    input: Normalisation = IMAGENET
    renamed: Callable[[State, str], tuple[State, bool]] = lambda state, what: (state, False)


ENCODERS: Registry[EncoderSpec] = Registry("encoder")
NETWORKS: Registry[tuple[type[Head], int | None]] = Registry("network")  # (head, width), by "arch/encoder"


def register(name: str, spec: EncoderSpec) -> None:
    """File an encoder under ``name`` and its networks under ``arch/name``."""
    ENCODERS.register(name)(spec)
    for arch, row in spec.heads.items():
        NETWORKS.register(f"{arch}/{name}")(row)
