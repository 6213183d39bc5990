"""Whole networks from files: which network of `list_models` a checkpoint is, and filling one to the last key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

from segkd.models.encoders import ENCODERS
from segkd.models.fit import Candidate, fill, nearest
from segkd.models.naming import FIRST, PATCHES, State, network_state
from segkd.models.segmenter import Segmenter, create_model, list_models
from segkd.models.weights import content_hash, find_weights, guess_width, read_state
from segkd.registry import UserError


@dataclass(frozen=True)
class Identity:
    """Which network a checkpoint holds: ``name`` as in `list_models`, width, classes and input channels; ``content``."""

    name: str
    width: float
    classes: int
    in_channels: int
    content: str


def load_network(model: Segmenter, source: str, content: str) -> None:
    """Fill a whole network, normalisation included, from a file in our own or the CIRKD family's layout.

    ``content``: the file's `content_hash`, so that another file under the same name is noticed. UserError: that, or no
    such file, or keys that are missing, unexpected or of another shape.
    """
    state = read_checkpoint(source, content)
    what, encoder = f"checkpoint '{source}' for {model.info.name}", model.info.name.split("/")[1].split("-w")[0]
    fill(model, network_state(state, encoder, what), (), what, lambda: _advice(state))


def read_checkpoint(source: str, content: str) -> State:
    """The state of a checkpoint whose content must be ``content``."""
    state = read_state(source, "checkpoint")
    found = content_hash(state)
    if found != content:
        now = f"is now {found}, not {content}" if content else f"is {found}"
        raise UserError(f"checkpoint '{source}': its content {now}; give the config checkpoint_hash='{found}' if it is meant")
    return state


def identify(source: str) -> Identity:
    """The network that a checkpoint fits wholly; UserError if none of `list_models` does, with the nearest one."""
    about = find_weights(source, "checkpoint").stat()
    return _identify(source, about.st_mtime_ns, about.st_size)


@lru_cache  # every page of a report opens several studies
def _identify(source: str, changed: int, size: int) -> Identity:
    state = read_state(source, "checkpoint")
    best, misfits = _nearest_network(state)
    if best is None or misfits:
        near = f"beside {best.name} it {misfits}" if best else "it has no encoder and head in a layout that is known"
        raise UserError(
            f"checkpoint '{source}' is no network of list_models(): {near}; give a whole network as runs write it "
            "(model.safetensors) or one of the CIRKD family's, with the papers' head widths"
        )
    classes = len(best.state["head.classifier.weight"])
    return Identity(best.name, guess_width(best.state, "encoder.")[0], classes, _in_channels(best.state), content_hash(state))


def _advice(state: State) -> str:
    best, misfits = _nearest_network(state)
    if best is None or misfits:
        return "no network of list_models() has these keys and shapes"
    width, classes = guess_width(best.state, "encoder.")[0], len(best.state["head.classifier.weight"])
    return f"the file holds {best.name} at width {width:g}: {classes} classes, {_in_channels(best.state)} input channels"


def _nearest_network(state: State) -> tuple[Candidate | None, str]:
    """First the encoder, then the head on it: as wide and with as many classes and channels as the state speaks of."""
    encoder, _ = nearest(_encoders(state))
    if encoder is None:
        return None, ""
    found = network_state(state, encoder.name, "")
    options = {
        "in_channels": _in_channels(found), "classes": len(found["head.classifier.weight"]),
        "width": guess_width(found, "encoder.")[0],
    }  # fmt: skip
    names = [name for name in list_models() if name.split("/")[1] == encoder.name]
    return nearest(Candidate(name, partial(create_model, *name.split("/"), **options), found) for name in names)


def _encoders(state: State) -> Iterator[Candidate]:
    for name, spec in ENCODERS.items():
        try:
            found = network_state(state, name, "")
        except UserError:  # another stem
            continue
        widths = guess_width(found, "encoder.")
        if "head.classifier.weight" in found and f"encoder.{spec.first}" in found and widths:
            own = {key.removeprefix("encoder."): value for key, value in found.items() if key.startswith("encoder.")}
            yield Candidate(name, partial(spec.build, widths[0], 8), own)


def _in_channels(state: State) -> int:
    return max(3, *(state[key].shape[1] for key in (f"encoder.{name}" for name in (*FIRST, PATCHES)) if key in state))
