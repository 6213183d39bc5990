"""Any network as one of segkd's: names of its modules say where scores, feature and maps come out (`adapt`)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from segkd.prediction import NetworkInfo, Prediction, resize_scores
from segkd.registry import UserError, unknown

Grid = Callable[[int, int, int], tuple[int, int]]


class Adapted(nn.Module):
    """A network of the user's that gives a `Prediction`; made by `adapt`, which says what the arguments mean.

    ``network`` is the user's module itself, shared and unchanged: it keeps its own forward and names. ``info``,
    ``align_corners`` and ``encoder.first_conv`` are what segkd's training and analysis ask of a network.
    ``places``: {what: name of a module, as in ``named_modules``}: its output, or the module itself for "classifier".
    """

    info: NetworkInfo

    def __init__(self, network: nn.Module, places: dict[str, str], align_corners: bool, grid: Grid | None):
        super().__init__()
        self.network, self.places = network, places
        self.align_corners, self.grid = align_corners, grid or token_grid
        self.layouts: dict[str, str] = {}
        self.register_buffer("mean", None)
        self.register_buffer("std", None)

    @property
    def encoder(self) -> Adapted:
        """The part that reads the image: the network itself."""
        return self

    @property
    def first_conv(self) -> nn.Conv2d:
        """The first convolution in the order of definition; UserError if there is none."""
        found = next((m for m in self.network.modules() if isinstance(m, nn.Conv2d)), None)
        if found is None:
            raise UserError("adapt: the network has no Conv2d that could read the image")
        return found

    def forward(self, images: Tensor) -> Prediction:
        """`Prediction` on images (B, in_channels, H, W), RGB in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != self.info.in_channels or not images.is_floating_point():
            want = f"floats (B, {self.info.in_channels}, H, W) in [0, 1]"
            raise UserError(f"{self.info.name}: images are {images.dtype} {tuple(images.shape)}; give {want}")
        seen = self._watch(images if self.mean is None else (images - self.mean) / self.std)
        size = tuple(images.shape[-2:])
        maps = {what: self._as_map(tensor, what, size) for what, tensor in seen.items()}
        logits, feature = maps["logits"], maps.get("feature")
        if feature is not None:
            feature = resize_scores(feature, tuple(logits.shape[-2:]), self.align_corners)
        stages = tuple(maps[what] for what in self.places if what.startswith("stages"))
        return Prediction(logits, maps.get("aux_logits"), feature, stages, self._classifier())

    def _watch(self, images: Tensor) -> dict[str, Tensor]:
        """One pass of the network; what its named modules gave (the last call, where one is called more than once).

        Copies, as the next module may change its input in place. Hooks live for this pass alone: no copy of the network
        writes to another's, and no tensor is kept alive.
        """
        seen: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for what, name in self.places.items():
                module = self.network.get_submodule(name)
                if what != "classifier":
                    keep = lambda module, inputs, output, what=what: seen.update({what: _tensor(output, what).clone()})  # noqa: E731
                    hooks.enter_context(module.register_forward_hook(keep))
                elif "feature" not in self.places:
                    keep = lambda module, inputs: seen.update(feature=inputs[0].clone())  # noqa: E731
                    hooks.enter_context(module.register_forward_pre_hook(keep))
            self.network(images)
        for what, name in self.places.items():
            what = "feature" if what == "classifier" else what
            if what not in seen:
                raise UserError(f"adapt: module '{name}' ({what}) was not called in the forward pass: name another")
        return seen

    def _as_map(self, tensor: Tensor, what: str, size: tuple[int, int]) -> Tensor:
        if what not in self.layouts:  # found once, on the first image
            module = self.network.get_submodule(self.places.get(what, self.places.get("classifier", "")))
            self.layouts[what] = layout_of(tensor, what, isinstance(module, nn.Linear), size)
        layout = self.layouts[what]
        return as_map(tensor, layout, self.grid(tensor.shape[1], *size) if layout == "tokens" else None)

    def _classifier(self) -> tuple[Tensor, Tensor] | None:
        if "classifier" not in self.places:
            return None
        module = self.network.get_submodule(self.places["classifier"])
        weight = module.weight.flatten(1)
        return weight, weight.new_zeros(len(weight)) if module.bias is None else module.bias


def adapt(
    module: nn.Module,
    *,
    logits: str,
    feature: str | None = None,
    classifier: str | None = None,
    aux_logits: str | None = None,
    stages: Sequence[str] = (),
    size: tuple[int, int] = (64, 64),
    classes: int | None = None,
    name: str | None = None,
    align_corners: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    grid: Grid | None = None,
) -> Adapted:
    """Make ``module`` give a `Prediction`, so that every method can use it as student or teacher.

    Names are those of ``module.named_modules()``; "" is the module itself.
    ``logits``: its output is the scores before upsampling (of an object or mapping: ``logits`` or ``out``).
    ``classifier``: the last 1x1 Conv2d or Linear; by default the ``logits`` module if it is one. ``feature``: the
    module whose output enters the classifier; by default the classifier's input, and none without a classifier. A
    feature on another grid than the scores is resized to theirs. ``aux_logits``, ``stages``: outputs, stages shallow to
    deep. Methods that need what is not named say so (UserError).
    Outputs are maps (B, C, h, w), maps with the channels last, or tokens (B, N, C), whose grid is the image's side over
    a stride, one class token left out, or ``grid(tokens, height, width) -> (h, w)``; tokens before the last h*w are dropped.
    ``size`` (H, W): of the random image that is passed once to find widths (`Adapted.info`). ``classes``: expected number.
    ``mean``, ``std``: normalisation of images in [0, 1]; without it the network gets them as they are.
    ``align_corners``: how its scores are brought to label size.
    """
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"adapt: size is (H, W) in pixels, both positive: {size}")
    named = {"logits": logits, "feature": feature, "classifier": classifier, "aux_logits": aux_logits}
    named |= {f"stages[{number}]": name for number, name in enumerate([stages] if isinstance(stages, str) else stages)}
    places, known = {what: name for what, name in named.items() if name is not None}, dict(module.named_modules())
    for what, place in places.items():
        if place not in known:
            near = difflib.get_close_matches(place, known, n=5, cutoff=0.3)
            raise unknown(f"module of the network ({what})", place, near or [n for n, _ in module.named_children()])
    if classifier is None and _pointwise(known[logits]):
        places["classifier"] = logits
    elif classifier is not None and not _pointwise(known[classifier]):
        raise UserError(f"adapt: classifier '{classifier}' is a {type(known[classifier]).__name__}; name a Linear or 1x1 Conv2d")
    adapted = Adapted(module, places, align_corners, grid)
    channels = next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), 3)
    _set_normalisation(adapted, mean, std, channels)
    label = name or type(module).__name__
    adapted.info = NetworkInfo(label, classes or 0, channels, None, (), aux_logits is not None)
    adapted.info = _describe(adapted, label, size, classes)
    return adapted


def _pointwise(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return (module.kernel_size, module.stride, module.groups) == ((1, 1), (1, 1), 1)
    return isinstance(module, nn.Linear)


def _set_normalisation(adapted: Adapted, mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> None:
    """Buffers (1, C, 1, 1) on the network's device; channels beyond the given ones pass as they are."""
    if (mean is None) != (std is None):
        raise UserError("adapt: give mean and std together, or neither")
    if mean is None:
        return
    if len(mean) != len(std) or len(mean) > channels or min(std) <= 0:
        raise UserError(f"adapt: mean={tuple(mean)}, std={tuple(std)} do not fit {channels} channels")
    weight = next(adapted.network.parameters(), torch.zeros(0))
    for key, values, rest in (("mean", mean, 0.0), ("std", std, 1.0)):
        row = torch.tensor([*values, *[rest] * (channels - len(values))], dtype=weight.dtype, device=weight.device)
        setattr(adapted, key, row.view(1, -1, 1, 1))


@torch.no_grad()
def _describe(adapted: Adapted, label: str, size: tuple[int, int], classes: int | None) -> NetworkInfo:
    """What one pass in eval mode shows; the network is left in the mode in which it came."""
    weight, channels = next(adapted.network.parameters(), torch.zeros(0)), adapted.info.in_channels
    images = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0)).to(weight)
    modes = [(part, part.training) for part in adapted.modules()]
    try:
        shown = adapted.eval()(images)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        shape, line = tuple(images.shape), (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"adapt: {label} fails on images {shape} ({line}); try another size=(H, W)") from error
    finally:
        for part, training in modes:
            part.training = training
    found, grid = shown.logits.shape[1], shown.logits.shape[-2:]
    for what, scores in (("logits", shown.logits), ("aux_logits", shown.aux_logits)):
        if scores is not None and scores.shape[1] != (classes or found):
            raise UserError(f"adapt: {what} of {label} have {scores.shape[1]} classes, not {classes or found}")
    _check_classifier(shown, adapted.places)
    width = None if shown.feature is None else shown.feature.shape[1]
    stages = tuple(stage.shape[1] for stage in shown.stages)
    stride = max(1, round(size[0] / grid[0]))
    return NetworkInfo(label, found, channels, width, stages, shown.aux_logits is not None, stride, max(size))


def _check_classifier(shown: Prediction, places: dict[str, str]) -> None:
    """Feature times classifier must be the scores, as losses such as FAKD's rely on it."""
    if shown.classifier is None:
        return
    weight, bias = shown.classifier
    if shown.feature.shape[1] != weight.shape[1] or len(weight) != shown.logits.shape[1]:
        raise UserError(
            f"adapt: classifier '{places['classifier']}' maps {weight.shape[1]} channels to {len(weight)}, but the feature has "
            f"{shown.feature.shape[1]} and the scores have {shown.logits.shape[1]}"
        )
    made = torch.einsum("ca,bahw->bchw", weight, shown.feature) + bias[:, None, None]
    scale = shown.logits.abs().max().clamp(min=1e-6)
    if not (made - shown.logits).abs().max() <= 1e-2 * scale:
        raise UserError(
            f"adapt: classifier '{places['classifier']}' on its feature does not give the scores of '{places['logits']}': "
            "name the module that does, or leave classifier out"
        )


def _tensor(output: Any, what: str) -> Tensor:
    """The tensor in what a module returned."""
    if isinstance(output, Mapping):
        output = output.get("logits", output.get("out", output))
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise UserError(f"adapt: the module of {what} returns {type(output).__name__}, not a tensor: name one inside it")
    return output


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
