"""Networks of segmentation-models-pytorch behind our output: shapes, smp's own values, padding, costs, refusals."""

import pytest
import torch
import torch.nn.functional as F

from segkd.models import check_model_name, complexity, create_model, list_models
from segkd.registry import UserError

pytest.importorskip("segmentation_models_pytorch")
# name: stride of the logits, width of the feature, strides of the maps
NETWORKS = {
    "smp.Unet/resnet18": (1, None, (2, 4, 8, 16, 32)),
    "smp.FPN/mobilenet_v2": (4, 128, (2, 4, 8, 16, 32)),
    "smp.DeepLabV3Plus/resnet18": (4, 256, (2, 4, 8, 16, 16)),
    "smp.Segformer/mit_b0": (4, 256, (4, 8, 16, 32)),
}


def build(name: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(*name.split("/"), classes=5, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_odd_size_forward_and_backward_with_a_fourth_channel(name, tmp_path):
    stride, width, strides = NETWORKS[name]
    model, images = build(name, in_channels=4).train(), torch.rand(2, 4, 45, 67)
    said = model(images)
    grid = lambda step: (-(-45 // step), -(-67 // step))  # noqa: E731
    info = model.info
    assert (info.name, info.output_stride, info.feature_channels, info.has_aux) == (name, stride, width, False)
    assert said.logits.shape == (2, 5, *grid(stride)) and said.aux_logits is None
    assert [tuple(x.shape[-2:]) for x in said.stages] == [grid(step) for step in strides]
    assert tuple(x.shape[1] for x in said.stages) == info.stage_channels
    said.logits.square().sum().backward()
    assert model.encoder.first_conv.weight.grad[:, 3].abs().sum() > 0
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = build(name, in_channels=4)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(other.eval()(images).logits, model.eval()(images).logits)


@pytest.mark.parametrize("name", NETWORKS)
def test_values_are_smps_own(name):
    model, images = build(name).eval(), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        said, expected = model(images), model.net((images - model.mean) / model.std)
    scores = F.interpolate(said.logits, (64, 96), mode="bilinear", align_corners=model.align_corners)
    torch.testing.assert_close(scores, expected)
    if said.feature is not None:
        weight, bias = said.classifier
        rebuilt = torch.einsum("bahw,ca->bchw", said.feature, weight) + bias[:, None, None]
        torch.testing.assert_close(rebuilt, said.logits, rtol=1e-4, atol=1e-5)
    assert (said.feature is None) == (said.classifier is None) == ("Unet" in name)


def test_further_channels_keep_the_rest():
    plain, wide = build("smp.FPN/resnet18").eval(), build("smp.FPN/resnet18", in_channels=5).eval()
    assert torch.equal(plain.encoder.first_conv.weight, wide.encoder.first_conv.weight[:, :3])
    images = torch.rand(1, 3, 40, 40)
    padded = torch.cat([images, torch.zeros(1, 2, 40, 40)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(wide(padded).logits, plain(images).logits)


def test_networks_with_their_own_needs():
    pan = build("smp.PAN/resnet18").eval()
    with pytest.raises(UserError, match="at least 128"):
        pan(torch.rand(1, 3, 127, 130))
    assert pan(torch.rand(1, 3, 129, 130)).logits.shape == (1, 5, 33, 33)
    dpt = build("smp.DPT/tu-vit_tiny_patch16_224").eval()
    said = dpt(torch.rand(1, 3, 45, 67))
    assert said.logits.shape == (1, 5, 23, 34) and said.feature.shape[1] == dpt.info.feature_channels
    with pytest.raises(UserError, match="batch this small"):
        build("smp.DeepLabV3/resnet18").train()(torch.rand(1, 3, 64, 64))


def test_cost():
    model = build("smp.Segformer/mit_b0")
    cost = complexity(model, (64, 64))
    assert cost["params"] == sum(p.numel() for p in model.net.parameters()) and cost["aux_params"] == 0
    assert cost["macs"] > cost["macs_paper"] > 0, "the papers' rule does not know attention"


def test_the_layout_changes_no_value():
    model, images = build("smp.Unet/mobilenet_v2").eval(), torch.rand(2, 3, 45, 67)
    with torch.no_grad():
        expected = model(images).logits
        said = model.to(memory_format=torch.channels_last)(images)
    torch.testing.assert_close(said.logits, expected, rtol=1e-3, atol=1e-4)
    assert said.stages[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (("smp.Unett", "resnet18"), {}, "did you mean 'smp.Unet'"),
        (("smp.Unet", "resnet19"), {}, "did you mean 'resnet18'"),
        (("smp.Unet", "tu-nothing"), {}, "unknown encoder of smp.Unet"),
        (("smp.Linknet", "mit_b0"), {}, "not supported for Linknet"),
        (("smp.Unet", "resnet18", "imagenot"), {}, "imagenot"),
        (("smp.Unet", "mobileone_s0"), {"in_channels": 4}, "2 convolutions"),
        (("smp.Unet", "resnet18"), {"width": 0.5}, "leave width out"),
        (("smp.Unet", "resnet18"), {"aux": True}, "leave aux out"),
        (("smp.Unet", "resnet18"), {"output_stride": 16}, "leave output_stride out"),
        (("smp.Unet", "resnet18"), {"head_channels": 8}, "leave head_channels out"),
    ],
)
def test_refusals(arguments, options, message):
    with pytest.raises(UserError, match=message):
        create_model(*arguments, **options)


def test_names():
    assert not any(name.startswith("smp.") for name in list_models())
    check_model_name("smp.unet/tu-resnet18")
    with pytest.raises(UserError, match="did you mean 'smp.FPN'"):
        check_model_name("smp.FPM/resnet18")
