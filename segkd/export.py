"""From a run to a file that is deployed, checked against the run before it appears, with a card that says what it is."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from timeit import timeit

import torch
from torch import Tensor

from segkd.config import RunConfig
from segkd.data.augment import to_batch
from segkd.formats import FORMATS, Format, Function, description, output_name
from segkd.metrics import confusion_matrix, scores
from segkd.models.deploy import deployed
from segkd.models.zoo import ENCODERS
from segkd.prediction import resize_scores
from segkd.registry import UserError, unknown
from segkd.runs import Run, split_of
from segkd.train.runtime import one_thread
from segkd.train.state import read_json, write_whole

REPEATS = 10


@dataclass(frozen=True)
class Exported:
    """A file and what was measured. ``difference`` is relative to the largest score; times are seconds an image."""

    path: Path
    format: str
    output: str  # "scores" or "labels"
    sizes: tuple[tuple[int, int], ...]
    difference: float
    images: int
    miou: float | None  # None: the run's data is not on this machine
    run_miou: float | None
    seconds: float
    run_seconds: float
    bytes: int
    run_bytes: int

    def lines(self) -> list[str]:
        """The same in words."""
        sizes = ", ".join(f"{h}x{w}" for h, w in self.sizes)
        quality = "mIoU not compared: the run's data is not here"
        if self.miou is not None:
            quality = f"mIoU      {self.miou:.4f}, run {self.run_miou:.4f}, on {self.images} images"
        return [
            f"{self.path}  ({self.format}: images to {self.output})",
            f"size      {self.bytes / 2**20:.2f} MiB, run {self.run_bytes / 2**20:.2f} MiB",
            f"latency   {1e3 * self.seconds:.1f} ms, run {1e3 * self.run_seconds:.1f} ms "
            f"(one image {self.sizes[0][0]}x{self.sizes[0][1]}, one CPU thread, median of {REPEATS})",
            f"checked   largest difference {self.difference:.1e} of the largest score, at {sizes}",
            quality,
        ]


def export_run(run: Run, format: str = "onnx", out: Path | None = None, argmax: bool = False, loss: float | None = None) -> Exported:
    """Write the student of a finished run alone, a card (Markdown) beside it, and return what was measured.

    ``out``: the file, or its folder (default: the working directory); it is then the run's id with the format's suffix. ``argmax``: labels
    (B, H, W) int64 instead of scores (B, C, H, W). The file appears only if it agrees with the run at several sizes
    and on the run's test images. ``loss``: of mIoU, that int8 may cost there (default: 0.01). UserError: unknown format, missing package, file there already, a run that is not
    finished or that reads labels, an export that disagrees.
    """
    kind = _checked(run, format)
    kind = kind if loss is None else replace(kind, loss=loss)
    path = Path(out or "")
    path = path / (run.id + kind.suffix) if path.is_dir() else path
    for there in (path, path.with_suffix(".md")):
        if there.exists():
            raise UserError(f"'{there}' is there already: remove it or give another --out")
    network = run.load_model("cpu").float()  # what formats and their runtimes compute in
    found: list[Exported] = []

    def write_and_check(part: Path) -> None:
        with one_thread():
            kind.write(model, run, part)
            found.append(compare(run, network, part, path, format, kind, argmax))

    model = deployed(network, argmax)
    write_whole(path, write_and_check)
    try:
        write_whole(path.with_suffix(".md"), lambda part: part.write_text(card(run, description(model, run), found[0])))
    except UserError:
        path.unlink()
        raise
    return found[0]


def card(run: Run, about: dict[str, str], made: Exported) -> str:
    """What a file is, in Markdown: what goes in and comes out, classes, scores, and where weights, data and code came from."""
    config, here, size = run.config, read_json(run.path / "env.json", "the run was not finished"), json.loads(about["size"])
    origin, data = run.result.get("origin", {}), config.data
    starts = [f"{key} {values['file']} ({values.get('from', 'a file')}), SHA-256 {values.get('sha256', 'not kept')}" for key, values in origin.items() if key != "teacher"]
    sized = f"resized to {size[0]}x{size[1]} (height x width)" if size else f"at their own size, sides of {about['smallest']} or more"
    facts = {
        "network": f"{config.network.label}, trained by {config.method}" + (f" from {config.teacher.network.label}" if config.teacher else ""),
        "input": f"`images` (batch, 3, height, width): {about['input']}, normalised inside; images are {sized}",
        "output": f"`{about['output']}` at the input's size, " + ("a class number a pixel" if about["output"] == "labels" else "a map a class"),
        "starting weights": "; ".join(starts) or "random",
        "their licence": _licence(run) if starts else "none",
        "data": f"{data.name}{data.content and f' {data.content}'}, fingerprint of train {here.get('data', 'not kept')}",
        "trained for": f"{config.schedule.steps} steps of {config.schedule.batch_size}, seed {config.seed}",
        "commit": here.get("commit", "unknown"),
        "run": run.id,
    }
    colours = zip(json.loads(about["classes"]), json.loads(about["palette"]))
    return "\n".join([
        f"# {made.path.name}\n", "| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in facts.items()),
        "\n## Classes\n", "| number | class | colour |", "| --- | --- | --- |",
        *(f"| {n} | {name} | #{r:02x}{g:02x}{b:02x} |" for n, (name, (r, g, b)) in enumerate(colours)),
        f"\n## Scores\n\nThe run's own mIoU on {run.result['split']}: {run.result['miou']:.4f} ({run.result['images']} images). The file beside it:\n",
        "```", *replace(made, path=Path(made.path.name)).lines(), "```\n",
    ])  # fmt: skip


def _licence(run: Run) -> str:
    """Of the weights that a run started from, as far as it is known here."""
    weights, encoder = run.result["origin"].get("weights", {}), run.config.network.name.split("/")[-1]
    spec = ENCODERS.get(encoder) if encoder in ENCODERS.names() else None
    if spec and spec.package and weights.get("from", "").startswith(spec.package.name):
        return "Apache-2.0"
    if spec and weights.get("from", "").startswith("timm"):
        import timm

        return timm.get_pretrained_cfg(spec.pretrained).license or "not stated by timm"
    return "not known here: ask where the file came from"


def _checked(run: Run, format: str) -> Format:
    """The format; UserError for everything that can be known before work begins."""
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if not run.done:
        raise UserError(f"run '{run.id}' is not finished: run the command that began it again, then export")
    if run.result["label_input"]:
        raise UserError(
            f"run '{run.id}' is a label-assisted teacher: it reads the ground truth beside the image, which nobody has "
            "in use; export a student of it"
        )
    for package in FORMATS[format].packages:
        if find_spec(package) is None:
            raise UserError(f"format '{format}' needs the package {package}: pip install 'segkd[export]'")
    return FORMATS[format]


def compare(run: Run, network: torch.nn.Module, part: Path, path: Path, format: str, kind: Format, argmax: bool) -> Exported:
    """What the file ``part`` does beside the run's own ``network``; UserError where they differ too much."""
    theirs, data = kind.load(part), run.config.data

    @torch.no_grad()
    def own(images: Tensor) -> Tensor:
        return resize_scores(network(images).logits, tuple(images.shape[-2:]), network.align_corners)

    height, width = data.size or data.crop or (256, 256)
    other = width - 11 if width - 11 >= network.info.smallest else width + 11
    sizes = ((height, width), (height + 1, width + 3), (height + 15, other))
    draws = torch.Generator().manual_seed(0)
    batches = [torch.rand(number, 3, *size, generator=draws) for number, size in zip((1, 2, 3), sizes)]
    examples = _examples(run.config, kind.images)
    images = [*batches, *(image for image, _ in examples)]
    difference = float(torch.stack([_difference(theirs(x), own(x), argmax) for x in images]).max())
    if not difference <= kind.tolerance:
        raise UserError(f"the {format} export differs from run '{run.id}' by {difference:.1e} of its largest score; not written")
    ours, base = (_miou(f, examples, run.result["num_classes"]) for f in (theirs, own))
    if ours is None and math.isinf(kind.tolerance):
        raise UserError(f"the {format} export is judged by its score, and the {data.split} images of {data.name} are not here; not written")
    if ours is not None and not abs(ours - base) <= kind.loss:
        raise UserError(
            f"the {format} export has mIoU {ours:.4f} where run '{run.id}' has {base:.4f} ({len(examples)} images), "
            f"more than {kind.loss:g} apart; not written"
        )
    return Exported(
        path, format, output_name(argmax), sizes, difference, len(examples), ours, base,
        *_seconds((theirs, own), batches[0]), part.stat().st_size, (run.path / "model.safetensors").stat().st_size,
    )  # fmt: skip


def _difference(made: Tensor, wanted: Tensor, argmax: bool) -> Tensor:
    """Largest difference over the largest score; for labels how far the chosen score lies below the best one."""
    if made.shape != (wanted.argmax(1).shape if argmax else wanted.shape):
        return torch.tensor(math.inf)
    gap = wanted.amax(1, keepdim=True) - wanted.gather(1, made[:, None]) if argmax else (made - wanted).abs()
    return gap.max() / wanted.abs().max().clamp(min=1e-12)


def _examples(config: RunConfig, count: int) -> list[tuple[Tensor, Tensor]]:
    """Up to ``count`` images (1, 3, H, W) of the run's declared split and their labels; none where the data is not here."""
    try:
        packed = split_of(config, config.data.split)
    except UserError:
        return []
    return [to_batch(*packed.take([row])[:2]) for row in range(min(count, len(packed)))]


def _miou(function: Function, examples: list[tuple[Tensor, Tensor]], classes: int) -> float | None:
    made = ((function(image), label) for image, label in examples)
    counts = [confusion_matrix(m if m.ndim == 3 else m.argmax(1), label, classes) for m, label in made]
    return scores(sum(counts))["miou"] if counts else None


def _seconds(functions: tuple[Function, ...], images: Tensor) -> list[float]:
    """Median time of one call of each after two for warming up; they take turns, so that a busy spell meets them all."""
    times = [[timeit(lambda: function(images), number=1) for function in functions] for _ in range(REPEATS + 2)]
    return [statistics.median(row) for row in zip(*times[2:])]
