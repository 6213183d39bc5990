"""Weights from files and from timm: found, read safely, named by content, and every key of an encoder filled."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from segkd.config import ROOT
from segkd.models.backbone import Encoder
from segkd.models.encoders import ENCODERS, encoder_spec
from segkd.models.fit import Candidate, fill, nearest
from segkd.models.imagenet import imagenet_state
from segkd.models.naming import PATCHES, Normalisation, State, encoder_state, split_source
from segkd.registry import UserError

WRAPPERS = ("state_dict", "model")  # names under which training scripts file the weights
# of the first convolution at width 1
FIRST_CHANNELS = {"conv1.0.weight": 64, "conv_stem.weight": 32, "conv1.weight": 64, "stem.0.0.weight": 32}
DINOV2_CHANNELS = (384, 768)  # likewise; narrower ones do not tell ViT-S from ViT-B


def load_encoder_weights(encoder: Encoder, encoder_name: str, source: str, width: float = 1.0) -> Normalisation:
    """Fill ``encoder`` (still with three input channels) from ``source``; returns the normalisation that it expects.

    "imagenet": see `segkd.models.imagenet`. Otherwise a file (see `read_state`) in one of the layouts of `encoder_state`, "rgb:FILE" or "bgr255:FILE" to say what it expects. Weights for BGR are turned round, so images stay
    RGB in [0, 1]. UserError: no such weights or file, keys that are missing, unexpected or of another shape.
    """
    spec, what = encoder_spec(encoder_name), f"encoder_weights '{source}' for {encoder_name}"
    said, file = split_source(str(source))
    read = partial(read_state, key="encoder_weights")
    state = imagenet_state(encoder_name, spec.pretrained, width, read) if file == "imagenet" else read(file)
    found = encoder_state(state, encoder_name, said, what, spec.input)
    fill(encoder, found.state, spec.unused + found.unused, what, lambda: _advice(state, said, width))
    return found.normalisation


def _advice(state: State, said: str | None, width: float) -> str:
    """What to give instead: the networks whose encoder the weights do fit."""
    from segkd.models.segmenter import list_models  # which is built on this file

    candidates = []
    for name, spec in ENCODERS.items():
        try:
            found = encoder_state(state, name, said or "rgb", "")
        except UserError:  # another stem
            continue
        if spec.first not in found.state:
            continue
        for scale in sorted({1.0, width, *guess_width(found.state)}):
            build, text = partial(spec.build, scale, 8), name if scale == 1 else f"{name} at width {scale:g}"
            candidates.append(Candidate(text, build, found.state, spec.unused + found.unused))
    best, misfits = nearest(candidates)
    if best is None or misfits:
        return "give weights of this encoder and width; no network of list_models() has such an encoder"
    networks = [name for name in list_models() if name.split("/")[1] == best.name.split()[0]]
    return f"the weights fit {best.name}, encoder of {', '.join(networks)}"


def guess_width(state: State, prefix: str = "") -> list[float]:
    """The width that the first convolution speaks of, where there is one (empty otherwise)."""
    found = [len(state[prefix + key]) / full for key, full in FIRST_CHANNELS.items() if prefix + key in state]
    found += [1.0] * (len(state.get(prefix + PATCHES, ())) in DINOV2_CHANNELS)
    return [width for width in found if 0 < width <= 4]


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
    """The tensors of a .safetensors file or of a ``torch.save`` of a state dict (bare, or as "state_dict" or "model").

    Nothing in a file is ever run: pickles with code in them are refused. UserError, naming the config's ``key``: no such
    file, a broken one, one that holds something else.
    """
    path = find_weights(source, key)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise their own kinds on a broken file
        why = f"cannot be read as a state dict ({type(error).__name__}); the file may be cut short"
        if isinstance(error, pickle.UnpicklingError):
            why = "is not a pickle of tensors alone, and nothing else in it is run; save model.state_dict() anew"
        raise UserError(f"{key} '{path}': {why}") from error
    state = next((state[name] for name in WRAPPERS if name in state), state) if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{key} '{path}': holds no state dict of tensors")
    return state


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


def describe(source: str, key: str = "weights") -> dict[str, str]:
    """What a run records of a file: its name, the fingerprint of its layout and the hash of its content."""
    state = read_state(split_source(source)[1], key)
    return {"file": Path(source).name, "layout": fingerprint(state), "content": content_hash(state)}
