"""Augmentation of a batch in one operation: random scale, pad bottom/right, random crop, random flip (methods.md 2.1).

Parameters are drawn on the CPU from the caller's generator, so they are the same on every device. The protocols of the
papers (methods.md 2.1 and 2.2) are:

- CIRKD, RDD, HWD, LAD, MasKD, DIST on every data set: the defaults here (16 factors, no cap, no colours), crop 512x1024
  on Cityscapes (HWD and FAKD 512x512), 360x360 on CamVid, 512x512 on VOC, ADE20K and COCO-Stuff;
- mmseg, on which FAKD (all sets), MGD's code (Cityscapes) and LAD's COCO-Stuff 10K table rest: ``continuous=True``,
  ``cat_max_ratio=0.75``, ``photometric=True``, crop 512x512 (mmseg's own Pascal Context: 480x480), after a resize of
  the whole image that is the data set's ``size`` here. FAKD's text names flip, crop and scale only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segkd.data.draws import TRIES, Axis, Numbers, draw
from segkd.data.photometric import distort
from segkd.data.resample import sample_images, sample_labels, taps
from segkd.device import send
from segkd.metrics import IGNORE, pixel_counts
from segkd.registry import UserError

PADDING = (0.485, 0.456, 0.406)  # ImageNet's mean colour: zero once the network has normalised it


@torch.no_grad()
def augment(
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    crop: tuple[int, int],
    scale: tuple[float, float] = (0.5, 2.0),
    flip: bool = True,
    *,
    continuous: bool = False,
    cat_max_ratio: float = 1.0,
    photometric: bool = False,
    sizes: Tensor | None = None,
    part: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Images uint8 (B, H, W, 3) and labels uint8 (B, H, W) -> torch's default float type (B, 3, h, w) in [0, 1] and int64 (B, h, w).

    ``crop`` (h, w); ``scale``: those of the papers' 16 factors 0.5, 0.6 ... 2.0 in this range, equally likely, or any
    factor in it if ``continuous``; ``generator``: on the CPU; the same numbers are drawn whatever the options. Images
    bilinear (half-pixel centres, no antialiasing), labels by the nearest pixel centre, padding ImageNet's mean colour
    and 255.

    ``cat_max_ratio`` below 1: a crop in which one class has this fraction of the labelled pixels or more, or which shows
    fewer than two classes, is drawn again, up to 10 times (mmseg: 0.75). ``photometric``: see photometric.py.
    ``sizes`` int64 (B, 2), on the CPU: of images that are padded bottom/right to the batch's largest; None: all are
    (H, W). ``part`` (first, total): the images are these of a batch that several processes share.
    """
    _check(images, labels, sizes)
    if sizes is None:
        sizes = torch.tensor(labels.shape[1:]).expand(len(labels), 2)
    numbers = Numbers.of(len(images), generator, part)
    rows, columns = (axis.to(labels.device) for axis in draw(sizes, numbers, crop, scale, flip, continuous))
    if cat_max_ratio < 1:
        rows, columns = _capped(labels, rows, columns, numbers, cat_max_ratio)
    y, x = taps(rows), taps(columns)
    out, target = sample_images(images, y, x), sample_labels(labels, y, x)
    if photometric:
        distort(out, numbers.colour)
    _pad([(target, IGNORE), *zip(out.unbind(1), PADDING)], y.inside, x.inside)
    return out, target


@torch.no_grad()
def to_batch(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same types without augmentation: (B, 3, H, W) in [0, 1] and int64 (B, H, W)."""
    _check(images, labels)
    return images.permute(0, 3, 1, 2).to(torch.get_default_dtype(), memory_format=torch.contiguous_format).div_(255), labels.long()


def _capped(labels: Tensor, rows: Axis, columns: Axis, numbers: Numbers, cap: float) -> tuple[Axis, Axis]:
    """Crops drawn again where one class rules; as in mmseg the one after the last try is taken unseen."""
    again = send(numbers.again, labels.device)
    for turn in range(TRIES):
        y, x = taps(rows), taps(columns)
        seen = sample_labels(labels, y, x)
        _pad([(seen, IGNORE)], y.inside, x.inside)
        counts = pixel_counts(0, seen, 1)[..., 0]
        counts[:, IGNORE] = 0
        rules = ((counts > 0).sum(1) < 2) | (counts.amax(1) >= cap * counts.sum(1))
        if rules.device.type == "cpu" and not rules.any():  # a GPU is not asked: what no class rules stays as it is
            break
        rows, columns = (
            axis._replace(offset=torch.where(rules, axis.place(again[:, turn, i]), axis.offset)) for i, axis in enumerate((rows, columns))
        )
    return rows, columns


def _pad(maps: Sequence[tuple[Tensor, float]], rows: Tensor, columns: Tensor) -> None:
    """Each of ``maps`` (B, h, w) gets its value where ``rows`` (B, h) or ``columns`` (B, w) are False, in place."""
    if rows.device.type != "cpu":
        outside = ~(rows[:, :, None] & columns[:, None])
        for plane, value in maps:
            plane.masked_fill_(outside, value)
        return
    for b in (~(rows.all(1) & columns.all(1))).nonzero().flatten().tolist():  # a span of rows and one of columns: faster there
        for dim, inside in enumerate((rows[b], columns[b])):
            places = (~inside).nonzero().flatten().tolist()
            for plane, value in maps if places else ():
                plane[b].narrow(dim, places[0], len(places)).fill_(value)


def _check(images: Tensor, labels: Tensor, sizes: Tensor | None = None) -> None:
    """UserError unless images are uint8 (B, H, W, 3), labels uint8 (B, H, W), and sizes (B, 2) within (H, W)."""
    shapes = images.ndim == 4 and images.shape[-1] == 3 and images.shape[:3] == labels.shape
    if not shapes or images.dtype != torch.uint8 or labels.dtype != torch.uint8:
        raise UserError(
            "a batch is images uint8 (B, H, W, 3) and labels uint8 (B, H, W): "
            f"got {images.dtype} {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
        )
    if sizes is not None:
        whole = torch.tensor(labels.shape[1:])
        if tuple(sizes.shape) != (len(labels), 2) or (sizes < 1).any() or (sizes > whole).any():
            raise UserError(f"sizes are (B, 2), each at least 1 and at most {tuple(whole.tolist())}: {sizes.tolist()}")
