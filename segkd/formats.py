"""The formats of `segkd export`: how each is written, what it says of itself, and how it is read back."""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from segkd.config import NetworkConfig, RunConfig
from segkd.data import create_dataset
from segkd.data.augment import to_batch
from segkd.data.readers.sets import generated_palette
from segkd.ids import ColourMap
from segkd.models.deploy import Deployed, any_size_pools, deployed
from segkd.registry import UserError
from segkd.runs import Run, split_of
from segkd.train.trainee import build_network

Function = Callable[[Tensor], Tensor]  # images (B, 3, H, W) in [0, 1] to scores (B, C, H, W) or labels (B, H, W)
QUANTISED = ["Conv", "Clip", "Relu", "Add", "MaxPool", "Concat"]  # the others compute in float32 between
CALIBRATED = 32  # training images that the ranges of int8 are taken from, at most


def write_onnx(model: Deployed, run: Run, path: Path) -> None:
    """One ONNX file, weights inside, with free batch, height and width; class names in its metadata."""
    side = model.network.info.smallest
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=side), 3: torch.export.Dim("width", min=side)}
    any_size_pools(model)
    with warnings.catch_warnings(action="ignore"):
        try:
            program = torch.onnx.export(
                model,
                (_example(model),),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=[output_name(model.argmax)],
                dynamic_shapes={"images": free},
            )
        except Exception as error:  # the exporter has many kinds; a network that depends on its image's size is one reason
            name, kind = model.network.info.name, type(error).__name__
            raise UserError(f"{name} cannot be written as ONNX for images of any size ({kind}): use --format safetensors") from error
        graph = program.model.graph
        values = [value for node in graph.all_nodes() for value in node.outputs]
        for noted in (program.model, graph, *graph.all_nodes(), *values, *graph.inputs, *graph.initializers.values()):
            noted.metadata_props.clear()  # they quote source lines and folders of this machine and outweigh a narrow network
        program.model.metadata_props.update(description(model, run))
        program.save(path, external_data=False)


def load_onnx(path: Path) -> Function:
    """The file in onnxruntime, on one CPU thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def write_int8(model: Deployed, run: Run, path: Path) -> None:
    """ONNX with weights and activations of convolutions in 8 bits, their ranges taken from training images of the run.

    UserError: the run's data is not here. Weights use 7 of the bits, so that CPUs without VNNI do not overflow; the first and the last
    convolution stay in float32, which gives most of what that costs back.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with _plain(model, run, path, "int8") as plain:
        convs = [node.name for node in onnx.load(plain).graph.node if node.op_type == "Conv"]
        images = SimpleNamespace(get_next=partial(next, _training_images(run), None))
        logging.disable(logging.WARNING)  # it advises a step that the exporter has done
        try:
            quantize_static(
                plain, path, images, quant_format=QuantFormat.QDQ, op_types_to_quantize=QUANTISED, per_channel=True, reduce_range=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=[convs[0], convs[-1]],
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)


def _training_images(run: Run) -> Iterator[dict[str, np.ndarray]]:
    """Images (1, 3, H, W), spread evenly over the run's training split."""
    packed = split_of(run.config, "train")
    for row in np.unique(np.linspace(0, len(packed) - 1, CALIBRATED).round().astype(int)):
        yield {"images": to_batch(*packed.take([row])[:2])[0].numpy()}


def write_fp16(model: Deployed, run: Run, path: Path) -> None:
    """ONNX that computes in half precision, for cards; what goes in and comes out stays float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _plain(model, run, path, "fp16") as plain, warnings.catch_warnings(action="ignore"):  # of numbers too small for it
        onnx.save(convert_float_to_float16(onnx.load(plain), keep_io_types=True), path)


@contextmanager
def _plain(model: Deployed, run: Run, path: Path, precision: str) -> Iterator[Path]:
    """The network in float32 ONNX, for a while; what was made of it at ``path`` gets the description."""
    import onnx

    with TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "plain.onnx"
        write_onnx(model, run, plain)
        yield plain
    made = onnx.load(path)
    onnx.helper.set_model_props(made, description(model, run) | {"precision": precision})
    onnx.save(made, path)


def write_torchscript(model: Deployed, run: Run, path: Path) -> None:
    """A traced module for ``torch.jit.load`` in any program with libtorch; class names in the extra file ``segkd``."""
    with warnings.catch_warnings(action="ignore"), torch.no_grad():  # tracing is deprecated, and warns of every check of a shape
        traced = torch.jit.trace(model, (_example(model),), check_trace=False)
        buffer = io.BytesIO()  # written by Python, whose errors say what the disk refused
        torch.jit.save(traced, buffer, _extra_files={"segkd": json.dumps(description(model, run))})
    path.write_bytes(buffer.getbuffer())


def load_torchscript(path: Path) -> Function:
    """The traced module, without gradient."""
    with warnings.catch_warnings(action="ignore"):
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
    """How a format is written and read back, its suffix, and the packages that it takes beside segkd's own.

    ``tolerance``: by how much of the largest score it may differ from the run; ``loss``: by how much of mIoU, on ``images``.
    """

    suffix: str
    write: Callable[[Deployed, Run, Path], None]
    load: Callable[[Path], Function]
    packages: tuple[str, ...] = ()
    tolerance: float = 1e-3
    loss: float = 1e-3
    images: int = 20


_ONNX = load_onnx, ("onnx", "onnxscript", "onnxruntime")
FORMATS = {
    "onnx": Format(".onnx", write_onnx, *_ONNX),
    "int8": Format(".int8.onnx", write_int8, *_ONNX, tolerance=math.inf, loss=0.01, images=100),
    "fp16": Format(".fp16.onnx", write_fp16, *_ONNX, tolerance=0.02, loss=0.002),
    "torchscript": Format(".torchscript", write_torchscript, load_torchscript),
    "safetensors": Format(".safetensors", write_safetensors, load_safetensors),
}


def description(model: Deployed, run: Run) -> dict[str, str]:
    """What travels inside the file, JSON each but for run, input and output: all that `segkd predict` needs to know.

    ``size``: (H, W) that images were trained and scored at; null: their own. ``masks``: what ground truth holds.
    """
    classes, network = run.result["classes"], model.network
    palette, masks = _looks(run, len(classes))
    normalisation = {key: getattr(network, key).flatten().tolist() for key in ("mean", "std") if hasattr(network, key)}
    known = {
        "classes": classes, "palette": palette, "size": run.config.data.size, "smallest": network.info.smallest, "masks": masks,
        "normalisation_inside": normalisation,
    }  # fmt: skip
    text = {key: json.dumps(value) for key, value in known.items()}
    return {"run": run.id, "input": "float32 RGB in [0, 1]", "output": output_name(model.argmax), **text}


def _looks(run: Run, classes: int) -> tuple[list, dict]:
    """The classes' colours and what masks hold; where the data is not here, made-up colours and class numbers."""
    data = run.config.data
    try:
        found = create_dataset(data.name, data.root, data.split)
    except UserError:
        found = None
    ids = getattr(found, "ids", None)
    values, ignored = (ids.ids, ids.void) if ids else (range(classes), (255,))
    palette = found.palette if found else generated_palette(classes + 1)[1:]
    holds = "colours" if isinstance(ids, ColourMap) else "index"
    return [list(colour) for colour in palette], {"holds": holds, "values": list(values), "ignored": list(ignored)}


def _example(model: Deployed) -> Tensor:
    """An image batch to trace with: no two sides alike, none of them special."""
    info = model.network.info
    return torch.rand(2, info.in_channels, 2 * info.smallest + 1, 3 * info.smallest + 1)


def output_name(argmax: bool) -> str:
    return "labels" if argmax else "scores"
