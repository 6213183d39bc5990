"""Two networks on one image: IoU against sets of pixels, LayerCAM against grad-cam, errors by colour, the figure."""

import numpy as np
import pytest
import torch

from segkd.analysis.side_by_side import BOTH, ONLY_HERE, Look, error_picture, look, side_by_side_figure, stage_layercam
from segkd.models import create_model
from segkd.prediction import resize_scores

CLASSES = 5


def network(name: str = "pspnet/resnet18", width: float = 0.125) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(*name.split("/"), classes=CLASSES, width=width).eval()


def example(height: int = 65, width: int = 97) -> tuple[torch.Tensor, np.ndarray]:
    draws = np.random.default_rng(1)
    label = draws.integers(0, CLASSES, (height, width)).astype(np.uint8)
    label[:9] = 255
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(2)), label


def test_look_counts_as_sets_of_pixels_do():
    model, (x, label) = network(), example()
    found = look(model, x, label)
    with torch.no_grad():
        scores = torch.nn.functional.interpolate(model(x).logits, label.shape, mode="bilinear", align_corners=True)[0].double()
    chosen, seen = scores.argmax(0).numpy(), label != 255
    assert (found.predicted == chosen).mean() > 0.999 and found.predicted.dtype == np.uint8
    np.testing.assert_allclose(found.difficulty, 1 - scores.softmax(0).amax(0).numpy(), atol=1e-5)
    for c in range(CLASSES):
        both = (found.predicted == c) & (label == c) & seen
        either = ((found.predicted == c) | (label == c)) & seen
        assert found.iou[c] == pytest.approx(both.sum() / either.sum())
    assert found.miou == pytest.approx(np.mean(found.iou))


def test_a_class_that_is_nowhere_has_no_iou():
    label = np.full((48, 64), 255, np.uint8)
    label[0, 0] = 0
    found = look(network(), torch.zeros(1, 3, 48, 64), label)
    assert found.iou.count(None) >= CLASSES - 2


def test_layercam_is_grad_cams_before_it_is_scaled():
    from pytorch_grad_cam import LayerCAM

    class Scores(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return resize_scores(self.model(x).logits, tuple(x.shape[-2:]))

    model, (x, label) = network(), example()
    mask = label == 3
    layer = model.encoder.layer4 if hasattr(model.encoder, "layer4") else list(model.encoder.children())[-1]
    cam = LayerCAM(Scores(model), [layer])
    cam(x, targets=[lambda out: (out[3] * torch.from_numpy(mask)).sum()])
    seen = cam.activations_and_grads
    raw = cam.get_cam_image(x, None, None, seen.activations[0].numpy(), seen.gradients[0].numpy(), False)[0]
    wanted = torch.nn.functional.interpolate(torch.from_numpy(np.maximum(raw, 0))[None, None], mask.shape, mode="bilinear")[0, 0]
    np.testing.assert_allclose(stage_layercam(model, x, mask, 3), wanted.numpy(), rtol=1e-4, atol=1e-6 * float(wanted.max()))


OTHERS = ["deeplabv3plus/mobilenet_v2", "fcn/hrnet_w18_small", "ocrnet/hrnet_w18_small", "stdc/stdc1", "isanet/resnet18"]


@pytest.mark.parametrize("name", OTHERS)
def test_layercam_of_other_networks(name):
    model, (x, label) = network(name, 0.25), example(96, 128)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = stage_layercam(model, x, label == 1, 1)
    assert found.shape == label.shape and np.isfinite(found).all() and (found >= 0).all() and found.max() > 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_errors_by_colour():
    image = np.full((2, 2, 3), 200, np.uint8)
    label = np.array([[0, 0], [0, 255]], np.uint8)
    ours, other = np.array([[0, 1], [1, 1]], np.uint8), np.array([[1, 0], [1, 0]], np.uint8)
    found = error_picture(image, label, ours, other)
    assert found.dtype == np.uint8
    assert [tuple(map(int, colour)) for colour in found.reshape(4, 3)] == [(100,) * 3, ONLY_HERE, BOTH, (0, 0, 0)]


@pytest.mark.parametrize("classes", [2, 40])
def test_figure_names_what_it_shows(classes):
    draws = np.random.default_rng(0)
    label = draws.integers(0, classes, (24, 32)).astype(np.uint8)
    image = draws.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    seen = Look(label, draws.random((24, 32)), [0.5] * (classes - 1) + [None], 0.5)
    palette, names = draws.integers(0, 256, (classes, 3)), [f"class {c}" for c in range(classes)]
    sides = [("one", seen, label * 1.0), ("two", seen, label * 0.0)]
    figure = side_by_side_figure(image, label, sides, palette, names, 1, [seen.iou] * 2)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:5] == ["image", "A: prediction", "A: errors", "A: difficulty", "A: LayerCAM, class 1"]
    assert [tick.get_text() for tick in figure.axes[-1].get_xticklabels()] == names[:-1]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[:2] == ["A: one: mIoU 50.0 % here", "B: two: mIoU 50.0 % here"]
