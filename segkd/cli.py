"""The command line: segkd COMMAND, `segkd --help` lists them. Bad input is one line and exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from segkd.registry import UserError


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code (0 fine, 2 bad input, 130 interrupted)."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except UserError as error:
        print(f"segkd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsegkd: interrupted; finished runs and checkpoints are kept, the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `segkd runs | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        print(f"segkd: {message} (see `{self.prog} --help`)", file=sys.stderr)
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="segkd", description="Knowledge distillation for semantic segmentation, reproducibly.")
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_Parser)
    add = lambda name, run, text: _with_run(commands.add_parser(name, help=text, description=text), run)  # noqa: E731
    _add_choice(add("reproduce", _reproduce, "train what is missing, run the notebooks, render the report"))
    distill = add("distill", _distill, "from a folder of images to a page and an ONNX file, in so many minutes")
    distill.add_argument("--data", default="", help="the folder (docs/your-own-data.md); without it an example is drawn")
    distill.add_argument("--student", default="", help="a network, or several with commas, as `segkd models` lists them")
    distill.add_argument("--teacher", default="", help="a network, NETWORK:FILE or a run's folder; default: the profile's")
    distill.add_argument("--method", default="cwd", help="how the student is taught, such as cwd or kd+hwd")
    distill.add_argument("--minutes", type=float, default=30, help="that all of it may take")
    distill.add_argument("--unlabelled", type=int, default=0, help="images of images/unlabelled in each of the student's batches")
    distill.add_argument("--out", type=Path, default=None, help="the folder for page and files; default: reports/ship-...")
    distill.add_argument("--profile", default="small", help="networks, sizes and schedule")
    study = add("study", _study, "train what is missing of one study, without notebooks, or say what that would take")
    study.add_argument("name", metavar="NAME", help="lad, fakd, hwd or rdd: a paper's tables; all: every method together")
    _add_choice(study)
    study.add_argument("--student", default=None, help="another student than the profile's, such as deeplabv3/resnet18")
    study.add_argument("--teacher-network", default=None, help="another plain teacher, such as deeplabv3/resnet101")
    study.add_argument("--dry-run", action="store_true", help="what would be trained, how long it takes and what it costs")
    part = add("session", _session, "train the next runs of a study for some minutes, and leave a folder from which it goes on elsewhere")
    part.add_argument("--minutes", type=float, default=12)
    part.add_argument("--profile", default="gpu")
    part.add_argument("--dataset", default="camvid")
    part.add_argument("--out", type=Path, required=True, help="the folder; what an earlier session left in it is taken over")
    part.add_argument("--device", default="auto")
    train = add("train", _train, "train one run from a JSON config")
    train.add_argument("config", type=Path)
    add("runs", _runs, "list the runs that are there: state, score, cost")
    again = add("replay", _replay, "repeat the step at which a run stopped, and say where it is not finite")
    again.add_argument("run_id", metavar="run", help="id of a run with a failure.json")
    again.add_argument("--device", default=None, help="cpu or cuda; default: what the run was on, if that is here")
    export = add("export", _export, "write the network of a run for deployment, checked against the run")
    export.add_argument("run_id", metavar="run", help="id of a finished run, as `segkd runs` lists it")
    export.add_argument("--format", default="onnx", help="onnx, int8 or fp16 (both ONNX), torchscript or safetensors")
    export.add_argument("--out", type=Path, default=None, help="the file, or its folder; default: the run's id, here")
    export.add_argument("--argmax", action="store_true", help="labels instead of scores")
    export.add_argument("--loss", type=float, default=None, help="points of mIoU that the file may differ by; default: int8 1.0, fp16 0.2, others 0.1")
    predict = add("predict", _predict, "an exported ONNX file on images: masks, overlays, class areas, scores; needs no torch")
    predict.add_argument("file", type=Path, help="an ONNX file of `segkd export`")
    predict.add_argument("images", type=Path, nargs="+", help="images and folders of them")
    predict.add_argument("--out", type=Path, required=True, help="the folder for masks/, overlays/ and areas.csv")
    predict.add_argument("--labels", type=Path, default=None, help="a folder of masks of the same names: scores too")
    predict.add_argument("--against", type=Path, default=None, help="another file of the same classes, to compare with")
    predict.add_argument("--batch", type=int, default=8, help="images or tiles at a time")
    predict.add_argument("--tile", type=int, default=1024, help="pixels a side, where the file takes images at their own size")
    data = add("data", _data, "list the data sets, or get, check and pack one")
    data.add_argument("words", nargs="*", metavar="WHAT", help="list (default), prepare NAME, verify NAME; NAME alone: all of it")
    data.add_argument("--root", type=Path, default=None, help="where the set lies; default: $SEGKD_DATA, then data/raw")
    data.add_argument("--size", default=None, help="HEIGHTxWIDTH to pack at, such as 360x480; default: the images' own")
    add("models", _models, "list the networks")
    add("doctor", _doctor, "say what this machine has and what to change")
    _add_rows(add("report", _report, "make the report of the runs and committed results that are here; trains nothing"))
    compare = add("compare", _compare, "set the runs that are here against the committed results of a report: the same numbers?")
    compare.add_argument("report", metavar="REPORT", help="a folder of reports, such as scratch-camvid")
    thaw = add("thaw", _thaw, "put the committed results of a report among the runs, to go on with its study")
    thaw.add_argument("report", metavar="REPORT", help="a folder of reports, such as small-camvid")
    add("readme", _readme, "rewrite the numbers of README.md and reports/index.html from the committed results")
    return parser


def _add_choice(study: argparse.ArgumentParser) -> None:
    _add_rows(study)
    for name, text in {
        "devices": "one process each: cpu,cpu or cuda:0,cuda:1",
        "resources": "what a cohort of runs takes of a Ray cluster: cpu=1,gpu=0.5",
    }.items():
        study.add_argument(f"--{name}", default=None, help=text)
    study.add_argument("--executor", default="processes", help="processes: on this machine; ray: on a Ray cluster")


def _add_rows(study: argparse.ArgumentParser) -> None:
    study.add_argument("--profile", default="quick")
    study.add_argument("--dataset", default="scenes")
    for name, text in {
        "seeds": "a number of seeds, or a list such as 0,3",
        "methods": "only these, comma separated",
        "tables": "only these tables of each paper, such as main",
        "teacher": "NETWORK:FILE or a run's folder: a trained network in place of every plain teacher",
    }.items():
        study.add_argument(f"--{name}", default=None, help=text)


def _with_run(parser: argparse.ArgumentParser, run) -> argparse.ArgumentParser:
    parser.set_defaults(run=run)
    return parser


def _reproduce(arguments: argparse.Namespace) -> None:
    from segkd.study.report.reproduce import reproduce

    print(reproduce(arguments.profile, arguments.dataset, arguments.executor, arguments.resources, **_choice(arguments)))


def _distill(arguments: argparse.Namespace) -> None:
    from segkd.study.distill import distill

    places = arguments.data, arguments.student, arguments.teacher, arguments.method, arguments.minutes
    for line in distill(*places, arguments.out, arguments.profile, arguments.unlabelled):
        print(line, flush=True)


def _choice(arguments: argparse.Namespace) -> dict[str, str | None]:
    return {name: getattr(arguments, name, None) or None for name in ("seeds", "methods", "tables", "devices", "teacher")}


def _study(arguments: argparse.Namespace) -> None:
    from segkd.study.command import study_lines

    places = arguments.profile, arguments.dataset, arguments.executor, arguments.resources
    networks = {"student": arguments.student or None, "teacher_network": arguments.teacher_network or None}
    for line in study_lines(arguments.name, *places, arguments.dry_run, **_choice(arguments), **networks):
        print(line, flush=True)


def _session(arguments: argparse.Namespace) -> None:
    from segkd.study.session import session

    for line in session(arguments.minutes, arguments.profile, arguments.dataset, arguments.out, arguments.device):
        print(line, flush=True)


def _report(arguments: argparse.Namespace) -> None:
    from segkd.study.report.reproduce import make_report

    print(make_report(arguments.profile, arguments.dataset, **_choice(arguments)))


def _train(arguments: argparse.Namespace) -> None:
    from segkd.config import from_dict
    from segkd.study.execute.executor import execute
    from segkd.study.execute.together import train_together
    from segkd.train.processes import launched
    from segkd.train.state import read_json

    config = from_dict(read_json(arguments.config, "give a run's config as JSON, like the config.json of a run"))
    run = train_together(config) if launched() else execute([config])[0]
    if run is not None:  # torchrun's first process speaks for all
        print(f"{run.path}  mIoU {run.result['miou']:.4f} on {run.result['split']}")


def _runs(arguments: argparse.Namespace) -> None:
    from segkd.run_list import lines

    print("\n".join(lines()))


def _replay(arguments: argparse.Namespace) -> None:
    from segkd.replay import replay
    from segkd.runs import load_run

    for line in replay(load_run(arguments.run_id), arguments.device):
        print(line, flush=True)


def _export(arguments: argparse.Namespace) -> None:
    from segkd.export import export_run
    from segkd.runs import load_run

    found = export_run(load_run(arguments.run_id), arguments.format, arguments.out, arguments.argmax, arguments.loss and arguments.loss / 100)
    print("\n".join(found.lines()))


def _predict(arguments: argparse.Namespace) -> None:
    from segkd.predict import predict

    places = arguments.file, arguments.images, arguments.out, arguments.labels, arguments.against
    for line in predict(*places, arguments.batch, arguments.tile):
        print(line, flush=True)


def _data(arguments: argparse.Namespace) -> None:
    from segkd.data.overview import command

    for line in command(arguments.words, arguments.root, arguments.size):
        print(line, flush=True)


def _models(arguments: argparse.Namespace) -> None:
    from itertools import groupby

    from segkd.models import list_models

    for arch, names in groupby(list_models(), key=lambda name: name.split("/")[0]):
        print(f"{arch:14} {' '.join(name.split('/')[1] for name in names)}")
    print("and smp.<Arch>/<encoder>, such as smp.Unet/resnet34; what they cost: notebooks/analysis/cost.ipynb")


def _doctor(arguments: argparse.Namespace) -> None:
    from segkd.doctor import lines

    print("\n".join(lines()))


def _compare(arguments: argparse.Namespace) -> None:
    from segkd.study.claims.compare import compare_lines

    for line in compare_lines(arguments.report):
        print(line)


def _thaw(arguments: argparse.Namespace) -> None:
    from segkd.study.report.reproduce import thawed

    ids = thawed(arguments.report)
    print(f"{len(ids)} runs of {arguments.report} are here now, without their networks" if ids else f"all runs of {arguments.report} were here")


def _readme(arguments: argparse.Namespace) -> None:
    from segkd.study.report.readme import update_readme
    from segkd.study.report.site import build_site

    update_readme()
    build_site()


if __name__ == "__main__":
    raise SystemExit(main())
