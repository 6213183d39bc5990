"""Frames to look at for oneself: several networks' answers to the same images, as data for the slider of a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from segkd.metrics import confusion_matrix, scores

LOOK = "application/vnd.segkd.look+json"  # the MIME type by which a page knows it


@dataclass(frozen=True)
class Slider:
    """What the slider shows; in a notebook a sentence stands for it."""

    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    frames: Sequence[dict]

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        rows = ", ".join(row["name"] for row in self.frames[0]["rows"]) if self.frames else "no finished run"
        said = f"{len(self.frames)} frames, {rows}: the slider is in the rendered page (make report)"
        return {LOOK: vars(self), "text/plain": said}


def slider_frame(image: np.ndarray, label: np.ndarray, answers: dict[str, torch.Tensor], classes: int) -> dict:
    """One frame of `Slider`: ``image`` (H, W, 3) uint8, ``label`` (H, W), ``answers``: log-probabilities (C, H, W) by name.

    Maps are kept as grey PNG whose value is the class, confidence (the largest probability) as grey in 255 steps at half
    size; ``iou`` in percent, in this frame, None for a class that is in neither map.
    """
    rows = []  # in order: a notebook sorts the keys of what it keeps
    for name, logs in answers.items():
        guess = logs.argmax(0)
        iou = scores(confusion_matrix(guess, torch.from_numpy(label.copy()), classes))["iou"]
        sure = (255 * logs.amax(0).exp()).byte().numpy()[::2, ::2]
        iou = [None if value is None else round(100 * value, 1) for value in iou]
        rows.append({"name": name, "map": _coded(guess.byte().numpy()), "sure": _coded(sure), "iou": iou})
    return {"size": list(label.shape), "image": _coded(image, "WEBP"), "label": _coded(label), "rows": rows}


def _coded(pixels: np.ndarray, form: str = "PNG") -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, form, **({"quality": 80} if form == "WEBP" else {"optimize": True}))
    return base64.b64encode(buffer.getvalue()).decode()
