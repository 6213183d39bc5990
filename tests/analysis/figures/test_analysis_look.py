"""The data of a page's slider: maps that come back exactly, IoU of the frame, and a page that holds them and their script."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from segkd.analysis.figures.look import LOOK, Slider, slider_frame
from segkd.metrics import confusion_matrix, scores


def decoded(code: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))


@pytest.mark.parametrize("size", [(7, 10), (8, 5)])
def test_a_frame_holds_what_the_networks_said(size):
    random = np.random.default_rng(0)
    image, label = random.integers(0, 255, (*size, 3), dtype=np.uint8), random.choice([0, 1, 2, 255], size).astype(np.uint8)
    logs = torch.from_numpy(random.normal(size=(4, *size))).log_softmax(0)
    one = slider_frame(image, label, {"b": logs, "a": logs.flip(0)}, 4)
    first, second = one["rows"]
    assert one["size"] == list(size) and [first["name"], second["name"]] == ["b", "a"]
    assert (decoded(one["label"]) == label).all() and (decoded(first["map"]) == logs.argmax(0).numpy()).all()
    assert abs(decoded(first["sure"]) / 255 - logs.exp().amax(0).numpy()[::2, ::2]).max() <= 1 / 255
    expected = scores(confusion_matrix(logs.argmax(0), torch.from_numpy(label), 4))["iou"]
    assert first["iou"] == [None if v is None else round(100 * v, 1) for v in expected]


def test_a_notebook_says_where_the_slider_is():
    image, label = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    look = Slider(["road"], [(0, 0, 0)], [slider_frame(image, label, {"CWD": torch.zeros(1, 4, 4)}, 1)])
    bundle = look._repr_mimebundle_()
    assert "1 frames, CWD" in bundle["text/plain"] and json.loads(json.dumps(bundle[LOOK]))["frames"][0]["rows"][0]["iou"] == [100.0]
