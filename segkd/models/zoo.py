"""The table of networks: which head goes on which encoder, and how wide it is."""

from __future__ import annotations

from dataclasses import dataclass

from segkd.models.deeplabv3plus import DeepLabV3PlusHead
from segkd.models.dinov2 import LinearHead
from segkd.models.heads import DeepLabV3Head, FCNHead, Head, PSPHead
from segkd.models.isanet import ISAHead
from segkd.models.ocrnet import JoinedFCNHead, OCRHead
from segkd.models.stdc import STDCHead
from segkd.registry import unknown

LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
NARROW = ("resnet18", "mobilenet_v2", *LITES)
BOTTLENECK = ("resnet50", "resnet101")
RESNETS = ("resnet18", "resnet50", "resnet101")
HRNETS = ("hrnet_w18_small", "hrnet_w18", "hrnet_w48")


@dataclass(frozen=True)
class NetworkSpec:
    """A head and the width of its feature at width 1; None: as the head has it from the encoder's maps."""

    head: type[Head]
    channels: int | None


# arch, head, encoders, width of the feature. deeplabv3, pspnet: CIRKD's code, fcn as pspnet; deeplabv3-512: the wider
# heads of CIRKD's later code (22.8 and 79.1 million parameters); the rest: what the architectures' own papers use.
_ROWS = (
    ("deeplabv3", DeepLabV3Head, NARROW, 128),
    ("deeplabv3", DeepLabV3Head, BOTTLENECK, 256),
    ("deeplabv3-512", DeepLabV3Head, RESNETS, 512),
    ("deeplabv3plus", DeepLabV3PlusHead, NARROW, 128),
    ("deeplabv3plus", DeepLabV3PlusHead, BOTTLENECK, 256),
    ("dinov2", LinearHead, ("vits14", "vitb14"), None),
    ("fcn", FCNHead, NARROW, 128),
    ("fcn", FCNHead, BOTTLENECK, 512),
    ("fcn", JoinedFCNHead, HRNETS, None),
    ("isanet", ISAHead, ("resnet18",), 128),
    ("isanet", ISAHead, BOTTLENECK, 512),
    ("ocrnet", OCRHead, HRNETS, 512),
    ("pspnet", PSPHead, NARROW, 128),
    ("pspnet", PSPHead, BOTTLENECK, 512),
    ("stdc", STDCHead, ("stdc1", "stdc2"), 256),
)
NETWORKS = {
    f"{arch}/{encoder}": NetworkSpec(head, channels) for arch, head, encoders, channels in _ROWS for encoder in encoders
}


def network_spec(arch: str, encoder_name: str) -> NetworkSpec:
    """The entry of ``arch/encoder_name``; UserError with the nearest name otherwise."""
    name = f"{arch}/{encoder_name}"
    if name in NETWORKS:
        return NETWORKS[name]
    archs = {known.split("/")[0] for known in NETWORKS}
    if arch not in archs:
        raise unknown("arch", arch, archs)
    raise unknown(f"encoder of {arch}", encoder_name, (n.split("/")[1] for n in NETWORKS if n.startswith(f"{arch}/")))
