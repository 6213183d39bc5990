"""From a run to a file that is deployed: ONNX, TorchScript or safetensors, checked against the run before it appears."""

from __future__ import annotations

import io
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from segkd.config import NetworkConfig, RunConfig
from segkd.data.augment import to_batch
from segkd.metrics import confusion_matrix, scores
from segkd.models.deploy import Deployed, any_size_pools, deployed
from segkd.prediction import resize_scores
from segkd.registry import UserError, unknown
from segkd.runs import Run, split_of
from segkd.train.runtime import one_thread
from segkd.train.state import write_whole
from segkd.train.trainee import build_network

Function = Callable[[Tensor], Tensor]  # images (B, 3, H, W) in [0, 1] to scores (B, C, H, W) or labels (B, H, W)
TOLERANCE = 1e-3  # of the largest score; also of the mIoU
IMAGES, REPEATS = 20, 10


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


def write_onnx(model: Deployed, run: Run, path: Path) -> None:
    """One ONNX file, weights inside, with free batch, height and width; class names in its metadata."""
    side = model.network.info.smallest
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=side), 3: torch.export.Dim("width", min=side)}
    any_size_pools(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                model,
                (_example(model),),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=[_output(model.argmax)],
                dynamic_shapes={"images": free},
            )
        except Exception as error:  # the exporter has many kinds; a network that depends on its image's size is one reason
            name, kind = model.network.info.name, type(error).__name__
            raise UserError(f"{name} cannot be written as ONNX for images of any size ({kind}): use --format safetensors") from error
        _forget_origin(program.model)
        program.model.metadata_props.update(description(model, run))
        program.save(path, external_data=False)


def _forget_origin(model) -> None:
    """Drop the exporter's notes, which quote source lines and folders of this machine and outweigh a narrow network."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def load_onnx(path: Path) -> Function:
    """The file in onnxruntime, on one CPU thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def write_torchscript(model: Deployed, run: Run, path: Path) -> None:
    """A traced module for ``torch.jit.load`` in any program with libtorch; class names in the extra file ``segkd``."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing is deprecated, and warns of every check of a shape
        traced = torch.jit.trace(model, (_example(model),), check_trace=False)
        buffer = io.BytesIO()  # written by Python, whose errors say what the disk refused
        torch.jit.save(traced, buffer, _extra_files={"segkd": json.dumps(description(model, run))})
    path.write_bytes(buffer.getbuffer())


def load_torchscript(path: Path) -> Function:
    """The traced module, without gradient."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(path))
    return torch.no_grad()(module)


def write_safetensors(model: Deployed, run: Run, path: Path) -> None:
    """The folded weights, for `load_safetensors`; what they belong to in the metadata."""
    from safetensors.torch import save

    network = json.dumps(asdict(run.config.network))
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    path.write_bytes(save(tensors, {**description(model, run), "network": network}))


def load_safetensors(path: Path) -> Deployed:
    """The network of an exported safetensors file: images in [0, 1] to scores or labels."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    if "network" not in about:
        raise UserError(f"{path}: not written by `segkd export`: the description of the network is missing")
    network = NetworkConfig(**{**json.loads(about["network"]), "weights": None})
    bare = build_network(RunConfig(network=network), len(json.loads(about["classes"])))
    model = deployed(bare, about["output"] == "labels")
    model.load_state_dict(tensors)
    return model


@dataclass(frozen=True)
class Format:
    """How a format is written and read back, its suffix, and the packages that it takes beside segkd's own."""

    suffix: str
    write: Callable[[Deployed, Run, Path], None]
    load: Callable[[Path], Function]
    packages: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format(".onnx", write_onnx, load_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torchscript": Format(".torchscript", write_torchscript, load_torchscript),
    "safetensors": Format(".safetensors", write_safetensors, load_safetensors),
}


def description(model: Deployed, run: Run) -> dict[str, str]:
    """What travels inside the file: run, class names (JSON), what comes out."""
    return {"run": run.id, "classes": json.dumps(run.result["classes"]), "output": _output(model.argmax)}


def export_run(run: Run, format: str = "onnx", out: Path | None = None, argmax: bool = False) -> Exported:
    """Write the student of a finished run alone and return what was measured.

    ``out``: the file, or its folder (default: the working directory); it is then the run's id with the format's suffix. ``argmax``: labels
    (B, H, W) int64 instead of scores (B, C, H, W). The file appears only if it agrees with the run at several sizes
    and on the run's test images. UserError: unknown format, missing package, file there already, a run that is not
    finished or that reads labels, an export that disagrees.
    """
    kind = _checked(run, format)
    path = Path(out or "")
    path = path / (run.id + kind.suffix) if path.is_dir() else path
    if path.exists():
        raise UserError(f"'{path}' is there already: remove it or give another --out")
    network = run.load_model("cpu").float()  # what formats and their runtimes compute in
    found: list[Exported] = []

    def write_and_check(part: Path) -> None:
        kind.write(deployed(network, argmax), run, part)
        with one_thread():
            found.append(compare(run, network, part, path, format, argmax))

    write_whole(path, write_and_check)
    return found[0]


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


def _function(network: torch.nn.Module, argmax: bool) -> Function:
    """The run's own network as a plain function."""

    @torch.no_grad()
    def call(images: Tensor) -> Tensor:
        made = resize_scores(network(images).logits, tuple(images.shape[-2:]), network.align_corners)
        return made.argmax(1) if argmax else made

    return call


def compare(run: Run, network: torch.nn.Module, part: Path, path: Path, format: str, argmax: bool) -> Exported:
    """What the file ``part`` does beside the run's own ``network``; UserError where they differ too much."""
    theirs, own, data = FORMATS[format].load(part), _function(network, argmax), run.config.data
    height, width = data.size or data.crop or (256, 256)
    other = width - 11 if width - 11 >= network.info.smallest else width + 11
    sizes = ((height, width), (height + 1, width + 3), (height + 15, other))
    draws = torch.Generator().manual_seed(0)
    batches = [torch.rand(number, 3, *size, generator=draws) for number, size in zip((1, 2, 3), sizes)]
    examples, labels = _examples(run.config)
    wanted = _function(network, False)
    difference = max(_difference(theirs(x), wanted(x), argmax) for x in [*batches, *examples])
    if not difference <= TOLERANCE:
        raise UserError(f"the {format} export differs from run '{run.id}' by {difference:.1e} of its largest score; not written")
    ours, base = (_miou(f, examples, labels, run.result["num_classes"], argmax) for f in (theirs, own))
    if ours is not None and not abs(ours - base) <= TOLERANCE:
        raise UserError(f"the {format} export has mIoU {ours:.4f} where run '{run.id}' has {base:.4f}; not written")
    return Exported(
        path, format, _output(argmax), sizes, difference, len(examples), ours, base,
        *_seconds((theirs, own), batches[0]), part.stat().st_size, (run.path / "model.safetensors").stat().st_size,
    )  # fmt: skip


def _difference(made: Tensor, wanted: Tensor, argmax: bool) -> float:
    """Largest difference over the largest score; for labels how far the chosen score lies below the best one."""
    if made.shape != (wanted.argmax(1).shape if argmax else wanted.shape):
        return float("inf")
    gap = wanted.amax(1, keepdim=True) - wanted.gather(1, made[:, None]) if argmax else (made - wanted).abs()
    found = float(gap.max() / wanted.abs().max().clamp(min=1e-12))
    return found if math.isfinite(found) else math.inf  # max() of a list would pass over a NaN


def _examples(config: RunConfig) -> tuple[list[Tensor], list[Tensor]]:
    """Up to IMAGES images (1, 3, H, W) of the run's declared split and their labels; none where the data is not here."""
    try:
        packed = split_of(config, config.data.split)
    except UserError:
        return [], []
    pairs = [to_batch(*packed.take([row])[:2]) for row in range(min(IMAGES, len(packed)))]
    return [image for image, _ in pairs], [label for _, label in pairs]


def _miou(function: Function, images: list[Tensor], labels: list[Tensor], classes: int, argmax: bool) -> float | None:
    if not images:
        return None
    made = ((made if argmax else made.argmax(1)) for made in map(function, images))
    return scores(sum(confusion_matrix(m, t, classes) for m, t in zip(made, labels)))["miou"]


def _seconds(functions: tuple[Function, ...], images: Tensor) -> list[float]:
    """Median time of one call of each after two for warming up; they take turns, so that a busy spell meets them all."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(REPEATS + 2):
        for function, row in zip(functions, times):
            begin = time.perf_counter()
            function(images)
            row.append(time.perf_counter() - begin)
    return [statistics.median(row[2:]) for row in times]


def _example(model: Deployed) -> Tensor:
    """An image batch to trace with: no two sides alike, none of them special."""
    info = model.network.info
    return torch.rand(2, info.in_channels, 2 * info.smallest + 1, 3 * info.smallest + 1)


def _output(argmax: bool) -> str:
    return "labels" if argmax else "scores"
