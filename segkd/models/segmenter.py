"""The segmentation network: normalisation, encoder, head and auxiliary head, with one named output (`Prediction`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkd.models.encoders import ENCODERS, Encoder, encoder_spec, scaled
from segkd.models.heads import HEADS, AuxHead, Head, head_channels_of
from segkd.models.naming import IMAGENET, Normalisation
from segkd.models.weights import load_encoder_weights
from segkd.prediction import NetworkInfo, Prediction
from segkd.registry import UserError, unknown


class Segmenter(nn.Module):
    """A segmentation network; forward takes images (B, in_channels, H, W), RGB in [0, 1], and gives a `Prediction`.

    It normalises RGB itself, as its weights expect; channels beyond the third pass as they are (but see
    `normalise_as`). Sides are at least four times the output stride, odd or even, and the grid is the side over the
    stride, rounded up. ``align_corners`` is how its scores are brought to label size.
    ``.to(memory_format=torch.channels_last)`` makes it compute in that layout (faster).
    Training DeepLabV3 or PSPNet on one image at a time is refused (UserError): the batch norm of their image pooling
    would see one value.
    """

    align_corners = True

    def __init__(self, info: NetworkInfo, encoder: Encoder, head: Head, aux_head: AuxHead | None):
        super().__init__()
        self.info, self.encoder, self.head, self.aux_head = info, encoder, head, aux_head
        self.normalise_as(IMAGENET)

    def normalise_as(self, normalisation: Normalisation) -> None:
        """Normalise RGB so. Channels beyond it keep their size beside the image's: unchanged under ImageNet's."""
        extra, mean, std = self.info.in_channels - 3, normalisation.mean, normalisation.std
        beside = sum(std) / sum(IMAGENET.std)
        self.register_buffer("mean", torch.tensor((*mean, *[0.0] * extra)).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor((*std, *[beside] * extra)).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Prediction:
        self._check(images)
        # The weights decide the memory layout, not the way in which a batch happened to be made.
        layout = torch.channels_last if _is_channels_last(self.encoder.first_conv.weight) else torch.contiguous_format
        stages = self.encoder(((images - self.mean) / self.std).contiguous(memory_format=layout))
        logits, feature = self.head(stages[-1])
        aux_logits = None if self.aux_head is None else self.aux_head(stages[-2])
        classifier = self.head.classifier
        return Prediction(logits, aux_logits, feature, stages, (classifier.weight.flatten(1), classifier.bias))

    def _check(self, images: Tensor) -> None:
        name, shape, channels = self.info.name, tuple(images.shape), self.info.in_channels
        smallest = 4 * self.info.output_stride
        if not images.is_floating_point():
            raise UserError(f"{name}: images are {images.dtype}; give floats in [0, 1] (bytes / 255)")
        if images.ndim != 4 or shape[1] != channels:
            raise UserError(f"{name}: images have shape {shape}; give (B, {channels}, H, W)")
        if min(shape[-2:]) < smallest:
            raise UserError(f"{name}: images are {shape[-2]}x{shape[-1]}; both sides must be at least {smallest}")
        if shape[0] == 1 and self.head.single_image_norm() is not None:
            raise UserError(
                f"{name}: cannot train on a batch of one image (batch norm of the image pooling); "
                "use two or more, SyncBatchNorm, or arch 'fcn'"
            )


def _is_channels_last(weight: Tensor) -> bool:
    return not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)


def list_models() -> list[str]:
    """All networks, as ``arch/encoder``."""
    return sorted(f"{arch}/{encoder}" for arch in HEADS for encoder in ENCODERS)


def create_model(
    arch: str,
    encoder_name: str,
    encoder_weights: str | None = None,
    in_channels: int = 3,
    classes: int = 19,
    *,
    aux: bool | None = None,
    output_stride: int = 8,
    head_channels: int | None = None,
    width: float = 1.0,
) -> Segmenter:
    """Build a network of `list_models`; the argument order is smp's.

    ``encoder_weights``: None, "imagenet" (timm) or a file (see `segkd.models.weights`). ``in_channels`` >= 3.
    ``aux``: auxiliary head on the third encoder map; None as in the papers (ResNets yes, MobileNetV2 no).
    ``head_channels``: width of the head as given; by default the papers' times ``width``, which scales the whole
    network. Defaults reproduce the networks of CIRKD, RDD and HWD to the last parameter (DeepLabV3, PSPNet).
    UserError: unknown names, numbers out of range, weights that do not fit.
    """
    if arch not in HEADS:
        raise unknown("arch", arch, HEADS)
    spec = encoder_spec(encoder_name)
    _check_numbers(in_channels, classes, output_stride, head_channels, width)
    encoder = spec.build(width, output_stride)
    feature_channels = head_channels or scaled(head_channels_of(arch, encoder_name), width)
    head = HEADS[arch](encoder.channels[-1], feature_channels, classes, output_stride)
    has_aux = spec.aux if aux is None else aux
    aux_head = AuxHead(encoder.channels[-2], classes) if has_aux else None
    normalisation = IMAGENET
    if encoder_weights is not None:
        normalisation = load_encoder_weights(encoder, encoder_name, encoder_weights, width)
    if in_channels > 3:  # last, so that the same seed gives the same network with and without the extra channels
        encoder.inflate(in_channels)
    name = f"{arch}/{encoder_name}" + ("" if width == 1 else f"-w{width:g}")
    info = NetworkInfo(name, classes, in_channels, feature_channels, encoder.channels, has_aux, output_stride)
    model = Segmenter(info, encoder, head, aux_head)
    model.normalise_as(normalisation)
    return model


def _check_numbers(in_channels: int, classes: int, output_stride: int, head_channels: int | None, width: float) -> None:
    for ok, key, value, want in (
        (in_channels >= 3, "in_channels", in_channels, "3 (RGB) or more"),
        (classes >= 1, "classes", classes, "1 or more"),
        (output_stride in (8, 16, 32), "output_stride", output_stride, "8, 16 or 32"),
        (head_channels is None or head_channels >= 1, "head_channels", head_channels, "1 or more"),
        (0 < width <= 4, "width", width, "a factor in (0, 4]"),
    ):
        if not ok:
            raise UserError(f"create_model: {key}={value}; give {want}")
