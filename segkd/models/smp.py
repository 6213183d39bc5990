"""Networks of segmentation-models-pytorch (smp) behind our output: ``smp.<Arch>/<encoder>``, any of its pairs."""

from __future__ import annotations

import difflib
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.models.complexity import meta_twin
from segkd.models.images import IMAGENET, Normalisation, add_normalisation, check_images, normalise
from segkd.models.layers import inflate
from segkd.prediction import NetworkInfo, Prediction
from segkd.registry import UserError, unknown

PREFIX = "smp."


class SmpSegmenter(nn.Module):
    """An smp network (``net``, with smp's parameter names) that gives a `Prediction`, as our own `Segmenter` does.

    ``logits`` come before smp's last upsampling; ``feature`` and ``classifier`` are None where the last convolution is
    not 1x1; ``stages`` are the encoder's maps without the image; there are no auxiliary scores. Images whose sides the
    encoder's stride does not divide are padded below and to the right (with the mean colour) and the maps cut.
    """

    align_corners = True  # smp's own upsampling
    aux_head = None

    def __init__(self, net: nn.Module, in_channels: int, normalisation: Normalisation):
        super().__init__()
        self.net = net
        self.with_tokens = type(net).__name__ == "DPT"  # its encoder also gives class tokens, and no map of the image
        self.divisor = net.encoder.output_stride * (2 if self.with_tokens else 1)  # DPT halves its deepest map again
        self.info: NetworkInfo | None = None  # create_smp sets it, asking the network itself
        add_normalisation(self, in_channels, normalisation)

    @property
    def encoder(self) -> SimpleNamespace:
        """``.encoder.first_conv``: the convolution that reads the image."""
        return SimpleNamespace(first_conv=next(m for m in self.net.encoder.modules() if isinstance(m, nn.Conv2d)))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """UserError: smp's networks keep everything for the backward pass."""
        raise UserError(f"{self.info.name}: networks of smp have no gradient checkpointing; leave grad_checkpointing out")

    def forward(self, images: Tensor) -> Prediction:
        check_images(self.info, images)
        height, width = images.shape[-2:]
        more = (0, -width % self.divisor, 0, -height % self.divisor)
        x = F.pad(normalise(self, images, self.encoder.first_conv), more)
        try:
            prediction = self.predict(x)
        except ValueError as error:
            if "more than 1 value" not in str(error):
                raise
            raise UserError(f"{self.info.name}: cannot train on a batch this small (batch norm); use more") from error
        return cut(prediction, (height, width), x.shape[-2:])

    def predict(self, x: Tensor) -> Prediction:
        """What the network says of normalised, padded images."""
        maps = self.net.encoder(x)
        if self.with_tokens:
            maps, tokens = maps
            feature = self.net.decoder(maps, tokens)
        else:
            feature = self.net.decoder(maps)
            maps = maps[1:]
        head = self.net.segmentation_head  # without its upsampling: up to its last convolution
        *before, conv = list(head.head) if hasattr(head, "head") else [head[0]]
        for layer in before:
            feature = layer(feature)
        stages = tuple(x for x in maps if x.shape[1] > 0)  # smp fills levels that an encoder lacks with empty maps
        if conv.kernel_size != (1, 1):
            return Prediction(conv(feature), None, None, stages, None)
        return Prediction(conv(feature), None, feature, stages, (conv.weight.flatten(1), conv.bias))


def cut(prediction: Prediction, size: tuple[int, int], padded: tuple[int, int]) -> Prediction:
    """The cells of every map that lie on an image of ``size``, which was padded to ``padded``."""

    def crop(x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        rows, columns = (-(-side * cells // whole) for side, cells, whole in zip(size, x.shape[-2:], padded))
        last = x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        return x[..., :rows, :columns].contiguous(memory_format=layout)

    stages = tuple(crop(x) for x in prediction.stages)
    return Prediction(crop(prediction.logits), None, crop(prediction.feature), stages, prediction.classifier)


def is_smp(name: str) -> bool:
    """Whether ``name`` (a network's or an architecture's) asks for smp."""
    return name.startswith(PREFIX)


def create_smp(
    arch: str, encoder_name: str, encoder_weights: str | None, in_channels: int, classes: int, fixed: dict
) -> SmpSegmenter:
    """Build ``smp.<Arch>`` on any encoder of smp. ``fixed``: options that smp's networks do not have, (value, default)."""
    arch, encoder_name = check_smp_name(arch, encoder_name)
    for key, (value, default) in fixed.items():
        if value != default:
            raise UserError(f"create_model: {key}={value}; {PREFIX}{arch} is as smp makes it, leave {key} out")
    name = f"{PREFIX}{arch}/{encoder_name}"
    try:
        net, normalisation = _build(arch, encoder_name, encoder_weights, classes)
        model = SmpSegmenter(net, in_channels, normalisation)
    except Exception as error:  # smp, timm and the hub raise every kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"smp cannot build {name} with encoder_weights={encoder_weights!r}: {reason}") from error
    if in_channels > 3:
        readers = [m for m in net.encoder.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3]
        if len(readers) != 1:
            raise UserError(f"create_model: in_channels={in_channels}; {len(readers)} convolutions of {name} read the image")
        inflate(readers[0], in_channels)
    smallest, said = _ask(model, in_channels)
    feature_channels = None if said.feature is None else said.feature.shape[1]
    stage_channels = tuple(x.shape[1] for x in said.stages)
    stride = smallest // said.logits.shape[-1]
    model.info = NetworkInfo(name, classes, in_channels, feature_channels, stage_channels, False, stride, smallest)
    return model


def _build(arch: str, encoder_name: str, encoder_weights: str | None, classes: int) -> tuple[nn.Module, Normalisation]:
    import segmentation_models_pytorch as smp

    any_size = {"dynamic_img_size": True} if arch == "DPT" else {}
    net = getattr(smp, arch)(encoder_name, encoder_weights=encoder_weights, in_channels=3, classes=classes, **any_size)
    if encoder_weights is None:
        return net, IMAGENET
    settings = smp.encoders.get_preprocessing_params(encoder_name, encoder_weights)
    if settings["input_space"] != "RGB":
        raise ValueError(f"its weights want {settings['input_space']}, the images here are RGB")
    return net, Normalisation(*(tuple(v / settings["input_range"][1] for v in settings[key]) for key in ("mean", "std")))


def _ask(model: SmpSegmenter, in_channels: int) -> tuple[int, Prediction]:
    """The smallest side that a network takes, and what it says of such an image (meta device: shapes alone)."""
    twin = meta_twin(model)
    for side in (factor * model.divisor for factor in (1, 2, 4, 8, 16)):
        try:
            with torch.no_grad():
                return side, twin.predict(torch.empty(1, in_channels, side, side, device="meta"))
        except RuntimeError as error:  # a pyramid halves its map too often for this size
            refusal = str(error).splitlines()[0]
    raise UserError(f"smp's {type(model.net).__name__} takes no image up to {side}x{side}: {refusal}")


def check_smp_name(arch: str, encoder_name: str) -> tuple[str, str]:
    """smp's spelling of ``smp.<Arch>`` and the encoder; UserError with the nearest name if smp has none."""
    try:
        import segmentation_models_pytorch as smp
        import timm
    except ImportError as error:
        raise UserError(f"arch '{arch}' needs segmentation-models-pytorch: pip install segmentation-models-pytorch") from error
    archs = {a.__name__.lower(): a.__name__ for a in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    short = arch.removeprefix(PREFIX)
    if short.lower() not in archs:
        raise unknown("smp arch", arch, (PREFIX + known for known in archs.values()))
    names = smp.encoders.get_encoder_names()
    if not (timm.is_model(encoder_name.removeprefix("tu-")) if encoder_name.startswith("tu-") else encoder_name in names):
        near = difflib.get_close_matches(encoder_name, names, n=5, cutoff=0.3) or names[:5]
        raise unknown(f"encoder of {arch} ({len(names)} and 'tu-<timm name>')", encoder_name, near)
    return archs[short.lower()], encoder_name
