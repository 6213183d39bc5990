"""Pretrained encoder weights: from timm or from a file, every key of the encoder filled or a clear refusal."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from segkd.models.encoders import Encoder, encoder_spec
from segkd.registry import UserError

State = Mapping[str, Tensor]


def load_encoder_weights(encoder: Encoder, encoder_name: str, source: str, width: float = 1.0) -> None:
    """Fill ``encoder`` (still with three input channels) from ``source``.

    "imagenet": timm's network of the same layout. Otherwise a .safetensors or ``torch.save`` state dict with timm's or,
    for MobileNetV2, torchvision's names; a relative path is also looked up under $SEGKD_WEIGHTS. UserError: no such
    weights or file, keys that are missing, unexpected or of another shape.
    """
    spec = encoder_spec(encoder_name)
    if str(source) == "imagenet":
        state = _timm_state(encoder_name, spec.pretrained, width)
    else:
        state = _read_state(_find(source))
    if encoder_name == "mobilenet_v2":
        state = {_timm_key(key): value for key, value in state.items()}
    _fill(encoder, state, spec.unused, f"encoder_weights '{source}' for {encoder_name}")


def _timm_state(encoder_name: str, pretrained: str | None, width: float) -> State:
    if pretrained is None:
        raise UserError(
            f"encoder_weights 'imagenet': timm has none for {encoder_name} with the deep 64-64-128 stem; "
            "give a state-dict file with timm's names, or None"
        )
    if width != 1:
        raise UserError(f"encoder_weights 'imagenet': they fit width 1 only, not {width:g}; use encoder_weights=None")
    import timm

    try:
        return timm.create_model(pretrained, pretrained=True).state_dict()
    except Exception as error:  # hub, http and file errors share no base class
        raise UserError(
            f"encoder_weights 'imagenet': timm could not fetch '{pretrained}' ({type(error).__name__}); "
            "go online once or give a file (also looked up under $SEGKD_WEIGHTS)"
        ) from error


def _find(source: str) -> Path:
    places = [Path(source).expanduser()]
    if root := os.environ.get("SEGKD_WEIGHTS"):
        places.append(Path(root) / source)
    for place in places:
        if place.is_file():
            return place
    looked = " and ".join(map(str, places))
    raise UserError(f"encoder_weights '{source}': no file at {looked}; give None, 'imagenet' or a file")


def _read_state(path: Path) -> State:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise their own kinds on a broken file
        raise UserError(f"encoder_weights '{path}': cannot be read as a state dict ({type(error).__name__})") from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else None
    if state is None or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"encoder_weights '{path}': holds no state dict of tensors")
    return state


# torchvision: features.<n>.conv.<layer>; timm: blocks.<stage>.<n>.<layer>. Module 1 has no expansion, so fewer layers.
_STARTS = (1, 2, 4, 7, 11, 14, 17)  # first torchvision module of each timm stage
_FIRST = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
_OTHERS = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}


def _timm_key(key: str) -> str:
    """timm's name of a torchvision MobileNetV2 key; names that are not torchvision's pass as they are."""
    if stem := re.fullmatch(r"features\.0\.([01])\.(\w+)", key):
        return f"{('conv_stem', 'bn1')[int(stem[1])]}.{stem[2]}"
    match = re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)", key)
    if match is None:
        return key
    module = int(match[1])
    stage = sum(module >= start for start in _STARTS) - 1
    layers = _FIRST if module == 1 else _OTHERS
    return f"blocks.{stage}.{module - _STARTS[stage]}.{layers.get(match[2], match[2])}.{match[3]}"


def _fill(encoder: Encoder, state: State, unused: tuple[str, ...], what: str) -> None:
    own = encoder.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # absent from old files
    missing = [key for key in own if key not in state and key not in counters]
    surplus = [key for key in state if key not in own and not key.startswith(unused)]
    wrong = [key for key in own if key in state and state[key].shape != own[key].shape]
    for problem, keys in (("lacks", missing), ("has unexpected", surplus), ("has another shape for", wrong)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise UserError(f"{what} {problem} {', '.join(keys[:3])}{more}; give weights of this encoder and width")
    encoder.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)
