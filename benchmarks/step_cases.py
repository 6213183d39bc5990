"""The cases of `step`: each measures a choice for speed off and on, and gives the lines of its table."""

import copy
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from losses import medians
from torch import Tensor, nn

from segkd.analysis.cost import peak_memory
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.data.augment import to_batch
from segkd.data.store import Packed
from segkd.losses.context import Context
from segkd.losses.cross_entropy import pixel_weights, weighted_cross_entropy
from segkd.models.deploy import drop_aux_head, fold_norms
from segkd.prediction import Prediction, resize_scores
from segkd.runs import split_of
from segkd.train.evaluate import evaluate
from segkd.train.optim import make_optimiser
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network

SIZE, BATCH, CLASSES = (192, 256), 8, 11
CPU = torch.device("cpu")
DATA = DataConfig("scenes", SIZE, train_limit=8, eval_limit=32, split="val")
STUDENT, TEACHER = (NetworkConfig("deeplabv3/resnet18", width) for width in (0.25, 1.0))
SMALL_TEACHER = NetworkConfig("deeplabv3/resnet18", 0.6)  # its forward costs about four of the student's
COHORT = ("kd", "cwd", "hwd", "fakd_cwd", "fakd_pd", "at", "dist", "kd+rdd")
LOGITS = (16, 150, 64, 64)
COLUMNS = ("what", "unit", "off", "on", "on/off", "target", "met", "outcomes differ by")
REPEATS = 9
clock = time.perf_counter


def seconds(work: Callable[[], object]) -> Callable[[], float]:
    """``work`` as a function that returns the time it took."""

    def timed() -> float:
        begin = clock()
        work()
        return clock() - begin

    return timed


def row(what: str, off: float, on: float, target: float | None = None, difference: float | str = "", unit: str = "ms") -> dict:
    """A line of the table; ``met`` follows from the target of on/off."""
    met = "" if target is None else "yes" if on / off <= target else "no"
    return dict(zip(COLUMNS, (what, unit, off, on, on / off, target, met, difference)))


def compared(what: str, off: Callable, on: Callable, target: float | None = None, difference: float | str = "") -> dict:
    """A line of two works timed in turns."""
    found = medians({"off": seconds(off), "on": seconds(on)}, REPEATS)
    return row(what, found["off"], found["on"], target, difference)


def gap(one: Tensor, other: Tensor) -> float:
    """Largest difference over the largest value of ``one``."""
    return float((one.double() - other.double()).abs().max() / one.double().abs().max())


def batch() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.rand(BATCH, 3, *SIZE, generator=draws), torch.randint(0, CLASSES, (BATCH, *SIZE), generator=draws)


def network(chosen: NetworkConfig) -> nn.Module:
    return build_network(RunConfig(DATA, chosen, Schedule()), CLASSES)


@functools.cache
def teacher(chosen: NetworkConfig = TEACHER) -> Teacher:
    """As in a run: batch norms folded; the auxiliary head stays for those that read it."""
    model = network(chosen).eval()
    fold_norms(model)
    return Teacher(model, None, 0)


def trainee(method: str = "baseline", info=None, **schedule) -> Trainee:
    return Trainee(RunConfig(DATA, STUDENT, Schedule(steps=10_000, lr=1e-3, **schedule), method=method), CLASSES, info, CPU)


def step_lever(what: str, off: Trainee, on: Trainee) -> dict:
    """The student's step with and without; the loss of the second step, which an update was made for."""
    images, labels = batch()
    for one in (off, on):
        one.train_step(images, labels, None)
    values = [torch.tensor(one.train_step(images, labels, None)["task"]) for one in (off, on)]
    works = [functools.partial(one.train_step, images, labels, None) for one in (off, on)]
    return compared(what, *works, difference=gap(*values))


def bf16() -> Iterator[dict]:
    yield step_lever("bf16 autocast", trainee(), trainee(precision="bf16"))


def compiled() -> Iterator[dict]:
    yield step_lever("torch.compile", trainee(), trainee(compile=True))


def channels_last() -> Iterator[dict]:
    off = trainee()
    off.model.to(memory_format=torch.contiguous_format)
    yield step_lever("channels_last", off, trainee())


def fused() -> Iterator[dict]:
    """The optimiser's step alone: a loop over tensors against one kernel."""
    images, labels = batch()
    values, works = [], []
    for flag in (False, True):
        model = network(STUDENT)
        optimiser = make_optimiser(model.parameters(), Schedule(lr=1e-3))
        if not flag:
            optimiser = torch.optim.SGD(model.parameters(), 1e-3, 0.9, weight_decay=1e-4, fused=False, foreach=False)
        torch.manual_seed(0)
        F.cross_entropy(resize_scores(model(images).logits, SIZE), labels).backward()
        optimiser.step()
        values.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        works.append(optimiser.step)
    yield compared("fused optimiser, its step", *works, difference=gap(*values))


def teacher_levers() -> Iterator[dict]:
    """The teacher's pass with norms folded, then without the auxiliary head."""
    images, _ = batch()
    plain = network(TEACHER).eval().requires_grad_(False)
    folded = copy.deepcopy(plain)
    fold_norms(folded)
    bare = copy.deepcopy(folded)
    drop_aux_head(bare)
    for what, off, on in (("folded teacher, its pass", plain, folded), ("teacher without aux head, its pass", folded, bare)):
        with torch.no_grad():
            yield compared(what, lambda: off(images), lambda: on(images), difference=gap(off(images).logits, on(images).logits))


def resizing() -> Iterator[dict]:
    """Forward and backward of the task loss's upsampling."""
    scores = torch.randn(BATCH, CLASSES, SIZE[0] // 8, SIZE[1] // 8, requires_grad=True)
    plain = lambda: F.interpolate(scores, SIZE, mode="bilinear", align_corners=True)  # noqa: E731
    ours = lambda: resize_scores(scores, SIZE)  # noqa: E731
    yield compared(
        "resizing as matrix products", lambda: plain().sum().backward(), lambda: ours().sum().backward(),
        difference=gap(plain().detach(), ours().detach()),
    )  # fmt: skip


def cross_entropy() -> Iterator[dict]:
    """Time, then memory, of one image at a time against the whole batch at label size."""
    scores = torch.randn(LOGITS, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.randint(0, LOGITS[1], (LOGITS[0], 512, 512), generator=torch.Generator().manual_seed(1))
    labels[:, :8] = 255

    def run(ours: bool) -> Tensor:
        scores.grad = None
        if ours:
            weighted_cross_entropy(scores, labels, pixel_weights(labels, None)).backward()
        else:
            up = F.interpolate(scores, (512, 512), mode="bilinear", align_corners=True)
            F.cross_entropy(up, labels, ignore_index=255).backward()
        return scores.grad

    off, on = functools.partial(run, False), functools.partial(run, True)
    memory = [peak_memory(work, CPU) for work in (off, on)]
    difference = gap(off(), on())
    yield row("chunked cross-entropy, memory", *memory, 0.15, difference, "MiB")
    times = medians({"off": seconds(off), "on": seconds(on)}, 3)
    yield row("chunked cross-entropy, time", times["off"], times["on"], 1.2, difference)


def cwd() -> Iterator[dict]:
    """The distillation step against its two parts alone."""
    images, labels = batch()
    taught, alone, source = trainee("cwd", teacher().model.info), trainee(), teacher()
    model = copy.copy(source)
    model.model = copy.deepcopy(source.model)
    drop_aux_head(model.model)  # CWD does not read it
    works = {
        "student": lambda: alone.train_step(images, labels, None),
        "teacher": lambda: model(images, labels, 0),
        "both": lambda: taught.train_step(images, labels, model(images, labels, 0)),
    }
    found = medians({name: seconds(work) for name, work in works.items()}, REPEATS, 40)  # the target is a matter of 3 %
    yield row("cwd step", found["student"] + found["teacher"], found["both"], 1.03)


def loss_shares() -> Iterator[dict]:
    """Each loss with its gradient against the student's step that contains it."""
    images, labels = batch()
    said = teacher()(images, labels, 0)
    for name in ("kd", "cwd", "hwd", "fakd_cwd"):
        one = trainee(name, teacher().model.info)
        one.train_step(images, labels, said)
        leaves = one.forward(images).detach()
        for leaf in (leaves.logits, leaves.feature, *leaves.classifier):
            leaf.requires_grad_()
        context = Context(1, 100, images, labels, leaves, said)

        def loss(one=one, context=context):
            sum(one.method.loss(context).values()).backward()
            one.method.after_step(context)

        yield compared(f"loss of {name}", lambda: one.train_step(images, labels, said), loss, 0.05)


def cohort() -> Iterator[dict]:
    """Eight students with one teacher pass and with a pass each: the same bits."""
    images, labels = batch()
    source, info = teacher(SMALL_TEACHER), teacher(SMALL_TEACHER).model.info
    groups = [[trainee(name, info) for name in COHORT] for _ in range(2)]

    def apart() -> None:
        for one in groups[0]:
            one.train_step(images, labels, source(images, labels, one.step))

    def together() -> None:
        said = source(images, labels, groups[1][0].step)
        for one in groups[1]:
            one.train_step(images, labels, said)

    for _ in range(2):
        apart(), together()
    for one, other in zip(*groups):
        same = all(map(torch.equal, one.model.state_dict().values(), other.model.state_dict().values()))
        if not same:
            raise SystemExit(f"{one.config.method}: other weights in the cohort than alone")
    with torch.no_grad():
        student = network(STUDENT).eval()
        found = medians({"1": seconds(lambda: student(images)), "4": seconds(lambda: source(images, labels, 0))}, REPEATS)
    what = f"cohort of 8, teacher pass = {found['4'] / found['1']:.1f} student passes"
    times = medians({"off": seconds(apart), "on": seconds(together)}, 3)
    yield row(what, times["off"], times["on"], 0.62, 0.0)


def bilinear(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(scores, size, mode="bilinear", align_corners=True)


@torch.no_grad()
def plain_evaluation(model: nn.Module, packed: Packed, resize: Callable = bilinear) -> Tensor:
    """Image by image, with float one-hot maps: what one writes first."""
    model.eval()
    classes, total = packed.num_classes, 0
    for index in range(len(packed)):
        images, labels = to_batch(*packed.take([index])[:2])
        scores = resize(model(images).logits, labels.shape[-2:])
        valid = labels != 255
        true, guess = (F.one_hot(x[valid], classes).float() for x in (labels, scores.argmax(1)))
        total = total + true.T @ guess
    return total


class Said(nn.Module):
    """Gives scores at once that a network gave to one batch: what is left is the cost of all else."""

    def __init__(self, model: nn.Module, images: Tensor):
        super().__init__()
        self.place, self.align_corners = nn.Parameter(torch.zeros(())), model.align_corners
        with torch.no_grad():
            self.prediction = model.eval()(images)

    def forward(self, images: Tensor) -> Prediction:
        return dataclasses.replace(self.prediction, logits=self.prediction.logits[: len(images)])


def evaluation() -> Iterator[dict]:
    packed, model = split_of(RunConfig(DATA), "val"), network(STUDENT)
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # as torch makes it
    one, other = plain_evaluation(plain, packed), evaluate(model, packed)
    rounded = int((plain_evaluation(plain, packed, resize_scores) - other).abs().sum()) // 2
    if rounded > 1e-5 * other.sum():  # a batch's scores and one image's differ in the last bit, so a tie may fall either way
        raise SystemExit(f"evaluation: {rounded} pixels counted otherwise than by the plain loop with the same resizing")
    apart = int((one - other).abs().sum()) // 2
    works = lambda: plain_evaluation(plain, packed), lambda: evaluate(model, packed)  # noqa: E731
    yield compared("evaluation", *works, 1 / 3, f"{apart} pixels of {int(other.sum())}")
    said = Said(model, to_batch(*packed.take(range(BATCH))[:2])[0])
    rest = lambda: plain_evaluation(said, packed), lambda: evaluate(said, packed)  # noqa: E731
    yield compared("evaluation but for the network's passes", *rest)


CASES = {
    "bf16": bf16, "compile": compiled, "channels_last": channels_last, "fused": fused, "teacher": teacher_levers,
    "resizing": resizing, "cwd": cwd, "losses": loss_shares, "cohort": cohort, "evaluation": evaluation,
    "cross_entropy": cross_entropy,
}  # fmt: skip
