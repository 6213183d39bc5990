"""State dicts into encoders and whole networks: others' names and inputs are brought to ours, all keys filled or none."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segkd.models.encoders.base import Encoder
from segkd.models.imagenet import imagenet_state
from segkd.models.images import BGR255, IMAGENET, Normalisation
from segkd.models.weights import State, content_hash, read_state, split_source
from segkd.models.zoo import ENCODERS
from segkd.registry import UserError

RAW_VARIANCE = 60.0  # between about 1 (inputs of variance 1; 1.09 in MobileNetV2's weights) and 57^2 (0-255)
SHOWN = 3  # keys of each kind that an error names
ADAPTER = ".lora_"  # in names of peft's adapters


class Converted(NamedTuple):
    """A state under our names, for RGB input: the normalisation that it expects, and prefixes that no encoder has."""

    state: State
    normalisation: Normalisation
    unused: tuple[str, ...] = ()


def load_encoder_weights(encoder: Encoder, encoder_name: str, source: str, width: float = 1.0) -> Normalisation:
    """Fill ``encoder`` (still with three input channels) from ``source``; returns the normalisation that it expects.

    "imagenet": see `segkd.models.imagenet`. Otherwise a file (see `read_state`) in a layout of `encoder_state`, or
    "rgb:FILE", "bgr255:FILE" to say what it expects. UserError: no such weights or file, or a misfit (see `fill`).
    """
    what, (said, file) = f"encoder_weights '{source}' for {encoder_name}", split_source(str(source))
    state = imagenet_state(encoder_name, width) if file == "imagenet" else read_state(file, "encoder_weights")
    found = encoder_state(state, encoder, encoder_name, said, what)
    fill(encoder, found.state, what, ENCODERS.get(encoder_name).unused + found.unused)
    return found.normalisation


def load_network(model: nn.Module, source: str, content: str) -> None:
    """Fill a whole network, normalisation included, from a file in our own or the CIRKD family's layout.

    ``content``: the file's `content_hash`, so that another file under the same name is noticed. UserError: that, or no
    such file, or a misfit (see `fill`).
    """
    state, what = read_checkpoint(source, content), f"checkpoint '{source}' for {model.info.name}"
    fill(model, network_state(state, model, what), what)


def read_checkpoint(source: str, content: str) -> State:
    """The state of a checkpoint whose content must be ``content``."""
    state = read_state(source, "checkpoint")
    found = content_hash(state)
    if found != content:
        now = f"is now {found}, not {content}" if content else f"is {found}"
        raise UserError(f"checkpoint '{source}': its content {now}; give the config checkpoint_hash='{found}' if it is meant")
    return state


def encoder_state(state: State, encoder: Encoder, encoder_name: str, said: str | None, what: str) -> Converted:
    """The encoder's part of a state in any known layout; keys beyond it stay as they are.

    Known: our own whole networks, the CIRKD family's, and what the encoder's own file knows (`EncoderSpec.renamed`).
    Weights for BGR are turned round, so images stay RGB in [0, 1]. ``said``: "rgb" or "bgr255" where the user knows
    better than the layout what the weights expect.
    """
    if any(key.startswith("encoder.") for key in state):
        names = {key.removeprefix("encoder."): value for key, value in state.items()}
        return Converted(names, _own_normalisation(state), ("head.", "aux_head.", "detail_head.", "mean", "std"))
    spec, whole = ENCODERS.get(encoder_name), any(key.startswith("pretrained.") for key in state)
    names = {re.sub(r"^(pretrained\.)?(net\.(?=features))?", "", key): value for key, value in state.items()}
    names, family = spec.renamed(names, what)
    first, variance = _first_layers(encoder)
    if said is None and not (whole or family) and _saw_raw_images(names.get(first), names.get(variance)):
        raise UserError(
            f"{what}: its first batch norm has seen images in 0-255, not normalised RGB; say what it expects: "
            "'bgr255:FILE' (BGR minus the mean, as CIRKD's weights) or 'rgb:FILE'"
        )
    unused = ("head.", "auxlayer.") if whole else ()
    if (said or ("bgr255" if whole or family else "rgb")) == "rgb":
        return Converted(names, spec.input, unused)
    return Converted({key: value.flip(1) if key == first else value for key, value in names.items()}, BGR255, unused)


def network_state(state: State, model: nn.Module, what: str) -> State:
    """A whole network's state under our names, normalisation included; the CIRKD family's networks are renamed."""
    inner = {key: value for key, value in state.items() if key.startswith("pretrained.")}
    if not inner or not isinstance(model.encoder, Encoder):
        return state
    encoder = encoder_state(inner, model.encoder, model.encoder.name, None, what)
    found = {f"encoder.{key}": value for key, value in encoder.state.items()}
    for key in state.keys() - inner.keys():
        start = next((old for old in model.head.cirkd if key.startswith(old)), "")
        found[model.head.cirkd.get(start, "") + key.removeprefix(start)] = state[key]
    return found | {key: torch.tensor(getattr(encoder.normalisation, key)).view(1, 3, 1, 1) for key in ("mean", "std")}


def fill(module: nn.Module, state: State, what: str, unused: tuple[str, ...] = ()) -> None:
    """Load ``state`` into ``module``, every key of it (see `check_fit`), or nothing."""
    check_fit(module, state, what, unused)
    own = module.state_dict()
    module.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)


def check_fit(module: nn.Module, state: State, what: str, unused: tuple[str, ...] = ()) -> None:
    """UserError for keys that are missing, unexpected (unless they begin as ``unused``) or of another shape, and for NaN.

    Counters of batch norms may be missing, and adapters, if none of them is there (weights of before they came).
    """
    own = module.state_dict()
    adapted = any(ADAPTER in key for key in state)
    optional = {key for key in own if key.endswith("num_batches_tracked") or (ADAPTER in key and not adapted)}
    both = [key for key in own if key in state]
    problems = {
        "lacks": [key for key in own if key not in state and key not in optional],
        "has unexpected": [key for key in state if key not in own and not key.startswith(unused)],
        "has another shape for": [
            f"{key} {tuple(state[key].shape)} where {tuple(own[key].shape)} is needed"
            for key in both if state[key].shape != own[key].shape
        ],
    }  # fmt: skip
    if found := [f"{problem} {_few(keys)}" for problem, keys in problems.items() if keys]:
        raise UserError(f"{what} {'; '.join(found)}")
    if bad := [key for key in both if state[key].is_floating_point() and not state[key].isfinite().all()]:
        raise UserError(f"{what} has NaN or infinite values in {_few(bad)}; its training had failed, give an earlier file")


def _few(keys: list[str]) -> str:
    """The first keys, under what the others lie, and how many there are."""
    under = ", ".join(dict.fromkeys(key.split(".")[0] + "." for key in keys))
    more = f" and {len(keys) - SHOWN} more under {under}" if len(keys) > SHOWN else ""
    return f"{', '.join(keys[:SHOWN])}{more} ({len(keys)})"


def _own_normalisation(state: State) -> Normalisation:
    if not {"mean", "std"} <= set(state):
        return IMAGENET
    return Normalisation(*(tuple(state[key].flatten()[:3].tolist()) for key in ("mean", "std")))


def _first_layers(encoder: Encoder) -> tuple[str, str]:
    """Names of the first convolution's weight and of the variance of the batch norm behind it ("" without one)."""
    named = list(encoder.named_modules())
    first = next(name for name, module in named if module is encoder.first_conv)
    return f"{first}.weight", next((f"{name}.running_var" for name, m in named if isinstance(m, nn.BatchNorm2d)), "")


def _saw_raw_images(weight: Tensor | None, variance: Tensor | None) -> bool:
    """Whether a batch norm's variance, over the squared weights before it, is that of images in 0-255."""
    if weight is None or variance is None or len(weight) != len(variance):
        return False
    power = weight.double().flatten(1).square().sum(1)
    return bool(torch.nanmedian(variance.double() / power) > RAW_VARIANCE)
