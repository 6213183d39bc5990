"""What heads share: what they are built for, and what they say; dropouts are those of the papers' released code."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from segkd.models.layers import conv_bn_relu

Maps = tuple[Tensor, ...]  # of the encoder, shallow to deep
Said = tuple[Tensor, Tensor | None, Tensor]  # logits, auxiliary logits, feature


@dataclass(frozen=True)
class Plan:
    """What a head is built for.

    ``maps``: channels of the encoder's maps, shallow to deep; ``channels``: width A of the feature; ``output_stride``:
    of the encoder; ``width``: factor on the widths that an architecture fixes.
    """

    maps: tuple[int, ...]
    channels: int
    classes: int
    output_stride: int
    width: float = 1.0


class AuxHead(nn.Sequential):
    """Auxiliary head: one 3x3 to a quarter of the channels, dropout 0.1, classifier."""

    def __init__(self, in_channels: int, classes: int):
        quarter = max(1, in_channels // 4)
        super().__init__(*conv_bn_relu(in_channels, quarter, 3), nn.Dropout(0.1), nn.Conv2d(quarter, classes, 1))


class Head(nn.Module):
    """A head: forward (encoder maps, auxiliary head or None) -> (logits, auxiliary logits or None, feature).

    Logits (B, C, h, w) have a cell every ``output_stride`` pixels. The feature (B, A, h, w) is what enters the last 1x1
    ``classifier``, so in training it has passed the dropout. ``pooled`` is the branch with one value per image and
    channel, None if there is none. ``aux_needed``: the head cannot do without its auxiliary head. ``align_corners``: how
    its scores are brought to another size. ``cirkd``: starts of the names in whole networks of the CIRKD family, and ours.
    """

    aux_needed = False
    align_corners = True
    cirkd = {"auxlayer.block.": "aux_head.", "head.block.4.": "head.classifier."}

    def __init__(self, plan: Plan, dropout: float = 0.1):
        super().__init__()
        self.output_stride = plan.output_stride
        self.pooled = None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(plan.channels, plan.classes, 1)

    @staticmethod
    def natural_width(maps: tuple[int, ...]) -> int:
        """Width of the feature where the architecture does not fix it: that of all maps together."""
        return sum(maps)

    @staticmethod
    def make_aux(plan: Plan) -> nn.Module:
        """The auxiliary head that goes with this head: on the encoder's last map but one."""
        return AuxHead(plan.maps[-2], plan.classes)

    @staticmethod
    def make_detail(plan: Plan) -> nn.Module | None:
        """The detail head, on the encoder's second map, None where the architecture has none."""
        return None

    def aux_map(self, maps: Maps) -> Tensor:
        """What the auxiliary head reads."""
        return maps[-2]

    def embed(self, maps: Maps) -> Tensor:
        """The map (B, A, h, w) before dropout."""
        raise NotImplementedError

    def forward(self, maps: Maps, aux_head: nn.Module | None = None) -> Said:
        feature = self.dropout(self.embed(maps))
        logits = self.classifier(feature)
        return logits, None if aux_head is None else aux_head(self.aux_map(maps)), feature

    def pooled_parts(self) -> list[nn.Module]:
        """The branches with one value per image and channel."""
        return [] if self.pooled is None else [self.pooled]

    def single_image_norm(self) -> nn.Module | None:
        """The batch norm that cannot train on one image, None if there is none or it is frozen or synchronised."""
        norms = [m for part in self.pooled_parts() for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
        return next((norm for norm in norms if norm.training), None)
