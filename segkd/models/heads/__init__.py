"""Heads, one file an architecture; here those on every dilated encoder: {arch: (head, width of its feature)}."""

from segkd.models.heads.deeplabv3 import DeepLabV3Head, DeepLabV3PlusHead
from segkd.models.heads.fcn import FCNHead
from segkd.models.heads.pspnet import PSPHead

# deeplabv3, pspnet: CIRKD's code, fcn as pspnet; deeplabv3plus: its own paper's.
NARROW = {"deeplabv3": (DeepLabV3Head, 128), "deeplabv3plus": (DeepLabV3PlusHead, 128), "fcn": (FCNHead, 128), "pspnet": (PSPHead, 128)}
WIDE = {"deeplabv3": (DeepLabV3Head, 256), "deeplabv3plus": (DeepLabV3PlusHead, 256), "fcn": (FCNHead, 512), "pspnet": (PSPHead, 512)}
