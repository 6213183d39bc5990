"""Files of weights: found, read safely, taken out of what training scripts file beside them, and named by content."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segkd.config import ROOT
from segkd.registry import UserError

State = Mapping[str, Tensor]
INPUTS = ("rgb", "bgr255")  # what a file may be said to expect: "bgr255:FILE"
# What wrappers put before all names: DataParallel and AveragedModel, torch.compile, Lightning, and loops of two networks.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "student.", "ema.")


def split_source(source: str) -> tuple[str | None, str]:
    """("bgr255", FILE) of "bgr255:FILE"; (None, source) where the input is not said."""
    said, colon, file = source.partition(":")
    return (said, file) if colon and said in INPUTS else (None, source)


def find_weights(source: str | Path, key: str) -> Path:
    """The file ``source``: as it is, in the checkout, or under $SEGKD_WEIGHTS. UserError naming the config's ``key``."""
    places = [Path(source).expanduser(), ROOT / source]
    if root := os.environ.get("SEGKD_WEIGHTS"):
        places.append(Path(root) / source)
    for place in places:
        if place.is_file():
            return place
    looked = " and ".join(dict.fromkeys(map(str, places)))
    choice = "None, 'imagenet' or a file" if key == "encoder_weights" else "a file that is there"
    raise UserError(f"{key} '{source}': no file at {looked}; give {choice}")


def read_state(source: str | Path, key: str = "weights") -> State:
    """The tensors of a safetensors file or of a ``torch.save``, told apart by content, without prefixes of `WRAPPERS`.

    They may lie bare or as the one state dict among other things (epoch, optimiser). Nothing in a file is ever run:
    pickles with code in them are refused. UserError, naming the config's ``key``: no such file, a broken one, one that
    holds something else or several state dicts.
    """
    path = find_weights(source, key)
    with path.open("rb") as file:
        begin = file.read(64)
        file.seek(0)
        try:
            if begin[8:9] == b"{":  # behind the length of its header
                from safetensors.torch import load_file

                found = load_file(path)
            else:
                found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # both readers raise their own kinds on a broken file
            why = f"cannot be read as a state dict ({type(error).__name__}); the file may be cut short"
            if isinstance(error, pickle.UnpicklingError):
                why = "is not a pickle of tensors alone, and nothing else in it is run; save model.state_dict() anew"
            if begin.strip() and begin.isascii() and b"\0" not in begin:
                why = f"is text, not weights (a web page, a pointer of Git LFS?): {begin.decode().split()[0]!r}..."
            raise UserError(f"{key} '{path}': {why}") from error
    return _unwrapped(found, f"{key} '{path}'")


def _unwrapped(found: Any, what: str) -> State:
    if not isinstance(found, Mapping):
        raise UserError(f"{what}: holds no state dict of tensors")
    parts = {str(name): part for name, part in found.items() if isinstance(part, Mapping) and _has_weights(part)}
    if len(parts) > 1:
        raise UserError(f"{what}: holds several state dicts ({', '.join(parts)}); save the one that is meant as a file of its own")
    inner = next(iter(parts.values()), found)
    state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor) and key != "n_averaged"}
    if not state:
        raise UserError(f"{what}: holds no state dict of tensors")
    while prefix := next((start for start in WRAPPERS if all(key.startswith(start) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _has_weights(part: Mapping) -> bool:
    """Whether a mapping is a network's and not an optimiser's, a random generator's or of scores."""
    return any(isinstance(value, Tensor) and value.ndim > 1 for value in part.values())


def fingerprint(state: State) -> str:
    """The layout of a state: SHA-256 over sorted names, shapes and dtypes, 16 hex digits. Equal for equal networks."""
    return _hash(f"{name} {tuple(value.shape)} {value.dtype}".encode() for name, value in sorted(state.items()))


def content_hash(state: State) -> str:
    """The layout and values of a state: SHA-256, 16 hex digits; the same however and wherever it is filed."""
    parts = (value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy() for _, value in sorted(state.items()))
    return _hash([fingerprint(state).encode(), *parts])


def _hash(parts) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def file_record(source: str, key: str = "weights") -> dict[str, str]:
    """What a run records of a file: its name, the fingerprint of its layout and the hash of its content."""
    state = read_state(split_source(source)[1], key)
    return {"file": Path(source).name, "layout": fingerprint(state), "content": content_hash(state)}
