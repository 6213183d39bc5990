"""The segmentation network: normalisation, encoder, head and auxiliary head, with one named output (`Prediction`)."""

from __future__ import annotations

from torch import Tensor, nn

from segkd.models.checkpoints import load_encoder_weights
from segkd.models.encoders.base import Encoder
from segkd.models.heads.base import Head, Plan
from segkd.models.images import IMAGENET, Normalisation, add_normalisation, check_images, normalise
from segkd.models.layers import inflate, scaled
from segkd.models.smp import SmpSegmenter, check_smp_name, create_smp, is_smp
from segkd.models.zoo import ENCODERS, NETWORKS
from segkd.prediction import NetworkInfo, Prediction
from segkd.registry import UserError


class Segmenter(nn.Module):
    """A segmentation network; forward takes images (B, in_channels, H, W), RGB in [0, 1], and gives a `Prediction`.

    It normalises RGB itself, as its weights expect; channels beyond the third pass as they are (but see
    `normalise_as`). Sides are at least four times the encoder's output stride (HRNet: 64, DINOv2: 28), odd or even, and
    the grid is the side over ``info.output_stride``, rounded up. ``align_corners`` is how its scores are brought to label size.
    ``.to(memory_format=torch.channels_last)`` makes it compute in that layout (faster). Training a network with image
    pooling (DeepLabV3, PSPNet, STDC) on one image at a time is refused (UserError): the batch norm of the pooling would see
    one value.
    """

    def __init__(
        self, info: NetworkInfo, encoder: Encoder, head: Head, aux_head: nn.Module | None, detail_head: nn.Module | None
    ):
        super().__init__()
        self.info, self.encoder, self.head, self.aux_head, self.detail_head = info, encoder, head, aux_head, detail_head
        self.align_corners = head.align_corners
        self.normalise_as(IMAGENET)

    def normalise_as(self, normalisation: Normalisation) -> None:
        """Normalise RGB so. Channels beyond it keep their size beside the image's: unchanged under ImageNet's."""
        add_normalisation(self, self.info.in_channels, normalisation)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Let the encoder's blocks compute their inner values again in the backward pass: less memory, a longer step.

        No value changes, neither scores nor gradients nor running statistics.
        """
        self.encoder.grad_checkpointing = enable

    def forward(self, images: Tensor) -> Prediction:
        self._check(images)
        stages = self.encoder(normalise(self, images, self.encoder.first_conv))
        logits, aux_logits, feature = self.head(stages, self.aux_head)
        detail = self.detail_head(stages[1]) if self.training and self.detail_head is not None else None
        classifier = self.head.classifier.weight.flatten(1), self.head.classifier.bias
        return Prediction(logits, aux_logits, feature, stages, classifier, detail)

    def _check(self, images: Tensor) -> None:
        check_images(self.info, images)
        if images.shape[0] == 1 and self.head.single_image_norm() is not None:
            raise UserError(
                f"{self.info.name}: cannot train on a batch of one image (batch norm of the image pooling); "
                "use two or more, SyncBatchNorm, or arch 'fcn'"
            )


def list_models() -> list[str]:
    """All networks of the papers, as ``arch/encoder``; those of segmentation-models-pytorch work too, unlisted."""
    return NETWORKS.names()


def check_model_name(name: str) -> None:
    """UserError with the nearest name unless ``name`` is one of `list_models` or ``smp.<Arch>/<encoder>``."""
    if is_smp(name):
        check_smp_name(*name.split("/", 1))
    else:
        NETWORKS.get(name)


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
) -> Segmenter | SmpSegmenter:
    """Build a network of `list_models`, or ``arch="smp.<Arch>"`` with an encoder of smp, whose argument order this is.

    ``encoder_weights``: None, "imagenet" (timm's; DINOv2's are from LVD-142M) or a file (see `segkd.models.checkpoints`).
    ``in_channels`` >= 3. ``aux``: auxiliary head, and with it STDC's detail head; None as in the papers (ResNets, OCRNet
    and STDC yes, MobileNetV2, HRNet with FCN and DINOv2 no). ``output_stride``: of the dilated encoders; HRNet, STDC,
    DINOv2 and smp have their own, and refuse any other value than the default.
    ``head_channels``: width of the head as given; by default the papers' times ``width``, which scales the whole
    network. Defaults reproduce the networks of CIRKD, RDD and HWD to the last parameter (DeepLabV3, PSPNet).
    UserError: unknown names, numbers out of range, weights that do not fit.
    """
    _check_numbers(in_channels, classes, output_stride, head_channels, width)
    if is_smp(arch):
        fixed = {"aux": (aux, None), "output_stride": (output_stride, 8), "head_channels": (head_channels, None)}
        return create_smp(arch, encoder_name, encoder_weights, in_channels, classes, fixed | {"width": (width, 1)})
    (make_head, fixed_width), spec = NETWORKS.get(f"{arch}/{encoder_name}"), ENCODERS.get(encoder_name)
    encoder = spec.build(width, output_stride)
    encoder.name = encoder_name
    if output_stride not in (8, encoder.output_stride):
        raise UserError(f"create_model: output_stride={output_stride}; {encoder_name} always has {encoder.output_stride}, leave it out")
    default = make_head.natural_width(encoder.channels) if fixed_width is None else scaled(fixed_width, width)
    plan = Plan(encoder.channels, head_channels or default, classes, encoder.output_stride, width)
    head = make_head(plan)
    has_aux = spec.aux or head.aux_needed if aux is None else aux
    if head.aux_needed and not has_aux:
        raise UserError(f"create_model: aux=False; {arch} looks at its auxiliary scores, leave aux out")
    aux_head, detail_head = (head.make_aux(plan), head.make_detail(plan)) if has_aux else (None, None)
    normalisation = spec.input
    if encoder_weights is not None:
        normalisation = load_encoder_weights(encoder, encoder_name, encoder_weights, width)
    if in_channels > 3:  # last, so that the same seed gives the same network with and without the extra channels
        inflate(encoder.first_conv, in_channels)
    name = f"{arch}/{encoder_name}" + ("" if width == 1 else f"-w{width:g}")
    shape = plan.channels, encoder.channels, has_aux, head.output_stride, encoder.smallest
    info = NetworkInfo(name, classes, in_channels, *shape)
    model = Segmenter(info, encoder, head, aux_head, detail_head)
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
