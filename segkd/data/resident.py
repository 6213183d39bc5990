"""Where a packed split lies while a run trains: memory-mapped on the disk, or copied once to the GPU when it fits.

``SEGKD_DATA_DEVICE``: ``auto`` (the default: on the GPU of the run if the split takes at most half of its free memory),
``cpu`` (memory-mapped; bytes go to the GPU batch by batch), ``cuda`` (on the GPU, or an error). Runs on the CPU read
the memory-mapped file, which the system keeps in memory as long as there is room. Results do not depend on it.
"""

from __future__ import annotations

import os
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from segkd.data.packing import first_pixels
from segkd.data.store import Packed
from segkd.device import send
from segkd.prediction import IGNORE
from segkd.registry import UserError, unknown

CHOICES = ("auto", "cpu", "cuda")
MOST = 0.5  # of the free memory that a split may take under ``auto``; the rest is for networks and their activations
PIECE = 1 << 28  # bytes that are copied at a time

Batch = tuple[Tensor, Tensor, Tensor | None]


class Resident:
    """Images and labels of a split on one device, pixels one after the other, images of any sizes."""

    def __init__(self, packed: Packed, device: torch.device):
        self.device, self.one_size = device, packed.sizes is None
        sizes = np.tile(np.int64(packed.size), (len(packed), 1)) if self.one_size else packed.sizes
        self.sizes, self.begin = torch.from_numpy(sizes), torch.from_numpy(first_pixels(sizes))
        self.images = torch.empty(int(self.begin[-1]), 3, dtype=torch.uint8, device=device)
        self.labels = torch.empty(int(self.begin[-1]), dtype=torch.uint8, device=device)
        pieces = max(1, PIECE // int(4 * self.begin[1])) if self.one_size else 1
        for first in range(0, len(packed), pieces):
            index = np.arange(first, min(first + pieces, len(packed)))
            images, labels, _ = packed.take(index)
            place = slice(int(self.begin[first]), int(self.begin[index[-1] + 1]))
            self.images[place].copy_(images.reshape(-1, 3))
            self.labels[place].copy_(labels.reshape(-1))

    def take(self, index: np.ndarray) -> Batch:
        """As ``take``, gathered on the device: images of their own sizes end in 0 and ignore at the bottom and right."""
        chosen = torch.from_numpy(index)
        sizes, begin = self.sizes[chosen], self.begin[chosen]
        if self.one_size:
            height, width = sizes[0].tolist()
            where = send(chosen, self.device)
            return self.images.view(-1, height, width, 3)[where], self.labels.view(-1, height, width)[where], None
        height, width = sizes.amax(0).tolist()
        images = self.images.new_zeros(len(index), height, width, 3)
        labels = self.labels.new_full((len(index), height, width), IGNORE)
        for place, (first, (h, w)) in enumerate(zip(begin.tolist(), sizes.tolist())):
            pixels = slice(first, first + h * w)
            images[place, :h, :w] = self.images[pixels].view(h, w, 3)
            labels[place, :h, :w] = self.labels[pixels].view(h, w)
        return images, labels, sizes


_residents: WeakKeyDictionary[Packed, dict[torch.device, Resident | None]] = WeakKeyDictionary()


def take(packed: Packed, index: np.ndarray, device: torch.device) -> Batch:
    """Images uint8 (B, H, W, 3), labels uint8 (B, H, W), both on ``device``, and sizes int64 (B, 2) on the CPU, or None.

    The first call for a split and a device decides where the split lies; the copy goes when the split does.
    """
    places = _residents.setdefault(packed, {})
    if device not in places:
        places[device] = make_resident(packed, device)
    resident = places[device]
    if resident is not None:
        return resident.take(index)
    images, labels, sizes = packed.take(index)
    if device.type == "cuda":
        images, labels = images.pin_memory(), labels.pin_memory()
    return images.to(device, non_blocking=True), labels.to(device, non_blocking=True), sizes


def make_resident(packed: Packed, device: torch.device) -> Resident | None:
    """A copy on ``device``, or None: the split stays memory-mapped. Where there is a GPU, one line says which and why."""
    choice = os.environ.get("SEGKD_DATA_DEVICE") or "auto"
    if choice not in CHOICES:
        raise unknown("SEGKD_DATA_DEVICE", choice, CHOICES)
    if device.type != "cuda":
        if choice == "cuda":
            raise UserError(f"SEGKD_DATA_DEVICE=cuda, but the run is on {device}; give auto, or DEVICES=cuda")
        return None
    size, free = packed.nbytes, free_memory(device)
    needs = f"data: {packed.name} {packed.split}, {size / 2**30:.2f} GiB; {device} has {free / 2**30:.2f} GiB free"
    if choice == "cuda" and size > free:
        raise UserError(f"{needs}: too little for SEGKD_DATA_DEVICE=cuda; give auto or cpu")
    stays = choice == "cpu" or (choice == "auto" and size > MOST * free)
    print(f"{needs}: {'memory-mapped, sent batch by batch' if stays else 'copied there once'}", flush=True)
    return None if stays else Resident(packed, device)


def free_memory(device: torch.device) -> int:
    """Bytes free on a GPU, those that PyTorch holds in reserve for itself included."""
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserve
