"""Every listed network: known sizes, forward and backward, the classifier pair, state; and the newer parts by themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkd.models import check_model_name, create_model, list_models
from segkd.models.heads.fcn import join_maps
from segkd.models.heads.isanet import DOWN, FAR, NEAR, SparseAttention, from_groups, to_groups
from segkd.models.heads.ocrnet import ObjectAttention, object_regions
from segkd.registry import UserError
from tests.models.harness import meta, rebuilt, same, small

# Parameters at 19 classes and width 1, auxiliary and detail head included; the names behind them are in tests/snapshot.json.
PARAMETERS = {
    "deeplabv3-512/resnet101": 79_084_262,  # 79.1 and 22.8 million in CIRKD's later code
    "deeplabv3-512/resnet18": 22_762_918,
    "dinov2/vitb14": 86_890_771,  # 86.6 million of ViT-B/14 (518x518), adapters and head
}
OWN_STRIDES, DILATED_STRIDES, VIT_STRIDES = (4, 8, 16, 32), (4, 8, 8, 8), (14,) * 4
SMALL = [name for name in list_models() if "w48" not in name and "101" not in name and "50" not in name]
SMP = ["smp.Unet/mobilenet_v2", "smp.FPN/resnet18", "smp.DeepLabV3Plus/resnet18", "smp.Segformer/mit_b0"]
EXTRA = ["deeplabv3/resnet18", "deeplabv3/mobilenet_v2", "stdc/stdc1", "dinov2/vits14", "smp.FPN/resnet18"]
SIZE = (65, 79)


def strides(name: str) -> tuple[int, ...]:
    return OWN_STRIDES if "hrnet" in name or "stdc" in name else VIT_STRIDES if "dinov2" in name else DILATED_STRIDES


def grid(stride: int, size: tuple[int, int] = SIZE) -> tuple[int, int]:
    return tuple(-(-side // stride) for side in size)


def test_networks_have_the_printed_parameter_counts():
    assert {name: sum(p.numel() for p in meta(name).parameters()) for name in PARAMETERS} == PARAMETERS


@pytest.mark.parametrize("name", list_models())
def test_info_tells_of_the_full_network(name):
    model = meta(name).eval()
    with torch.no_grad():
        said = model(torch.empty(1, 3, *SIZE, device="meta"))
    info = model.info
    assert info.name == name and info.has_aux == (said.aux_logits is not None)
    assert info.stage_channels == tuple(x.shape[1] for x in said.stages)
    assert [tuple(x.shape[-2:]) for x in said.stages] == [grid(stride) for stride in strides(name)]
    assert info.feature_channels == said.feature.shape[1]
    assert tuple(said.logits.shape) == (1, 19, *grid(info.output_stride))
    assert info.output_stride == (4 if "hrnet" in name or "plus" in name else 14 if "dinov2" in name else 8)


@pytest.mark.parametrize("name", list_models())
def test_forward_and_backward_with_a_fourth_channel(name):
    model = small(name, in_channels=4).train().to(memory_format=torch.channels_last)
    said = model(torch.rand(2, 4, *SIZE))
    torch.testing.assert_close(rebuilt(said), said.logits, rtol=1e-4, atol=1e-5)
    shown = [scores for scores in (said.logits, said.aux_logits, said.detail_logits) if scores is not None]
    sum(scores.square().sum() for scores in shown).backward()
    assert all(p.grad.isfinite().all() if p.requires_grad else p.grad is None for p in model.parameters())
    assert (said.detail_logits is not None) == ("stdc" in name)
    assert model.encoder.first_conv.weight.grad[:, 3].abs().sum() > 0
    assert said.stages[1].is_contiguous(memory_format=torch.channels_last)


ANY_SIZE = [
    *(f"{arch}/{encoder}" for arch in ("deeplabv3", "pspnet", "fcn") for encoder in ("resnet18", "mobilenet_v2", "efficientnet_lite0")),
    "dinov2/vits14", "stdc/stdc1",
]  # fmt: skip


@settings(max_examples=40)
@given(name=st.sampled_from(ANY_SIZE), height=st.integers(33, 90), width=st.integers(33, 90))
def test_any_size_odd_or_even(name, height, width):
    with torch.no_grad():
        said = small(name).eval()(torch.rand(1, 3, height, width))
    grids = [grid(stride, (height, width)) for stride in strides(name)]
    assert [tuple(x.shape[-2:]) for x in said.stages] == grids
    assert tuple(said.logits.shape[-2:]) == tuple(said.feature.shape[-2:]) == (grids[1] if "stdc" in name else grids[-1])
    assert said.logits.isfinite().all() and said.detail_logits is None


@pytest.mark.parametrize("name", SMALL + SMP)
def test_state_and_layout_keep_the_values(name, tmp_path):
    if "smp" in name:
        pytest.importorskip("segmentation_models_pytorch")
    model, images = small(name).train(), torch.rand(2, 3, *SIZE)
    model(images)  # moves the running statistics
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = small(name, seed=1)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    expected = model.eval()(images).logits
    assert torch.equal(other.eval()(images).logits, expected)
    found = other.to(memory_format=torch.channels_last)(images)
    torch.testing.assert_close(found.logits, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    assert "Segformer" in name or found.stages[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", EXTRA)
def test_extra_channels_change_nothing_else(name):
    """They are N(0, 0.1^2) beside the slices for RGB, and pass normalisation as they are."""
    if "smp" in name:
        pytest.importorskip("segmentation_models_pytorch")
    plain, wide = small(name), small(name, in_channels=5)
    conv = wide.encoder.first_conv
    assert conv.in_channels == wide.info.in_channels == 5 and conv.weight.requires_grad
    assert torch.equal(conv.weight[:, :3], plain.encoder.first_conv.weight)
    assert conv.weight[:, 3:].std().item() == pytest.approx(0.1, rel=0.25)
    rest = {key: value for key, value in wide.state_dict().items() if value.shape == plain.state_dict()[key].shape}
    assert same(rest, {key: plain.state_dict()[key] for key in rest}) and len(plain.state_dict()) - len(rest) == 3
    images, seen = torch.rand(1, 3, 64, 64), []
    conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    wide.eval()(torch.cat([images, torch.full((1, 2, 64, 64), 0.75)], 1))
    assert (seen[0][:, 3:] == 0.75).all()
    padded = torch.cat([images, torch.zeros(1, 2, 64, 64)], 1)
    torch.testing.assert_close(wide(padded).logits, plain.eval()(images).logits)


def test_hrnet_is_timms_but_for_the_upsampling(monkeypatch):
    """With timm's nearest upsampling in place of the bilinear one, at a size that timm takes, the maps are timm's."""
    import timm

    def nearest(x, size):
        return x if x.shape[-2:] == size else torch.nn.functional.interpolate(x, size, mode="nearest")

    monkeypatch.setattr("segkd.models.encoders.hrnet.bilinear", nearest)
    torch.manual_seed(0)
    net = timm.create_model("hrnet_w18_small", pretrained=False).eval()
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: net)
    encoder = create_model("fcn", "hrnet_w18_small", "imagenet").encoder.eval()
    images = torch.rand(1, 3, 64, 96)
    x = net.act2(net.bn2(net.conv2(net.act1(net.bn1(net.conv1(images))))))
    for ours, theirs in zip(encoder(images), net.stages(x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_auxiliary_head_on_hrnet_has_the_grid_of_the_logits():
    said = small("fcn/hrnet_w18_small", aux=True).eval()(torch.rand(1, 3, *SIZE))
    assert said.aux_logits.shape == said.logits.shape


@pytest.mark.parametrize("order", [FAR, NEAR])
def test_groups_of_cells(order):
    cells = torch.arange(16 * 24.0).view(1, 1, 16, 24)
    groups = to_groups(cells, order)[0, :, :, 0]
    first = cells[0, 0, ::DOWN, ::DOWN] if order == FAR else cells[0, 0, :DOWN, :DOWN]
    assert torch.equal(groups[0], first.flatten())
    assert torch.equal(from_groups(to_groups(cells, order), order, (16, 24)), cells)


@pytest.mark.parametrize("order", [FAR, NEAR])
def test_padded_cells_have_no_say(order):
    """Attention on an odd grid against the same sum written out for each cell over its real companions."""
    torch.manual_seed(0)
    attention, x = SparseAttention(8, order).double().eval(), torch.randn(2, 8, 11, 13).double()
    query, key, value = (f(x).flatten(2) for f in (attention.query, attention.key, attention.value))
    rows, columns = (a.flatten() for a in torch.meshgrid(torch.arange(11), torch.arange(13), indexing="ij"))
    number = (rows % 8) * 8 + columns % 8 if order == FAR else (rows // 8) * 8 + columns // 8
    scores = (query.mT @ key / 2).masked_fill(number[:, None] != number[None], -torch.inf)
    expected = attention.out((value @ scores.softmax(-1).mT).view(2, 4, 11, 13))
    torch.testing.assert_close(attention(x), expected)


def test_regions_and_what_pixels_find_in_them():
    torch.manual_seed(0)
    pixels, coarse = torch.randn(2, 8, 3, 5), torch.full((2, 4, 3, 5), -50.0)
    coarse[:, range(4), [0, 1, 2, 0], [0, 1, 2, 4]] = 50.0  # each class sure of one pixel
    regions = object_regions(pixels, coarse)
    torch.testing.assert_close(regions[..., 0], pixels[:, :, [0, 1, 2, 0], [0, 1, 2, 4]])
    attention = ObjectAttention(8, 4).eval()
    one = attention(pixels, regions[:, :, :1])  # a single region is all that a pixel can find
    torch.testing.assert_close(one, attention.out(attention.value(regions[:, :, :1])).expand_as(one))


def test_join_keeps_the_finest_map_first():
    maps = (torch.rand(1, 2, 5, 7), torch.rand(1, 3, 3, 4))
    joined = join_maps(maps)
    assert joined.shape == (1, 5, 5, 7) and torch.equal(joined[:, :2], maps[0])


def test_names_are_checked_before_a_run():
    check_model_name("ocrnet/hrnet_w18")
    with pytest.raises(UserError, match="did you mean 'isanet/resnet18'"):
        check_model_name("isanet/resnet81")


def test_the_narrowest_network_is_one():
    assert create_model("pspnet", "resnet18", classes=3, width=0.01).eval()(torch.rand(1, 3, 64, 64)).logits.shape[1] == 3
