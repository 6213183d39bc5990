"""The networks of CIRKD's code and FCN: shapes, gradients, classifier, normalisation, extra channels, state, refusals."""

import pytest
import torch

from segkd.models import create_model
from segkd.registry import UserError
from tests.models.harness import small


def test_dropout_lies_before_the_feature():
    model, images = small(), torch.rand(2, 3, 64, 64)
    for module in model.modules():  # a fixed encoder, so that only dropout differs between two passes
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    model.train()
    first, second = model(images), model(images)
    assert not torch.equal(first.feature, second.feature)
    assert torch.equal(first.stages[-1], second.stages[-1])
    model.eval()
    assert torch.equal(model(images).feature, model(images).feature)


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2", "efficientnet_lite1"])
def test_output_stride(encoder, stride):
    model = small(f"deeplabv3/{encoder}", output_stride=stride).eval()
    assert model(torch.rand(1, 3, 128, 160)).logits.shape[-2:] == (128 // stride, 160 // stride)
    assert model.info.output_stride == stride
    with pytest.raises(UserError, match=f"at least {4 * stride}"):
        model(torch.rand(1, 3, 4 * stride - 1, 160))


def test_networks_normalise_rgb():
    model, seen = small().eval(), []
    model.encoder.first_conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 40, 40))
    assert torch.allclose(seen[0], torch.zeros(1), atol=1e-6)


@pytest.mark.parametrize("name", ["deeplabv3/resnet18", "deeplabv3/mobilenet_v2"])
def test_memory_layout_changes_no_value(name):
    """A size at which a strided 1x1 in channels_last crashed; the layout of the images does not matter."""
    images, results = torch.rand(4, 3, 192, 256), []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = small(name).eval().to(memory_format=layout)
        prediction = model(images.contiguous(memory_format=torch.channels_last))
        assert prediction.stages[1].is_contiguous(memory_format=layout)
        prediction.logits.square().mean().backward()
        results.append([prediction.logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for plain, last in zip(*results):
        torch.testing.assert_close(plain, last, rtol=1e-3, atol=1e-6 + 1e-4 * plain.abs().max().item())


def test_aux_is_a_choice():
    assert small(aux=False).eval()(torch.rand(1, 3, 40, 40)).aux_logits is None
    model = small("deeplabv3/mobilenet_v2", aux=True)
    assert model.info.has_aux and model.eval()(torch.rand(1, 3, 40, 40)).aux_logits.shape == (1, 5, 5, 5)


def test_head_channels_override_and_names():
    model = small(head_channels=24)
    assert model.info.feature_channels == 24 == model.eval()(torch.rand(1, 3, 40, 40)).feature.shape[1]
    assert create_model("fcn", "mobilenet_v2").info.name == "fcn/mobilenet_v2"


def test_initialisation():
    model = create_model("deeplabv3", "resnet18")
    conv = model.encoder.layer2[1].conv1  # 128 -> 128, 3x3: Kaiming fan out
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert (model.encoder.layer2[1].bn2.weight == 1).all(), "the last norm of a block starts at one"
    depthwise = create_model("fcn", "mobilenet_v2").encoder.blocks[5][1].conv_dw
    assert depthwise.weight.std().item() == pytest.approx((2 / (960 * 9)) ** 0.5, rel=0.05)


def test_dilations_of_the_encoders():
    resnet = create_model("fcn", "resnet18", width=0.125).encoder
    pairs = [(b.conv1.dilation[0], b.conv2.dilation[0]) for layer in (resnet.layer3, resnet.layer4) for b in layer]
    assert pairs == [(1, 2), (2, 2), (2, 4), (4, 4)]
    deep = create_model("fcn", "resnet50", width=0.125).encoder
    middle = [[b.conv2.dilation[0] for b in layer] for layer in (deep.layer3, deep.layer4)]
    assert middle == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]
    blocks = [b for stage in create_model("fcn", "mobilenet_v2", width=0.125).encoder.blocks for b in stage]
    assert [b.conv_dw.dilation[0] for b in blocks] == [1] * 7 + [2] * 7 + [4] * 3
    assert [b.conv_dw.stride[0] for b in blocks] == [1, 2, 1, 2] + [1] * 13


@pytest.mark.parametrize("name, images, message", [
    ("deeplabv3/resnet18", torch.rand(1, 3, 31, 64), "at least 32"),
    ("dinov2/vits14", torch.rand(1, 3, 27, 64), "27x64; both sides must be at least 28"),
    ("stdc/stdc1", torch.rand(2, 3, 31, 56), "at least 32"),
    ("fcn/hrnet_w18_small", torch.rand(1, 3, 63, 80), "at least 64"),
    ("pspnet/resnet18", torch.rand(1, 4, 64, 64), r"give \(B, 3, H, W\)"),
    ("pspnet/resnet18", torch.rand(3, 64, 64), r"give \(B, 3, H, W\)"),
    ("pspnet/resnet18", torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "floats"),
])  # fmt: skip
def test_bad_images_are_refused(name, images, message):
    with pytest.raises(UserError, match=message):
        small(name).eval()(images)


def test_one_image_in_training():
    images = torch.rand(1, 3, 40, 40)
    for name in ("deeplabv3/resnet18", "pspnet/resnet18", "stdc/stdc1"):
        model = small(name).train()
        with pytest.raises(UserError, match="batch of one image"):
            model(images)
        for module in model.modules():  # frozen statistics are fine
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        assert model(images).logits.isfinite().all()
    for name, side in (("fcn/resnet18", 40), ("dinov2/vits14", 28), ("ocrnet/hrnet_w18_small", 64)):
        assert small(name).train()(torch.rand(1, 3, side, side)).logits.isfinite().all()


@pytest.mark.parametrize("arguments, options, message", [
    (("deeplab", "resnet18"), {}, "did you mean 'deeplabv3/resnet18'"),
    (("pspnet", "resnet8"), {}, "did you mean 'pspnet/resnet"),
    (("ocrnet", "hrnet_w19"), {}, "did you mean 'ocrnet/hrnet_w18'"),
    (("ocrnet", "hrnet_w18"), {"aux": False}, "leave aux out"),
    (("fcn", "hrnet_w18"), {"output_stride": 16}, "always has 4"),
    (("dinov2", "vits14"), {"output_stride": 16}, "always has 14"),
    (("dinov2", "vits14"), {"head_channels": 100}, r"as wide as its encoder \(384\)"),
    (("stdc", "stdc1"), {"output_stride": 16}, "always has 8"),
    (("stdc", "stdc3"), {}, "did you mean 'stdc"),
    (("fcn", "resnet18"), {"in_channels": 1}, "in_channels=1"),
    (("fcn", "resnet18"), {"classes": 0}, "classes=0"),
    (("fcn", "resnet18"), {"output_stride": 4}, "output_stride=4"),
    (("fcn", "resnet18"), {"head_channels": 0}, "head_channels=0"),
    (("fcn", "resnet18"), {"width": 0}, "width=0"),
])  # fmt: skip
def test_bad_arguments_are_refused(arguments, options, message):
    with pytest.raises(UserError, match=message):
        create_model(*arguments, **options)
