"""Repeat the step at which a run stopped: its terms, the norms of their gradients, and where it first is not finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segkd.prediction import Prediction
from segkd.registry import UserError
from segkd.runs import Run, cohort_of, find
from segkd.train.failure import REPORT, TENSORS, json_number
from segkd.train.loop import own_batch, start, taught
from segkd.train.runtime import check_schedule, computing, derive, pick_device
from segkd.train.state import locked, read_json
from segkd.train.trainee import NonFiniteStep, Trainee

LAYERS = 5  # so many of the largest gradients are shown


def replay(run: Run, device: str | None = None) -> Iterator[str]:
    """Lines on the step of ``failure.json``, which is reached from the last checkpoint before it; nothing is written.

    ``device``: None for the kind that the run was on, if there is one; the CPU gives its bits if it was trained there. If the step is finite here, the batch and the
    weights that were saved at the failure are tried. UserError: no failure, or the run's teacher or data are gone.
    """
    report = read_json(run.path / REPORT, "only a run that stopped at a step that was not finite can be replayed")
    step, teacher = report["step"], find(run.config.teacher) if run.config.teacher else None
    if teacher is not None and not teacher.done:
        raise UserError(f"run {run.id}: its teacher {teacher.id} is not there; train it again, then replay")
    cpu = (report.get("begun") or [{}])[-1].get("device", "cpu") == "cpu"
    where = pick_device(device or ("cpu" if cpu else "auto"))
    check_schedule(run.config.schedule, where)
    with locked(run.path), computing(run.config.schedule.precision, where):
        cohort = cohort_of([run], teacher, where)
        trainee = start(run.config, run.path, cohort)
        if trainee.step > step:
            raise UserError(f"run {run.id}: its checkpoint, step {trainee.step}, lies behind the failure at step {step}")
        yield f"run {run.id}: from step {trainee.step} to step {step} on {where}"
        seen = lambda step: taught(cohort, [trainee], step, *own_batch(cohort, step))  # noqa: E731
        try:
            while trainee.step < step:
                trainee.train_step(*seen(trainee.step))
        except NonFiniteStep as error:
            raise UserError(f"{error}: on this machine it stops earlier than it did") from error
        trainee.network = trainee.model  # compiled code has no layers to look at, and drops what a second backward needs
        images, labels, prediction = seen(step)
        finite = yield from _examine(trainee, images, labels, prediction, report["terms"])
        if finite:
            yield "finite here; with the weights and the batch that were saved at the failure:"
            images, labels = _saved(run, trainee)
            prediction = None if cohort.teacher is None else cohort.teacher(images, labels, step)
            yield from _examine(trainee, images, labels, prediction, report["terms"])


def _saved(run: Run, trainee: Trainee) -> tuple[Tensor, Tensor]:
    """Give the network the weights of the failure; returns its images and labels."""
    from safetensors.torch import load_file

    tensors = load_file(run.path / TENSORS, device=str(trainee.device))
    prefix = "network."
    trainee.model.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return tensors["images"], tensors["labels"]


def _examine(trainee: Trainee, images: Tensor, labels: Tensor, teacher: Prediction | None, reported: dict) -> Iterator[str]:
    """Lines on one step without its update; returns (to ``yield from``) whether all of it is finite."""
    torch.manual_seed(derive(trainee.config.seed, trainee.step, "dropout"))
    for name, tensor in (("image", images), ("teacher's output", None if teacher is None else teacher.logits)):
        if tensor is not None and not tensor.isfinite().all():
            yield f"the {name} is not finite"
    with _first_bad_output(trainee) as bad, warnings.catch_warnings(action="ignore"), torch.autograd.detect_anomaly(check_nan=True):
        terms = trainee.losses(images, labels, teacher)
        parameters = [p for group in trainee.optimiser.param_groups for p in group["params"]]
        norms = {name: _gradient_norm(term, parameters) for name, term in terms.items()}
        total = sum(terms.values())
        anomaly = _anomaly(trainee, total)
    yield from (f"first layer whose output is not finite: {name}" for name in bad[:1])
    for name, term in terms.items():
        same = _same(term.item(), reported.get(name))
        yield f"{name:20} {term.item():.9g} ({same}), norm of its gradient {norms[name]:.6g}"
    own = {} if trainee.context is None else {n: v.item() for n, v in trainee.method.learn(trainee.context).items()}
    for name, value in own.items():
        yield f"{name:20} {value:.9g} ({_same(value, reported.get(name))}), of a part that trains itself"
    yield from ([f"backward: {anomaly}"] if anomaly else [])
    layers = trainee.gradient_norms()
    for name in sorted(layers, key=lambda n: (math.isfinite(layers[n]), -layers[n]))[:LAYERS]:
        yield f"gradient of {name}: norm {layers[name]:.6g}"
    return all(map(math.isfinite, [total.item(), *norms.values(), *own.values(), *layers.values()]))


def _same(value: float, said: float | str | None) -> str:
    return "as reported" if json_number(value) == said else f"reported: {said}"


@contextmanager
def _first_bad_output(trainee: Trainee) -> Iterator[list[str]]:
    """Collects the names of layers, in the order of the pass, whose output is not finite."""
    bad: list[str] = []

    def look(name: str):
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                bad.append(name)

        return hook

    named = [*trainee.model.named_modules(prefix="network"), *trainee.modules.named_modules(prefix="method")]
    handles = [module.register_forward_hook(look(name)) for name, module in named if not list(module.children())]
    try:
        yield bad
    finally:
        for handle in handles:
            handle.remove()


def _gradient_norm(term: Tensor, parameters: list[Tensor]) -> float:
    """Norm over all parameters of the gradient of one term."""
    try:
        found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    except RuntimeError:  # anomaly mode: a gradient on the way became NaN; or the term is a constant
        return math.nan if term.requires_grad else 0.0
    return math.sqrt(sum(g.double().square().sum().item() for g in found if g is not None))


def _anomaly(trainee: Trainee, total: Tensor) -> str | None:
    """Backward once more, for the layers' norms; where it first gives NaN, in torch's words."""
    trainee.optimiser.zero_grad(set_to_none=True)
    words = None
    try:
        total.backward(retain_graph=True)
    except RuntimeError as error:
        words = str(error).splitlines()[0]
        trainee.optimiser.zero_grad(set_to_none=True)
        with torch.autograd.set_detect_anomaly(False):
            total.backward()
    return words
