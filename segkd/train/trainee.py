"""One run inside a cohort: its network, method and optimiser, one step at a time, and its state."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from segkd.config import RunConfig
from segkd.losses.cross_entropy import task_loss
from segkd.losses.distributed import Share
from segkd.losses.method import Context, TrainingData, create_method
from segkd.models import create_model
from segkd.models.checkpoints import load_network
from segkd.prediction import NetworkInfo, Prediction
from segkd.train.evaluate import for_share
from segkd.train.event_files import EventFiles
from segkd.train.one_batch import as_one_batch
from segkd.train.optim import make_optimiser, poly, set_lr
from segkd.train.processes import add_up, as_first
from segkd.train.runtime import derive, dtype_of, forward_precision, generator, new_tensors
from segkd.train.teacher import Teacher

# How far the start weights of a copy (RunConfig.rounding) are off, as a share of each: about the last digit that they have.
LAST_DIGIT = {"float32": 1e-7, "bf16": 1e-7, "float64": 1e-15}


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
    arch, encoder = config.network.name.split("/", 1)
    channels = 3 + config.network.extra_channels
    weights = config.network.weights if start else None
    with new_tensors(dtype_of(config.schedule.precision)):
        model = create_model(arch, encoder, weights, in_channels=channels, classes=num_classes, width=config.network.width)
    if start and config.network.checkpoint is not None:
        load_network(model, config.network.checkpoint, config.network.checkpoint_hash)
    if start and config.rounding:
        _round_otherwise(model, config)
    if config.network.grad_checkpointing:
        model.set_grad_checkpointing()
    return model.to(memory_format=torch.channels_last)  # 10 to 40 % faster, on CPUs and GPUs


@torch.no_grad()
def _round_otherwise(model: torch.nn.Module, config: RunConfig) -> None:
    """Every weight times (1 + LAST_DIGIT u), u uniform in [-1, 1) from (seed, "rounding", copy): as on another machine."""
    draws, share = generator(config.seed, "rounding", config.rounding), LAST_DIGIT[config.schedule.precision]
    for weight in model.parameters():
        u = 2 * torch.rand(weight.shape, generator=draws, dtype=torch.float64) - 1
        weight.copy_(weight.double() * (1 + share * u))


class Trainee:
    """Network, method and optimiser of one run; ``share``: what of each batch this process has, None for all of it."""

    def __init__(
        self,
        config: RunConfig,
        num_classes: int,
        teacher_info: NetworkInfo | None,
        device: torch.device,
        share: Share | None = None,
    ):
        self.config, self.device, self.share = config, device, share
        self.method = create_method(config.method, variant=config.variant, **config.hyper)
        self.model = build_network(config, num_classes).to(device).train()
        if share is not None:
            self.model = as_one_batch(self.model, share)
        self.network = self.model
        if config.schedule.compile:  # with the dropout of the plain network, so that only rounding differs
            self.network = torch.compile(self.model, options={"fallback_random": True})
        self.modules = self.method.build(self.model.info, teacher_info).to(device)
        self.optimiser = make_optimiser(self._trained(), config.schedule)
        self.step, self.seconds, self.teacher_seconds = 0, 0.0, 0.0
        self.rows: list[dict] = []
        self.begun: list[dict] = []  # the step at which each process took over, and its environment
        self.failure: str | None = None  # why the run stopped before its last step
        self.context: Context | None = None  # of the step in progress
        self.events: EventFiles | None = None  # for TensorBoard, where that is asked for

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
            both_paths = for_share(self.share, kind.training_input, images, labels, draws)
            prediction = self.forward(both_paths.to(self.device))
            return kind.teacher_loss(prediction, labels, schedule.aux_weight, self.model.align_corners)
        student = self.forward(images)
        align = self.model.align_corners
        context = Context(self.step, schedule.steps, images, labels, student, teacher, draws, align, self.share)
        weight = self.method.task_weight(context)
        task = task_loss(student, labels, schedule.aux_weight, weight, align)
        self.context = context
        return {**task, **self.method.loss(context)}

    def prepare(self, teacher: Teacher, data: TrainingData) -> None:
        """What the method does before the first step; its time counts as training time."""
        begin = time.perf_counter()
        self.method.prepare(teacher, data)
        self.seconds += time.perf_counter() - begin

    def train_step(self, images: Tensor, labels: Tensor, teacher: Prediction | None) -> dict[str, float]:
        """One update. Dropout draws from (seed, step), so a cohort gives the same bits as a run alone."""
        begin = time.perf_counter()
        torch.manual_seed(derive(self.config.seed, self.step, "dropout"))
        terms = self.losses(images, labels, teacher)
        total = sum(terms.values())
        lr = poly(self.config.schedule, self.step)
        set_lr(self.optimiser, lr)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        terms |= {"loss": total}
        own = {} if self.context is None else self.method.learn(self.context)  # of the whole batch in every process
        values = self._finite((terms if self.share is None else add_up(terms, self._trained())) | own)
        self.optimiser.step()
        if self.context is not None:
            self.method.after_step(self.context)
            as_first(p for p in self.modules.parameters() if not p.requires_grad)  # a part's own, trained by every process
            self.context = None
        self.step += 1
        self.seconds += time.perf_counter() - begin
        return {"step": self.step, "lr": lr, **values}

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
            "seconds": self.seconds,
            "teacher_seconds": self.teacher_seconds,
            "begun": self.begun,
            "rows": self.rows,
            "model": self.model.state_dict(),
            "modules": self.modules.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state(self, state: dict) -> None:
        """Take over what ``state`` wrote."""
        self.step, self.seconds, self.rows = state["step"], state["seconds"], state["rows"]
        self.teacher_seconds, self.begun = state.get("teacher_seconds", 0.0), state.get("begun", [])
        self.model.load_state_dict(state["model"])
        self.modules.load_state_dict(state["modules"])
        self.optimiser.load_state_dict(state["optimiser"])
