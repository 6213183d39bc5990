"""DINOv2: timm's network under adapters that start as zero, what is frozen, files, merging, cost, refusals."""

import copy
import sys

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from segkd.config import NetworkConfig, RunConfig, Schedule
from segkd.models import complexity, create_model
from segkd.models.deploy import deployed
from segkd.models.encoders.dinov2 import merge_lora
from segkd.registry import UserError
from segkd.train.trainee import Trainee
from tests.models.harness import meta, same, saved, small

pytest.importorskip("peft")


def network(seed=0, **options):
    return small("dinov2/vits14", seed, **options)


def lively(model):
    """Adapters and layer scales that are not next to nothing, batch norms that do something."""
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith(("lora_B.default.weight", "norm.bias", "running_mean")):
            values.data.normal_(std=0.3)
        elif name.endswith(("gamma", "head.norm.weight", "running_var")):
            values.data.uniform_(0.5, 1.5)
    return model


def timms(**options):
    """timm's network, as narrow as `network`, with layer scales that let the blocks speak."""
    torch.manual_seed(3)
    net = timm.create_model("vit_small_patch14_dinov2", **{"embed_dim": 48, "num_heads": 6, "dynamic_img_size": True} | options)
    for block in net.blocks:
        block.ls1.gamma.data.uniform_(0.5, 1.5)
        block.ls2.gamma.data.uniform_(0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize("size", [(70, 98), (28, 42), (518, 518)])
def test_at_the_start_it_is_timms_network(size, tmp_path):
    net = timms()
    model = network(encoder_weights=saved(tmp_path, net.state_dict())).eval()
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        wanted = net.forward_intermediates((images - model.mean) / model.std, indices=[2, 5, 8, 11], norm=True)[1]
        for ours, theirs in zip(model(images).stages, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_imagenet_means_timms_weights_of_dinov2(monkeypatch):
    net, make, asked = timms(embed_dim=384), timm.create_model, []

    def fake(name, pretrained=False, **options):
        if pretrained:
            asked.append(name)
        return net if pretrained else make(name, **options)

    monkeypatch.setattr(timm, "create_model", fake)
    model = create_model("dinov2", "vits14", "imagenet")
    assert asked == ["vit_small_patch14_dinov2.lvd142m"]
    assert torch.equal(model.encoder.blocks[7].attn.qkv.base_layer.weight, net.blocks[7].attn.qkv.weight)
    assert torch.equal(model.encoder.pos_embed, net.pos_embed)
    with pytest.raises(UserError, match="width 1 only"):
        network(encoder_weights="imagenet")


def test_files_of_another_grid_and_with_the_mask_token(tmp_path):
    state = timms(img_size=224).state_dict()  # 16x16 patches
    model = network(encoder_weights=saved(tmp_path, {**state, "mask_token": torch.zeros(1, 48)}))
    assert torch.equal(model.encoder.pos_embed, resample_abs_pos_embed(state["pos_embed"], (37, 37)))
    registers = timms(reg_tokens=4, no_embed_class=True).state_dict()
    with pytest.raises(UserError, match="unexpected reg_token .*another shape for pos_embed"):
        network(encoder_weights=saved(tmp_path, registers))
    with pytest.raises(UserError, match="lacks blocks.3.attn.qkv.base_layer.weight"):
        network(encoder_weights=saved(tmp_path, {k: v for k, v in state.items() if k != "blocks.3.attn.qkv.weight"}))


def test_our_own_networks_keep_their_adapters_and_lack_none(tmp_path):
    own = lively(network())
    again = network(seed=1, encoder_weights=saved(tmp_path, own.state_dict()))
    assert same(own.encoder.state_dict(), again.encoder.state_dict())
    part = {k: v for k, v in own.state_dict().items() if "blocks.3.attn.qkv.lora_A" not in k}
    with pytest.raises(UserError, match="lacks blocks.3.attn.qkv.lora_A"):
        network(encoder_weights=saved(tmp_path, part))


def test_only_adapters_and_head_are_trained():
    config = RunConfig(
        network=NetworkConfig("dinov2/vits14", 0.125), schedule=Schedule(steps=3, lr=0.1, weight_decay=0.1, optimiser="adamw")
    )
    trainee = Trainee(config, 5, None, torch.device("cpu"))
    lively(trainee.model)
    before = copy.deepcopy(trainee.model.state_dict())
    trainee.train_step(torch.rand(2, 3, 48, 64), torch.randint(0, 5, (2, 48, 64)), None)
    trained = {n for n, p in trainee.model.named_parameters() if p.requires_grad}
    assert {n.split(".")[-3] for n in trained if n.startswith("encoder.")} == {"lora_A", "lora_B"}
    assert trained - {n for n in trained if n.startswith("encoder.")} == {
        "head.norm.weight", "head.norm.bias", "head.classifier.weight", "head.classifier.bias",
    }  # fmt: skip
    assert sum(len(group["params"]) for group in trainee.optimiser.param_groups) == len(trained) == 2 * 12 + 4
    for name, parameter in trainee.model.named_parameters():
        assert torch.equal(parameter, before[name]) != (name in trained), name
        assert (parameter.grad is not None) == (name in trained), name


def test_gradient_reaches_both_halves_of_an_adapter_and_starts_in_the_second():
    model = network().train()
    for blocks in model.encoder.blocks:
        blocks.ls1.gamma.data.fill_(1.0)
    model(torch.rand(2, 3, 48, 64)).logits.square().sum().backward()
    adapter = model.encoder.blocks[0].attn.qkv
    assert adapter.lora_A["default"].weight.grad.abs().sum() == 0 < adapter.lora_B["default"].weight.grad.abs().sum()


def test_merged_equals_unmerged():
    model = lively(network(classes=4)).eval()
    images, merged = torch.rand(2, 3, 61, 75), copy.deepcopy(model)
    merge_lora(merged)
    assert not any("lora" in name or "base_layer" in name for name in merged.state_dict())
    with torch.no_grad():
        wanted, plain = model(images).logits, network(classes=4).eval()(images).logits
        assert (merged(images).logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()
        scores = torch.nn.functional.interpolate(wanted, (61, 75), mode="bilinear", align_corners=False)
        assert (deployed(model)(images) - scores).abs().max() <= 1e-5 * wanted.abs().max()
    assert (plain - wanted).abs().max() > 0.01 * wanted.abs().max(), "the adapters of this test must do something"
    assert any("lora_B" in name for name in model.state_dict())


def test_the_grid_covers_the_image():
    """A bright cell of a 5x5 raster lights the same cell at a size that 14 divides and at one that it does not."""
    encoder = network().encoder.eval()
    for place in ((0, 0), (2, 3), (4, 4)):
        raster = torch.zeros(1, 3, 5, 5)
        raster[0, :, *place] = 1
        for side in (70, 60, 65):
            seen = []
            hook = encoder.patch_embed.proj.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
            encoder(torch.nn.functional.interpolate(raster, (side, side), mode="nearest"))
            hook.remove()
            cells = torch.nn.functional.avg_pool2d(seen[0], 14)[0, 0]
            assert tuple(divmod(cells.argmax().item(), 5)) == place and cells.max() > 0.8


def test_without_peft_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"needs the package peft: pip install 'segkd\[lora\]'"):
        network()


def test_cost_by_hand():
    cost, tokens, patches, dim, rank = complexity(meta("dinov2/vits14"), (65, 79)), 31, 30, 384, 8
    linear = 4 * dim * dim + 8 * dim * dim + rank * dim + rank * 3 * dim  # qkv and out; the two of the MLP; the adapter
    block = tokens * linear + 2 * tokens * tokens * dim  # and scores and sums of attention
    assert cost["macs"] == patches * 3 * 14 * 14 * dim + 12 * block + patches * dim * 19
    assert cost["macs"] - cost["macs_paper"] == 12 * 2 * tokens * tokens * dim
    assert cost["trained_params"] == 12 * rank * 4 * dim + 2 * dim + 19 * dim + 19
