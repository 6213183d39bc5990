"""Users' networks: what `segkd.adapt` makes of them, every method on them, and what it refuses."""

import copy
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import segkd
from segkd.losses import Context, TrainingData, create_method, list_methods, task_loss
from segkd.models import complexity
from segkd.models.adapt import token_grid
from segkd.registry import UserError
from tests.models.harness import rebuilt, same, small

CLASSES = 4
CONV = {"logits": "classifier", "stages": ("backbone.1", "backbone.3", "backbone.6", "backbone.16")}
TOKEN = {"logits": "classify", "stages": ("blocks.0", "blocks.1", "blocks.2")}
SEGFORMER = {"logits": "decode_head.classifier", "stages": [f"segformer.stages.{n}.layer_norm" for n in range(4)]}
STRIDES = {"convolutional": (2, 4, 8, 16), "transformer": (4, 8, 16), "segformer": (4, 8, 16, 32)}


class Attend(nn.Module):
    """Overlapping patches to tokens (B, N, C), one attention and one Linear: a stage of a hierarchical transformer."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.patch = nn.Conv2d(channels, out, 2 * stride - 1, stride, stride - 1)
        self.norm, self.attention = nn.LayerNorm(out), nn.MultiheadAttention(out, 2, batch_first=True)
        self.mix = nn.Linear(out, out)

    def forward(self, x):
        tokens = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return tokens + F.gelu(self.mix(tokens))


class TokenSegmenter(nn.Module):
    """Tokens at strides 4, 8 and 16, each embedded by a Linear, joined at stride 4; returns an object with ``logits``."""

    def __init__(self, widths=(8, 16, 16), width=12):
        super().__init__()
        self.blocks = nn.ModuleList(Attend(a, b, s) for a, b, s in zip((3, *widths), widths, (4, 2, 2)))
        self.embed = nn.ModuleList(nn.Linear(channels, width) for channels in widths)
        self.fuse, self.classify = nn.Linear(3 * width, width), nn.Linear(width, CLASSES)

    def forward(self, pixels):
        maps, joined = pixels, []
        for number, (block, embed) in enumerate(zip(self.blocks, self.embed)):
            tokens = block(maps)
            grid = [-(-side // (4 * 2**number)) for side in pixels.shape[-2:]]
            maps = tokens.transpose(1, 2).unflatten(2, grid)
            first = maps.shape[-2:] if number == 0 else first
            joined.append(F.interpolate(embed(tokens).transpose(1, 2).unflatten(2, grid), first, mode="bilinear"))
        scores = self.classify(F.relu(self.fuse(torch.cat(joined, 1).flatten(2).transpose(1, 2))))
        return SimpleNamespace(logits=scores.transpose(1, 2).unflatten(2, first))


def convolutional(**options):
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    torch.manual_seed(0)
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)
    return segkd.adapt(network, **{**CONV, **options})


def transformer(**options):
    torch.manual_seed(0)
    return segkd.adapt(TokenSegmenter(), **{**TOKEN, **options})


def segformer(**options):
    """transformers' own SegFormer, from a configuration (no weights are fetched); returns an object with ``logits``."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 16, 16, 32], "depths": [1] * 4, "num_attention_heads": [1, 1, 1, 2], "decoder_hidden_size": 12}
    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES, **sizes))
    return segkd.adapt(network, **{**SEGFORMER, **options})


def papers(**options):
    return small("fcn/resnet18", seed=1, classes=CLASSES, **options)


NETWORKS = {"convolutional": convolutional, "transformer": transformer}
NETWORKS |= {"segformer": segformer} if find_spec("transformers") else {}  # comes with the extra `lora`
FEATURE = {"at", "cirkd", "dsd", "fitnet", "ifvd", "mgd", "skd"}
UNSERVED = {  # what each network lacks decides which methods it cannot serve, as (student, teacher)
    "convolutional": ({*FEATURE, "fakd_cwd", "fakd_pd"}, {*FEATURE, "lad", "rdd"}),
    "transformer": (set(), {"lad", "rdd"}),
    "segformer": (set(), {"lad", "rdd"}),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pairs():
    """(student, teacher) by (network, role): the adapted network in one role, a network of the papers in the other."""
    made = {kind: make() for kind, make in NETWORKS.items()}
    return {
        (kind, role): (network, papers().eval()) if role == "student" else (papers(), network)
        for kind, network in made.items() for role in ("student", "teacher")
    }  # fmt: skip


def one_step(name, student, teacher):
    """Loss of one step of a method, with its gradient in the student."""
    torch.manual_seed(0)
    method = create_method(name)
    method.build(student.info, teacher.info)
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, CLASSES, (2, 64, 64))
    draws = torch.Generator().manual_seed(0)
    student.train().zero_grad()
    teacher.eval()

    def teach(images, labels, step):
        kind = method.teacher_kind
        with torch.no_grad():
            return teacher(images if kind is None else kind.teacher_input(images, labels, draws))

    method.prepare(teach, TrainingData(2, lambda step: (images, labels)))
    context = Context(0, 2, images, labels, student(images), teach(images, labels, 0), draws, student.align_corners)
    task = task_loss(context.student, labels, weight=method.task_weight(context), align_corners=student.align_corners)
    total = sum({**task, **method.loss(context)}.values())
    total.backward()
    method.after_step(context)
    return total


@pytest.mark.parametrize("method", list_methods())
@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_method_runs_or_names_what_is_missing(kind, role, method, pairs):
    student, teacher = pairs[kind, role]
    if method == "lad" and role == "student":
        teacher = papers(in_channels=4)
    try:
        total = one_step(method, student, teacher)
    except UserError as error:
        said = str(error)
        assert any(word in said for word in ("no feature", "no auxiliary head", "stages", "(B, 3, H, W)")), said
        assert method in UNSERVED[kind][role == "teacher"], said
        return
    assert method not in UNSERVED[kind][role == "teacher"]
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert torch.isfinite(total) and gradients and all(torch.isfinite(g).all() for g in gradients)
    assert sum(g.abs().sum() for g in gradients) > 0


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (61, 75)])
def test_prediction_agrees_with_the_network_and_its_description(kind, size):
    adapted = NETWORKS[kind]().eval()
    images = torch.rand(2, 3, *size)
    prediction, own = adapted(images), adapted.network(images)
    info = adapted.info
    scores = own["out"] if kind == "convolutional" else own.logits
    shown = F.interpolate(prediction.logits, scores.shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(shown, scores, rtol=1e-4, atol=1e-5)
    assert info.num_classes == prediction.logits.shape[1] == CLASSES and info.in_channels == 3 and not info.has_aux
    assert tuple(s.shape[1] for s in prediction.stages) == info.stage_channels
    assert [s.shape[-2:] for s in prediction.stages] == [tuple(-(-side // k) for side in size) for k in STRIDES[kind]]
    assert info.output_stride == (8 if kind == "convolutional" else 4)
    if kind != "convolutional":
        torch.testing.assert_close(rebuilt(prediction), prediction.logits, rtol=1e-4, atol=1e-5)
        assert info.feature_channels == prediction.feature.shape[1] == 12
    else:
        assert prediction.feature is None and prediction.classifier is None and info.feature_channels is None


def test_other_outputs_features_and_classifiers_by_name():
    whole = transformer(logits="", stages=())
    assert whole.info.feature_channels is None and whole.info.output_stride == 4 and whole(torch.rand(1, 3, 32, 32)).stages == ()
    named = transformer(logits="", classifier="classify", aux_logits="classify", name="mine")
    assert named.info.name == "mine" and named.info.has_aux and named.info.feature_channels == 12
    features = convolutional(feature="classifier.cbr", classes=CLASSES)
    prediction = features(torch.rand(2, 3, 64, 64))
    assert features.info.feature_channels == 128 and prediction.feature.shape[-2:] == prediction.logits.shape[-2:]
    with pytest.raises(UserError, match="no classifier"):
        one_step("fakd_cwd", features, papers())
    assert torch.isfinite(one_step("at", features, papers()))


def test_normalisation_copies_and_the_users_module_are_kept_apart():
    plain, mean, std = transformer(), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    normalised = segkd.adapt(plain.network, **TOKEN, mean=mean, std=std, align_corners=True)
    images = torch.rand(2, 3, 32, 32)
    apart = (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(normalised(images).logits, plain(apart).logits)
    assert normalised.align_corners and not plain.align_corners
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in plain.modules())
    assert plain.encoder.first_conv is plain.network.blocks[0].patch
    twin = copy.deepcopy(plain)
    torch.testing.assert_close(twin(images).feature, plain(images).feature)
    assert complexity(plain, (32, 32))["params"] == sum(p.numel() for p in plain.network.parameters())


def test_describing_leaves_modes_and_statistics():
    network = convolutional().network.train()
    network.backbone.eval()
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    segkd.adapt(network, **CONV)
    assert modes == [m.training for m in network.modules()]
    assert same(network.state_dict(), before)


@pytest.mark.parametrize("train", [True, False])
def test_outputs_that_the_next_module_changes_in_place(train):
    torch.manual_seed(0)
    change = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True))
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), change, nn.Conv2d(8, 4, 1), nn.ReLU(inplace=True))
    network.train(train)
    adapted = segkd.adapt(network, logits="3", stages=["1"])
    images = torch.rand(2, 3, 16, 16)
    said, own = adapted(images), network[1](network[0](images))
    assert (own < 0).any() and (network[3].bias is not None)
    torch.testing.assert_close(said.stages[0], own)
    torch.testing.assert_close(said.logits, rebuilt(said))
    said.stages[0].sum().backward()
    assert network[0].weight.grad is not None and network[3].weight.grad is None


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.norm, self.classify = nn.Conv2d(4, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 3, bias=False)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.tokens = nn.Identity()

    def forward(self, x):
        x = self.norm(self.read(x).permute(0, 2, 3, 1))
        self.tokens(torch.cat([self.token.expand(len(x), -1, -1), x.flatten(1, 2)], 1))
        return self.classify(x).permute(0, 3, 1, 2)


def test_channels_last_class_tokens_and_extra_channels():
    adapted = segkd.adapt(ChannelsLast(), logits="classify", stages=["norm", "tokens"], mean=(0.5,) * 3, std=(0.2,) * 3)
    assert adapted.info.in_channels == 4 and adapted.info.stage_channels == (8, 8) and adapted.info.feature_channels == 8
    prediction = adapted(torch.rand(2, 4, 32, 48))
    assert prediction.logits.shape == (2, 3, 8, 12) and torch.equal(prediction.stages[0], prediction.stages[1])
    assert torch.equal(prediction.classifier[1], torch.zeros(3)) and adapted.mean.flatten()[3] == 0
    given = segkd.adapt(ChannelsLast(), logits="classify", stages=["tokens"], grid=lambda n, h, w: (h // 4, w // 4))
    assert given(torch.rand(1, 4, 32, 48)).stages[0].shape == (1, 8, 8, 12)
    assert token_grid(12 * 7, 96, 56) == (12, 7) and token_grid(8 * 8 + 1, 64, 64) == (8, 8)
    assert token_grid(13 * 10, 100, 75) == (13, 10)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"logits": "clasify"}, r"module of the network \(logits\) 'clasify': did you mean 'classify'"),
        ({"stages": ("blocks.0", "blocks.7")}, r"\(stages\[1\]\) 'blocks.7': did you mean 'blocks\."),
        ({"classes": 19}, "have 4 classes, not 19"),
        ({"classifier": "blocks.0.norm"}, "is a LayerNorm; name a Linear or 1x1 Conv2d"),
        ({"classifier": "fuse"}, "classifier 'fuse' maps 36 channels to 12"),
        ({"feature": "fuse"}, "does not give the scores"),
        ({"aux_logits": "fuse"}, "aux_logits of TokenSegmenter have 12 classes, not 4"),
        ({"stages": ("blocks.0.attention",)}, "returns tuple, not a tensor"),
        ({"stages": ("blocks.0.attention.out_proj",)}, "was not called"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean and std together"),
        ({"mean": (0.5,) * 4, "std": (0.2,) * 4}, "do not fit 3 channels"),
        ({"size": (0, 64)}, "size is \\(H, W\\)"),
        ({"grid": lambda n, h, w: (h, w)}, "fewer than the grid 64x64"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(UserError, match=words):
        transformer(**options)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"give floats \(B, 3, H, W\)"):
        transformer()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(UserError, match="are no grid of a 64x64 image"):
        token_grid(38, 64, 64)
    with pytest.raises(UserError, match=r"Sequential fails on images \(2, 3, 4, 4\)"):
        segkd.adapt(nn.Sequential(nn.Conv2d(3, 4, 9)), logits="0", size=(4, 4))
