"""One run inside a cohort: its network, method and optimiser, one step at a time, and its state."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from segkd.config import NetworkConfig, RunConfig
from segkd.losses.context import Context, TrainingData
from segkd.losses.cross_entropy import task_loss
from segkd.losses.distributed import Shard
from segkd.losses.method import Method, create_method
from segkd.models import create_model
from segkd.models.checkpoints import load_network
from segkd.models.smp import is_smp
from segkd.prediction import NetworkInfo, Prediction
from segkd.train.clock import Clock, timed
from segkd.train.evaluate import for_shard
from segkd.train.one_batch import as_one_batch
from segkd.train.optim import Mean, make_optimiser, poly
from segkd.train.processes import add_up, as_first
from segkd.train.runtime import derive, dtype_of, forward_precision, generator, new_tensors
from segkd.train.teacher import Teacher

# How far the start weights of a copy (RunConfig.rounding) are off, over each: about the last digit that they have.
LAST_DIGIT = {"float32": 1e-7, "tf32": 1e-7, "bf16": 1e-7, "float64": 1e-15}


class NonFiniteStep(RuntimeError):
    """A loss term or a gradient became NaN or infinite; the update was not made.

    ``values``: every term, ``loss`` (their sum) and ``gradient`` (the norm of all); ``bad``: which of them.
    """

    def __init__(self, run: str, step: int, values: dict[str, float]):
        self.values = values
        self.bad = [name for name, value in values.items() if not math.isfinite(value)]
        super().__init__(f"run {run}, step {step}: {', '.join(self.bad)} is not finite; no update made")


def build_network(config: RunConfig, num_classes: int, start: bool = True) -> torch.nn.Module:
    """The network of a run in its precision, its first weights drawn from the seed alone: all methods of a seed start alike.

    ``start=False``: without the weights of files, for whoever fills it himself.
    """
    torch.manual_seed(derive(config.seed, "weights"))
    network = config.network
    with new_tensors(dtype_of(config.schedule.precision)):
        model = make_network(network, num_classes, network.weights if start else None)
    if start and network.checkpoint is not None:
        load_network(model, network.checkpoint, network.checkpoint_hash)
    if start and config.rounding:
        _round_otherwise(model, config)
    if network.grad_checkpointing:
        model.set_grad_checkpointing()
    return model.to(memory_format=torch.channels_last)  # 10 to 40 % faster, on CPUs and GPUs


def make_network(network: NetworkConfig, num_classes: int, weights: str | None = None) -> torch.nn.Module:
    """The network that a config names, at its size."""
    return create_model(
        *network.name.split("/", 1), weights, 3 + network.extra_channels, num_classes,
        output_stride=network.output_stride, head_channels=network.head_channels, width=network.width,
    )  # fmt: skip


@lru_cache(maxsize=256)
def network_info(network: NetworkConfig, classes: int) -> NetworkInfo:
    """What a method may know of a run's network; built once, trained never."""
    return bare_network(network, classes).info


def bare_network(network: NetworkConfig, classes: int) -> torch.nn.Module:
    """A run's network to ask or to count, never to compute with; no weights, but in smp's, which cannot do without."""
    with torch.random.fork_rng(devices=()), torch.device("cpu" if is_smp(network.name) else "meta"):
        return make_network(network, classes)


def compiled(model: torch.nn.Module, graphs: bool) -> torch.nn.Module:
    """``model`` through torch.compile, with the dropout of the plain one, so that only rounding differs; ``graphs``: as CUDA graphs.

    All students of a network share its code (so shapes are those of one run), and each has graphs of its own, for its weights.
    """
    return torch.compile(model, dynamic=False, options={"fallback_random": True, "triton.cudagraphs": graphs})


def method_of(config: RunConfig) -> Method:
    """The config's method, made anew."""
    return create_method(config.method, variant=config.variant, **config.hyper)


@torch.no_grad()
def _round_otherwise(model: torch.nn.Module, config: RunConfig) -> None:
    """Every weight times (1 + LAST_DIGIT u), u uniform in [-1, 1) from (seed, "rounding", copy): as on another machine."""
    draws, reach = generator(config.seed, "rounding", config.rounding), LAST_DIGIT[config.schedule.precision]
    for weight in model.parameters():
        u = 2 * torch.rand(weight.shape, generator=draws, dtype=torch.float64) - 1
        weight.copy_(weight.double() * (1 + reach * u))


class Trainee:
    """Network, method and optimiser of one run; ``shard``: what of each batch this process has, None for all of it."""

    def __init__(
        self,
        config: RunConfig,
        num_classes: int,
        teacher_info: NetworkInfo | None,
        device: torch.device,
        shard: Shard | None = None,
    ):
        self.config, self.device, self.shard = config, device, shard
        self.method = method_of(config)
        self.model = build_network(config, num_classes).to(device).train()
        if shard is not None:
            self.model = as_one_batch(self.model, shard)
        self.captured = config.schedule.compile and device.type == "cuda" and shard is None  # norms over processes are no part of a graph
        self.network = compiled(self.model, self.captured) if config.schedule.compile else self.model
        self.modules = self.method.build(self.model.info, teacher_info).to(device)
        self.optimiser = make_optimiser(self._trained(), config.schedule)
        self.averaged: Mean | None = None  # once the schedule's last part has begun
        self.step, self.time, self.teacher_time = 0, Clock(device), Clock(device)
        self.rows: list[dict] = []
        self.begun: list[dict] = []  # the step at which each process took over, and its environment
        self.failure: str | None = None  # why the run stopped before its last step
        self.context: Context | None = None  # of the step in progress

    def _trained(self) -> list[torch.nn.Parameter]:
        """Parameters of network and method that the optimiser trains: not the frozen ones (parts train theirs themselves)."""
        return [p for p in (*self.model.parameters(), *self.modules.parameters()) if p.requires_grad]

    @property
    def label_assisted(self) -> bool:
        """True for the training of a label-assisted teacher: it learns from its own two paths, without a teacher."""
        return self.method.teacher_kind is not None and self.config.teacher is None

    def forward(self, images: Tensor) -> Prediction:
        """The network's prediction in training, in the precision of the schedule."""
        with forward_precision(self.device, self.config.schedule.precision):
            return self.network(images)

    def losses(self, images: Tensor, labels: Tensor, teacher: Prediction | None) -> dict[str, Tensor]:
        """Every named, weighted loss term of this step."""
        schedule, draws = self.config.schedule, generator(self.config.seed, self.step, "method")
        if self.label_assisted:
            kind = self.method.teacher_kind
            prediction = self.forward(for_shard(self.shard, kind.training_input, images, labels, draws))
            return kind.teacher_loss(prediction, labels, schedule.aux_weight, self.model.align_corners)
        student = self.forward(images)
        align = self.model.align_corners
        context = Context(self.step, schedule.steps, images, labels, student, teacher, draws, align, self.shard, checked=True)
        weight = self.method.task_weight(context)
        task = task_loss(student, labels, schedule.aux_weight, weight, align)
        self.context = context
        return {**task, **self.method.loss(context)}

    def prepare(self, teacher: Teacher, data: TrainingData) -> None:
        """What the method does before the first step; its time counts as training time."""
        with timed(self.time):
            self.method.prepare(teacher, data)

    def train_step(self, images: Tensor, labels: Tensor, teacher: Prediction | None) -> dict[str, float]:
        """One update. Dropout draws from (seed, step), so a cohort gives the same bits as a run alone."""
        with timed(self.time):
            return self._update(images, labels, teacher)

    def _update(self, images: Tensor, labels: Tensor, teacher: Prediction | None) -> dict[str, float]:
        torch.manual_seed(derive(self.config.seed, self.step, "dropout"))
        if self.captured:  # predictions and gradients of the student before may be overwritten: its step is over
            torch.compiler.cudagraph_mark_step_begin()
        terms = self.losses(images, labels, teacher)
        total = sum(terms.values())
        lr = poly(self.config.schedule, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        terms |= {"loss": total}
        own = {} if self.context is None else self.method.learn(self.context)  # of the whole batch in every process
        values = self._finite((terms if self.shard is None else add_up(terms, self._trained())) | own)
        self.optimiser.step()
        if self.context is not None:
            self.method.after_step(self.context)
            as_first(p for p in self.modules.parameters() if not p.requires_grad)  # a part's own, trained by every process
            self.context = None
        self.step += 1
        self._average()
        return {"step": self.step, "lr": lr, **values}

    def _average(self) -> None:
        """Take this step's weights into the mean of the last ones, running statistics of batch norms included."""
        schedule = self.config.schedule
        if self.step > (1 - schedule.average) * schedule.steps:
            self.averaged = self.averaged or Mean(self.model)
            self.averaged.update_parameters(self.model)

    @property
    def scored(self) -> torch.nn.Module:
        """The network that is validated and is the result: the mean of the last weights, where the schedule asks for it."""
        return self.model if self.averaged is None else self.averaged.module

    def _finite(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """The terms as numbers; NonFiniteStep if one of them or a gradient is none. The step's only wait for a GPU."""
        gradients = [p.grad for group in self.optimiser.param_groups for p in group["params"] if p.grad is not None]
        named = terms | {"gradient": get_total_norm(gradients)}
        numbers = torch.stack([value.detach().to(self.device, torch.float64) for value in named.values()]).tolist()
        values = dict(zip(named, numbers))
        if not math.isfinite(values["gradient"]):  # a sum of squares overflows where no gradient does: look at the largest
            values["gradient"] = get_total_norm(gradients, math.inf).item()
        if not all(map(math.isfinite, values.values())):
            raise NonFiniteStep(self.config.id, self.step, values)
        return {name: values[name] for name in terms}

    def gradient_norms(self) -> dict[str, float]:
        """The norm of the gradient that each layer of the network and of the method holds now."""
        squares: dict[str, float] = {}
        for whole, module in (("network", self.model), ("method", self.modules)):
            for name, parameter in module.named_parameters():
                if parameter.grad is not None:
                    layer = f"{whole}.{name.rpartition('.')[0]}".rstrip(".")
                    squares[layer] = squares.get(layer, 0.0) + parameter.grad.double().square().sum().item()
        return {layer: math.sqrt(value) for layer, value in squares.items()}

    def state(self) -> dict:
        """Everything that a later process needs to go on bit for bit (random draws are functions of the step)."""
        return {
            "step": self.step,
            "seconds": self.time.seconds,
            "teacher_seconds": self.teacher_time.seconds,
            "begun": self.begun,
            "rows": self.rows,
            "model": self.model.state_dict(),
            "modules": self.modules.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
        }

    def load_state(self, state: dict) -> None:
        """Take over what ``state`` wrote."""
        self.step, self.time.read, self.rows = state["step"], state["seconds"], state["rows"]
        self.teacher_time.read, self.begun = state.get("teacher_seconds", 0.0), state.get("begun", [])
        self.model.load_state_dict(state["model"])
        self.modules.load_state_dict(state["modules"])
        self.optimiser.load_state_dict(state["optimiser"])
        if state.get("averaged") is not None:
            self.averaged = Mean(self.model)
            self.averaged.load_state_dict(state["averaged"])
