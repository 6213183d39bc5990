"""The command line: segkd COMMAND, `segkd --help` lists them. Bad input is one line and exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from segkd.registry import FULL, UserError


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code (0 fine, 2 bad input, 130 interrupted)."""
    arguments = vars(_parser().parse_args(argv))
    try:
        said = arguments.pop("call")(**arguments)
        for line in [said] if isinstance(said, (str, Path)) else said or ():
            print(line, flush=True)
    except UserError as error:
        print(f"segkd: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `segkd runs | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"segkd: {error.strerror}; finished runs and pages are kept: make room, then repeat the command", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsegkd: interrupted; finished runs and checkpoints are kept, the same command goes on", file=sys.stderr)
        return 130
    return 0


def _in(module: str, function: str) -> Callable:
    """A function of the package, imported when it is called: `segkd --help` answers at once."""
    return lambda **arguments: getattr(import_module(f"segkd.{module}"), function)(**arguments)


def _train(config: Path) -> Iterator[str]:
    from segkd.config import from_dict
    from segkd.study.execute.executor import execute
    from segkd.study.execute.together import train_together
    from segkd.train.processes import launched
    from segkd.train.state import read_json

    wanted = from_dict(read_json(config, "give a run's config as JSON, like the config.json of a run"))
    run = train_together(wanted) if launched() else execute([wanted])[0]
    if run is not None:  # torchrun's first process speaks for all
        yield f"{run.path}  mIoU {run.result['miou']:.4f} on {run.result['split']}"


def _replay(run: str, device: str | None) -> Iterator[str]:
    from segkd.replay import replay
    from segkd.runs import load_run

    return replay(load_run(run), device)


def _export(run: str, loss: float | None, **options: Any) -> list[str]:
    from segkd.export import export_run
    from segkd.runs import load_run

    return export_run(load_run(run), loss=loss and loss / 100, **options).lines()


def _models() -> Iterator[str]:
    from itertools import groupby

    from segkd.models import list_models

    for arch, names in groupby(list_models(), key=lambda name: name.split("/")[0]):
        yield f"{arch:14} {' '.join(name.split('/')[1] for name in names)}"
    yield "and smp.<Arch>/<encoder>, such as smp.Unet/resnet34; what they cost: notebooks/analysis/cost.ipynb"


def _thaw(report: str) -> str:
    from segkd.study.report.reproduce import thawed

    ids = thawed(report)
    return f"{len(ids)} runs of {report} are here now, without their networks" if ids else f"all runs of {report} were here"


def _readme() -> None:
    from segkd.study.report.readme import update_readme
    from segkd.study.report.site import build_site

    update_readme()
    build_site()


def _given(text: str) -> str | None:
    return text or None


def _option(help: str | None = None, default: Any = None, kind: Callable | None = None, **more: Any) -> dict[str, Any]:
    """An argument; without a ``kind`` it is of its default's, and "" says as much as nothing where that is None."""
    return {"help": help, "default": default, "type": kind or (_given if default is None else type(default)), **more}


ROWS = {
    "--profile": _option(default="quick"),
    "--dataset": _option(default="scenes"),
    "--seeds": _option("a number of seeds, or a list such as 0,3"),
    "--methods": _option("only these, comma separated"),
    "--tables": _option("only these tables of each paper, such as main"),
    "--teacher": _option("NETWORK:FILE or a run's folder: a trained network in place of every plain teacher"),
}
CHOICE = ROWS | {
    "--devices": _option("one process each: cpu,cpu or cuda:0,cuda:1"),
    "--resources": _option("what a cohort of runs takes of a Ray cluster: cpu=1,gpu=0.5"),
    "--executor": _option("processes: on this machine; ray: on a Ray cluster", "processes"),
}
COMMANDS: dict[str, tuple[Callable, str, dict[str, dict]]] = {  # what it calls, with its arguments by name; lines are printed
    "reproduce": (_in("study.report.reproduce", "reproduce"), "train what is missing, run the notebooks, render the report", CHOICE),
    "distill": (_in("study.distill", "distill"), "from a folder of images to a page and an ONNX file, in so many minutes", {
        "--data": _option("the folder (docs/your-own-data.md); without it an example is drawn", ""),
        "--student": _option("a network, or several with commas, as `segkd models` lists them", ""),
        "--teacher": _option("a network, NETWORK:FILE or a run's folder; default: the profile's", ""),
        "--method": _option("how the student is taught, such as cwd or kd+hwd", "cwd"),
        "--minutes": _option("that all of it may take", 30, float),
        "--unlabelled": _option("images of images/unlabelled in each of the student's batches", 0, int),
        "--out": _option("the folder for page and files; default: reports/ship-...", kind=Path),
        "--profile": _option("networks, sizes and schedule", "small"),
    }),
    "study": (_in("study.command", "study_lines"), "train what is missing of one study, without notebooks, or say what that would take", {
        "name": {"metavar": "NAME", "help": "lad, fakd, hwd or rdd: a paper's tables; all: every method together"},
        **CHOICE,
        "--student": _option("another student than the profile's, such as deeplabv3/resnet18"),
        "--teacher-network": _option("another plain teacher, such as deeplabv3/resnet101"),
        "--dry-run": {"help": "what would be trained, how long it takes and what it costs", "action": "store_true"},
    }),
    "session": (_in("study.session", "session"), "train the next runs of a study for some minutes, and leave a folder from which it goes on elsewhere", {
        "--minutes": _option(default=12, kind=float),
        "--profile": _option(default="gpu"),
        "--dataset": _option(default="camvid"),
        "--out": _option("the folder; what an earlier session left in it is taken over", kind=Path, required=True),
        "--device": _option(default="cuda"),
    }),
    "train": (_train, "train one run from a JSON config", {"config": {"type": Path}}),
    "runs": (_in("run_list", "run_lines"), "list the runs that are there: state, score, cost", {}),
    "replay": (_replay, "repeat the step at which a run stopped, and say where it is not finite", {
        "run": {"help": "id of a run with a failure.json"},
        "--device": _option("cpu or cuda; default: what the run was on, if that is here"),
    }),
    "export": (_export, "write the network of a run for deployment, checked against the run", {
        "run": {"help": "id of a finished run, as `segkd runs` lists it"},
        "--format": _option("onnx, int8 or fp16 (both ONNX), torchscript or safetensors", "onnx"),
        "--out": _option("the file, or its folder; default: the run's id, here", kind=Path),
        "--argmax": {"help": "labels instead of scores", "action": "store_true"},
        "--loss": _option("points of mIoU that the file may differ by; default: int8 1.0, fp16 0.2, others 0.1", kind=float),
    }),
    "predict": (_in("predict", "predict"), "an exported ONNX file on images: masks, overlays, class areas, scores; needs no torch", {
        "file": {"type": Path, "help": "an ONNX file of `segkd export`"},
        "images": {"type": Path, "nargs": "+", "help": "images and folders of them"},
        "--out": _option("the folder for masks/, overlays/ and areas.csv", kind=Path, required=True),
        "--labels": _option("a folder of masks of the same names: scores too", kind=Path),
        "--against": _option("another file of the same classes, to compare with", kind=Path),
        "--batch": _option("images or tiles at a time", 8),
        "--tile": _option("pixels a side, where the file takes images at their own size", 1024),
    }),
    "data": (_in("data.overview", "command"), "list the data sets, or get, check and pack one", {
        "words": {"nargs": "*", "metavar": "WHAT", "help": "list (default), prepare NAME, verify NAME; NAME alone: all of it"},
        "--root": _option("where the set lies; default: $SEGKD_DATA, then data/raw", kind=Path),
        "--size": _option("HEIGHTxWIDTH to pack at, such as 360x480; default: the images' own"),
    }),
    "models": (_models, "list the networks", {}),
    "doctor": (_in("doctor", "doctor_lines"), "say what this machine has and what to change", {}),
    "report": (_in("study.report.reproduce", "make_report"), "make the report of the runs and committed results that are here; trains nothing", ROWS),
    "compare": (_in("study.claims.compare", "compare_lines"), "set the runs that are here against the committed results of a report: the same numbers?", {
        "report": {"metavar": "REPORT", "help": "a folder of reports, such as scratch-camvid"},
    }),
    "thaw": (_thaw, "put the committed results of a report among the runs, to go on with its study", {
        "report": {"metavar": "REPORT", "help": "a folder of reports, such as small-camvid"},
    }),
    "readme": (_readme, "rewrite the numbers of README.md and reports/index.html from the committed results", {}),
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        print(f"segkd: {message} (see `{self.prog} --help`)", file=sys.stderr)
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="segkd", description="Knowledge distillation for semantic segmentation, reproducibly.")
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_Parser)
    for name, (call, text, arguments) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(call=call)
        for flag, how in arguments.items():
            command.add_argument(flag, **how)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
