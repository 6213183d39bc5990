"""Networks of segmentation-models-pytorch behind our output: shapes, smp's own values, padding, costs, refusals."""

import pytest
import torch
import torch.nn.functional as F

from segkd.models import check_model_name, complexity, create_model, list_models
from segkd.registry import UserError
from tests.models.harness import rebuilt, small

pytest.importorskip("segmentation_models_pytorch")
# name: stride of the logits, width of the feature, strides of the maps
NETWORKS = {
    "smp.Unet/resnet18": (1, None, (2, 4, 8, 16, 32)),
    "smp.FPN/mobilenet_v2": (4, 128, (2, 4, 8, 16, 32)),
    "smp.DeepLabV3Plus/resnet18": (4, 256, (2, 4, 8, 16, 16)),
    "smp.Segformer/mit_b0": (4, 256, (4, 8, 16, 32)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_odd_size_forward_and_backward_with_a_fourth_channel(name):
    stride, width, strides = NETWORKS[name]
    model, images = small(name, in_channels=4).train(), torch.rand(2, 4, 45, 67)
    said = model(images)
    grid = lambda step: (-(-45 // step), -(-67 // step))  # noqa: E731
    info = model.info
    assert (info.name, info.output_stride, info.feature_channels, info.has_aux) == (name, stride, width, False)
    assert said.logits.shape == (2, 5, *grid(stride)) and said.aux_logits is None
    assert [tuple(x.shape[-2:]) for x in said.stages] == [grid(step) for step in strides]
    assert tuple(x.shape[1] for x in said.stages) == info.stage_channels
    said.logits.square().sum().backward()
    assert model.encoder.first_conv.weight.grad[:, 3].abs().sum() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_values_are_smps_own(name):
    model, images = small(name).eval(), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        said, expected = model(images), model.net((images - model.mean) / model.std)
    scores = F.interpolate(said.logits, (64, 96), mode="bilinear", align_corners=model.align_corners)
    torch.testing.assert_close(scores, expected)
    if said.feature is not None:
        torch.testing.assert_close(rebuilt(said), said.logits, rtol=1e-4, atol=1e-5)
    assert (said.feature is None) == (said.classifier is None) == ("Unet" in name)


def test_networks_with_their_own_needs():
    pan = small("smp.PAN/resnet18").eval()
    with pytest.raises(UserError, match="at least 128"):
        pan(torch.rand(1, 3, 127, 130))
    assert pan(torch.rand(1, 3, 129, 130)).logits.shape == (1, 5, 33, 33)
    dpt = small("smp.DPT/tu-vit_tiny_patch16_224").eval()
    said = dpt(torch.rand(1, 3, 45, 67))
    assert said.logits.shape == (1, 5, 23, 34) and said.feature.shape[1] == dpt.info.feature_channels
    with pytest.raises(UserError, match="no gradient checkpointing"):
        dpt.set_grad_checkpointing()
    with pytest.raises(UserError, match="batch this small"):
        small("smp.DeepLabV3/resnet18").train()(torch.rand(1, 3, 64, 64))


def test_cost():
    model = small("smp.Segformer/mit_b0")
    cost = complexity(model, (64, 64))
    assert cost["params"] == sum(p.numel() for p in model.net.parameters()) and cost["aux_params"] == 0
    assert cost["macs"] > cost["macs_paper"] > 0, "the papers' rule does not know attention"


@pytest.mark.parametrize("arguments, options, message", [
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
])  # fmt: skip
def test_refusals(arguments, options, message):
    with pytest.raises(UserError, match=message):
        create_model(*arguments, **options)


def test_names():
    assert not any(name.startswith("smp.") for name in list_models())
    check_model_name("smp.unet/tu-resnet18")
    with pytest.raises(UserError, match="did you mean 'smp.FPN'"):
        check_model_name("smp.FPM/resnet18")
