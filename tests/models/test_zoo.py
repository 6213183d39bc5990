"""Every listed network: known sizes, forward and backward, the classifier pair, state; and the newer parts by themselves."""

import functools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segkd.models import check_model_name, complexity, create_model, list_models
from segkd.models.heads.fcn import join
from segkd.models.heads.isanet import DOWN, FAR, NEAR, SparseAttention, from_groups, to_groups
from segkd.models.heads.ocrnet import ObjectAttention, object_regions
from segkd.registry import UserError

# Parameters at 19 classes and width 1, auxiliary and detail head included; the names behind them are in tests/snapshot.json.
PARAMETERS = {
    "deeplabv3-512/resnet101": 79_084_262,  # 79.1 and 22.8 million in CIRKD's later code
    "deeplabv3-512/resnet18": 22_762_918,
    "dinov2/vitb14": 86_890_771,  # 86.6 million of ViT-B/14 (518x518), adapters and head
}
OWN_STRIDES, DILATED_STRIDES, VIT_STRIDES = (4, 8, 16, 32), (4, 8, 8, 8), (14,) * 4
SMALL = [name for name in list_models() if "w48" not in name and "101" not in name and "50" not in name]
SIZE = (65, 79)


def small(name: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(*name.split("/"), classes=5, width=0.125, **options)


@functools.cache
def full(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return create_model(*name.split("/"))


def strides(name: str) -> tuple[int, ...]:
    return OWN_STRIDES if "hrnet" in name or "stdc" in name else VIT_STRIDES if "dinov2" in name else DILATED_STRIDES


def grid(stride: int) -> tuple[int, int]:
    return tuple(-(-side // stride) for side in SIZE)


def test_networks_have_the_printed_parameter_counts():
    assert {name: sum(p.numel() for p in full(name).parameters()) for name in PARAMETERS} == PARAMETERS


@pytest.mark.parametrize("name", list_models())
def test_info_tells_of_the_full_network(name):
    model = full(name).eval()
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
    weight, bias = said.classifier
    rebuilt = torch.einsum("bahw,ca->bchw", said.feature, weight) + bias[:, None, None]
    torch.testing.assert_close(rebuilt, said.logits, rtol=1e-4, atol=1e-5)
    shown = [scores for scores in (said.logits, said.aux_logits, said.detail_logits) if scores is not None]
    sum(scores.square().sum() for scores in shown).backward()
    assert all(p.grad.isfinite().all() if p.requires_grad else p.grad is None for p in model.parameters())
    assert (said.detail_logits is not None) == ("stdc" in name)
    assert model.encoder.first_conv.weight.grad[:, 3].abs().sum() > 0
    assert said.stages[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", SMALL)
def test_state_and_layout_keep_the_values(name, tmp_path):
    model, images = small(name).train(), torch.rand(2, 3, *SIZE)
    model(images)  # moves the running statistics
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = small(name)
    torch.nn.init.zeros_(other.head.classifier.weight)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    expected = model.eval()(images).logits
    assert torch.equal(other.eval()(images).logits, expected)
    other.to(memory_format=torch.channels_last)
    torch.testing.assert_close(other(images).logits, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["ocrnet/hrnet_w18_small", "isanet/resnet18", "deeplabv3plus/resnet18"])
def test_cost_agrees_with_torch_and_knows_attention(name):
    with torch.device("meta"):
        model = small(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, *SIZE, device="meta"))
    cost = complexity(model, SIZE)
    assert 2 * cost["macs"] == counter.get_total_flops()
    if "ocrnet" in name:  # no dilation, so beyond the papers' rule only regions, likeness and what pixels find
        pixels, key = 17 * 20, 32
        assert cost["macs"] - cost["macs_paper"] == pixels * 5 * (64 + key + key)
        assert cost["aux_params"] == 32 * 32 + 2 * 32 + 5 * 32 + 5


def test_hrnet_refuses_images_without_two_coarse_cells():
    with pytest.raises(UserError, match="at least 64"):
        small("fcn/hrnet_w18_small")(torch.rand(1, 3, 63, 80))
    assert small("ocrnet/hrnet_w18_small").train()(torch.rand(1, 3, 64, 64)).logits.isfinite().all()


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
    joined = join(maps)
    assert joined.shape == (1, 5, 5, 7) and torch.equal(joined[:, :2], maps[0])


def test_names_are_checked_before_a_run():
    check_model_name("ocrnet/hrnet_w18")
    with pytest.raises(UserError, match="did you mean 'isanet/resnet18'"):
        check_model_name("isanet/resnet81")


def test_the_narrowest_network_is_one():
    assert create_model("pspnet", "resnet18", classes=3, width=0.01).eval()(torch.rand(1, 3, 64, 64)).logits.shape[1] == 3
