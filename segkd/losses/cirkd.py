"""CIRKD, cross-image relational distillation (Yang et al. 2022): how pixels resemble pixels of other images.

Code read: winycg/CIRKD@2d8ad0f losses/cirkd_mini_batch.py, losses/cirkd_memory.py, train_cirkd.py. Known differences: the
published pixel queue takes the first positions of the image instead of those of the class (variant="official",
``legacy_queue=True``); its authors use 0.01 instead of 0.1 for both memory terms on VOC; their mini-batch is the images
of one process, here it is always the whole batch. Its rows add KD. Similarities of all pixels with all pixels are never held: both softmaxes, the
divergence and its gradient are made a block of rows at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.device import GPU_BLOCK, send
from segkd.fields import Count, NotNegative, Positive
from segkd.losses.context import Context
from segkd.losses.method import METHODS, Term, feature_widths
from segkd.losses.precision import full_precision, wide, with_gradient
from segkd.prediction import IGNORE, NetworkInfo, class_index, labels_to_grid

BLOCK = 2**21  # similarities in a block of rows: large enough for the matrix products, small enough for a CPU's cache
SAFE = 40.0  # largest score of unit vectors, 1 / temperature, whose exponentials can be summed as they are


@full_precision
def cross_image_kl(student_feature: Tensor, teacher_feature: Tensor, temperature: float = 0.1) -> Tensor:
    """Mean over ordered pairs of images (with themselves too) and over pixels of KL(teacher || student).

    The distributions are softmaxes of the cosines of a pixel of the first image with all pixels of the second, over
    ``temperature``. Features (B, A, h, w) of any widths on one grid.
    """
    student, teacher = (F.normalize(f.flatten(2).transpose(1, 2), dim=2) for f in (student_feature, teacher_feature))
    total = _similarity_kl(student.flatten(0, 1), student, teacher.flatten(0, 1), teacher, 1 / temperature)
    images, pixels = student.shape[:2]
    return total / (images**2 * pixels)


@full_precision
def memory_kl(
    student: Tensor,
    teacher: Tensor,
    keys: Tensor,
    temperature: float = 0.1,
    contrast_temperature: float = 1.0,
    pixels: int | Tensor | None = None,
) -> Tensor:
    """Mean over pixels of KL(teacher || student) between softmaxes of the similarities with ``keys``; 0 without pixels.

    ``student`` and ``teacher`` (M, A) unit vectors, ``keys`` (K, A); times the square of ``contrast_temperature``, which
    divides the similarities as ``temperature`` does. ``pixels``: how many the mean is over, if not M; rows that are zero in
    both add nothing.
    """
    pixels = torch.as_tensor(len(student) if pixels is None else pixels)
    scale, keys = 1 / (temperature * contrast_temperature), keys.to(student.dtype)
    total = _similarity_kl(student, keys[None], teacher, keys[None], scale)
    return contrast_temperature**2 * total / pixels.clamp_min(1)


def _similarity_kl(rows: Tensor, keys: Tensor, target_rows: Tensor, target_keys: Tensor, scale: float) -> Tensor:
    """Sum over rows r and groups g of KL(softmax(scale * t_r Kt_g') || softmax(scale * s_r Ks_g')).

    Rows (R, A) and keys (G, K, A); gradient for the student's rows and keys.
    """
    total, row_gradient, key_gradient = _similarity_gradients(rows, keys, target_rows, target_keys, scale)
    total = with_gradient(total, rows, row_gradient)
    return total if key_gradient is None else with_gradient(total, keys, key_gradient.view(keys.shape))


@torch.no_grad()
def _similarity_gradients(rows: Tensor, keys: Tensor, target_rows: Tensor, target_keys: Tensor, scale: float) -> tuple:
    """The sum and its gradients, None where none is wanted."""
    flat, target = (x.flatten(0, 1) * scale for x in (keys, target_keys))
    row_gradient, key_gradient = (torch.zeros_like(to) if x.requires_grad else None for x, to in ((rows, rows), (keys, flat)))
    block = BLOCK if rows.device.type == "cpu" else GPU_BLOCK
    total, step = rows.new_zeros(()), max(1, block // max(len(flat), 1))
    for low in range(0, len(rows), step):
        part = slice(low, low + step)
        gap, divergence = _block(rows[part] @ flat.T, target_rows[part] @ target.T, len(keys), scale > SAFE)
        total += divergence
        if row_gradient is not None:
            torch.mm(gap, flat, out=row_gradient[part])
        if key_gradient is not None:
            key_gradient.addmm_(gap.T, rows[part], alpha=scale)
    return total, row_gradient, key_gradient


def _block(student: Tensor, teacher: Tensor, groups: int, shift: bool) -> tuple[Tensor, Tensor]:
    """Gradient with respect to the scores (R, G * K), and the summed divergence; both arguments are used up.

    ``shift``: the scores may be too large for their exponential.
    """
    shape = student.shape
    student, teacher = (x.view(shape[0], groups, -1) for x in (student, teacher))
    for x in (student, teacher) if shift else ():
        x -= x.amax(-1, keepdim=True)
    gap = teacher - student
    mass, target_mass = (x.exp_().sum(-1, keepdim=True) for x in (student, teacher))
    teacher /= target_mass
    divergence = torch.dot(teacher.flatten(), gap.flatten()) + (mass.log() - target_mass.log()).sum()
    return student.div_(mass).sub_(teacher).view(shape), divergence


class MemoryBank(nn.Module):
    """Unit features of the teacher for each class: pixels and region means of past batches, in two ring buffers.

    Buffers: ``pixels`` (C, pixel_size, A) and ``regions`` (C, region_size, A), random unit vectors until they are filled;
    ``pixel_pointer`` and ``region_pointer`` (C,). ``legacy_queue``: the published choice of pixels, see above.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        pixel_size: int = 20000,
        region_size: int = 2000,
        pixels_per_class: int = 16,
        legacy_queue: bool = False,
    ):
        super().__init__()
        self.pixels_per_class, self.legacy_queue = pixels_per_class, legacy_queue
        for name, size in (("pixels", pixel_size), ("regions", region_size)):
            self.register_buffer(name, F.normalize(torch.randn(num_classes, size, channels), dim=2))
        self.register_buffer("pixel_pointer", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("region_pointer", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    @full_precision
    def update(self, feature: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> None:
        """Take in the teacher's ``feature`` (B, A, h, w) with ``labels`` (B, H, W) or (B, h, w), 255 = ignore."""
        labels = labels_to_grid(labels, feature.shape[-2:]).flatten(1)
        vectors = F.normalize(feature.flatten(2).transpose(1, 2), dim=2)  # (B, N, A)
        if labels.device.type != "cpu":
            return self._take_in_all(vectors, labels, generator)
        for image, index in zip(vectors, labels):
            for label in index.unique().tolist():
                if 0 <= label < len(self.pixels):
                    self._take_in(label, image, (index == label).nonzero()[:, 0], generator)

    def _take_in_all(self, vectors: Tensor, labels: Tensor, generator: torch.Generator | None) -> None:
        """By the same rules for a GPU, which is not waited for: as much is drawn whatever the labels (B, N) are."""
        classes = torch.arange(len(self.pixels), device=labels.device)
        draws = send(torch.rand(labels.shape, generator=generator, dtype=torch.float64), labels.device)
        order = (class_index(labels, len(classes)) + draws).argsort(1)  # class after class, at random within each
        members = labels[:, None] == classes[:, None]  # (B, C, N)
        count = members.sum(2)
        means = (members.to(vectors.dtype) @ vectors) / count.clamp_min(1)[:, :, None]
        place = (count.cumsum(1) - count)[:, :, None] + torch.arange(self.pixels_per_class, device=labels.device)
        chosen = order.gather(1, place.flatten(1).clamp_max(labels.shape[1] - 1)).view_as(place)
        if self.legacy_queue:
            chosen = (members.cumsum(2) - 1).gather(2, chosen).clamp_min(0)  # where it stands among its class
        for image, mean, index, number in zip(vectors, means, chosen, count):
            self._push_all(self.regions, self.region_pointer, mean[:, None], number)
            self._push_all(self.pixels, self.pixel_pointer, image[index], number)

    @staticmethod
    def _push_all(queue: Tensor, pointer: Tensor, rows: Tensor, number: Tensor) -> None:
        """`_push` for all classes: the first ``number`` (C,) of the rows (C, K, A) of each."""
        size, rows = queue.shape[1], F.normalize(rows[:, : queue.shape[1]], dim=2).to(queue.dtype)
        step, number = torch.arange(rows.shape[1], device=rows.device), number.clamp_max(rows.shape[1])
        full = pointer + number >= size
        start = torch.where(full, size - number, pointer)
        place = torch.arange(len(queue), device=rows.device)[:, None], (start[:, None] + step) % size
        queue[place] = torch.where((step < number[:, None])[:, :, None], rows, queue[place])
        pointer.copy_(torch.where(full, 0, start + number))

    def _take_in(self, label: int, vectors: Tensor, members: Tensor, generator: torch.Generator | None) -> None:
        """Store the class's mean, and some of its pixels, of one image."""
        self._push(self.regions, self.region_pointer, label, vectors[members].mean(0, keepdim=True))
        device = "cpu" if generator is None else generator.device
        order = torch.randperm(len(members), generator=generator, device=device).to(members.device)
        chosen = order[: self.pixels_per_class]
        self._push(self.pixels, self.pixel_pointer, label, vectors[chosen if self.legacy_queue else members[chosen]])

    @staticmethod
    def _push(queue: Tensor, pointer: Tensor, label: int, rows: Tensor) -> None:
        """Write rows behind the pointer; into the last slots, with the pointer back at 0, where they would not fit."""
        size, start = queue.shape[1], int(pointer[label])
        rows = F.normalize(rows[:size], dim=1).to(queue.dtype)
        full = start + len(rows) >= size
        start = size - len(rows) if full else start
        queue[label, start : start + len(rows)] = rows
        pointer[label] = 0 if full else start + len(rows)

    def sample(
        self, generator: torch.Generator | None = None, pixel_keys: int = 4096, region_keys: int = 1024
    ) -> tuple[Tensor, Tensor]:
        """That many pixel and region keys, (K, A) each, rounded up to whole slots: the same random ones of every class.

        Fewer where the bank has fewer slots.
        """
        return self._slots(self.pixels, pixel_keys, generator), self._slots(self.regions, region_keys, generator)

    @staticmethod
    def _slots(queue: Tensor, keys: int, generator: torch.Generator | None) -> Tensor:
        device = "cpu" if generator is None else generator.device
        order = torch.randperm(queue.shape[1], generator=generator, device=device)
        return queue[:, send(order[: keys // len(queue) + 1], queue.device)].flatten(0, 1)


@dataclass(frozen=True)
class CIRKDHyper:
    """Hyper-parameters of CIRKD."""

    batch_weight: NotNegative = 1.0  # CIRKD-v1 train_cirkd.py, alpha
    pixel_weight: NotNegative = 0.1  # CIRKD-v1 scripts, beta; 0.01 on VOC
    region_weight: NotNegative = 0.1  # CIRKD-v1 scripts, gamma; 0.01 on VOC
    temperature: Positive = 0.1  # CIRKD-v1 train_cirkd.py, of all three terms
    pixel_size: Count = 20000  # CIRKD-v1 scripts: slots for each class
    region_size: Count = 2000  # CIRKD-v1 scripts: slots for each class
    pixels_per_class: Count = 16  # CIRKD-v1 losses/cirkd_memory.py: stored from each image
    pixel_keys: Count = 4096  # CIRKD-v1 losses/cirkd_memory.py: keys of a step, all classes together
    region_keys: Count = 1024  # CIRKD-v1 losses/cirkd_memory.py
    legacy_queue: bool = False  # CIRKD-v1 stores pixels of the wrong classes


@METHODS.register("cirkd")
class CIRKD(Term):
    """Mini-batch pixel-to-pixel, memory-based pixel-to-pixel and pixel-to-region distillation of head features."""

    Hyper = CIRKDHyper
    official = {"legacy_queue": True}

    @property
    def label_free(self) -> bool:
        return not (self.hyper.pixel_weight or self.hyper.region_weight)

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        """The student's projection head and the memory bank, if a memory term has a weight."""
        hyper, self.module = self.hyper, nn.Module()
        narrow, full = feature_widths(self.name, student, teacher)
        self.uses_memory = bool(hyper.pixel_weight or hyper.region_weight)
        if self.uses_memory:
            first, second = (nn.Conv2d(width, full, 1, bias=False) for width in (narrow, full))
            self.module.projection = nn.Sequential(first, nn.BatchNorm2d(full), nn.ReLU(), second)
            sizes = hyper.pixel_size, hyper.region_size, hyper.pixels_per_class
            self.module.bank = MemoryBank(student.num_classes, full, *sizes, hyper.legacy_queue)
        return self.module

    def loss(self, context: Context) -> dict[str, Tensor]:
        hyper, student = self.hyper, context.student.feature
        teacher = context.on_student_grid(context.teacher.feature)
        losses = {}
        if hyper.batch_weight:
            losses[f"{self.name}/batch"] = hyper.batch_weight * cross_image_kl(student, teacher, hyper.temperature)
        return losses | (self._memory(context, student, teacher) if self.uses_memory else {})

    def _memory(self, context: Context, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Both memory terms, on the pixels that are not ignored; the bank takes in the batch first."""
        hyper, bank = self.hyper, self.module.bank
        bank.update(teacher, context.labels, context.generator)
        pixel_keys, region_keys = bank.sample(context.generator, hyper.pixel_keys, hyper.region_keys)
        valid = labels_to_grid(context.labels, student.shape[-2:]) != IGNORE
        anchors, targets = (_rows(f, valid) for f in (wide(self.module.projection, student), teacher))
        apart = lambda keys: memory_kl(anchors, targets, keys, hyper.temperature, pixels=valid.sum())  # noqa: E731
        return {
            f"{self.name}/pixel": hyper.pixel_weight * apart(pixel_keys),
            f"{self.name}/region": hyper.region_weight * apart(region_keys),
        }


@full_precision
def _rows(feature: Tensor, valid: Tensor) -> Tensor:
    """Unit vectors (M, A) of the valid pixels of (B, A, h, w); on a GPU, which is not asked for M, of all, zero where not valid."""
    rows = feature.permute(0, 2, 3, 1)
    if valid.device.type == "cpu":
        return F.normalize(rows[valid], dim=1)
    return (F.normalize(rows, dim=3) * valid[..., None]).flatten(0, 2)
