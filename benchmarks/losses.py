"""What every loss costs, forward and backward: ours, the plain transcription, and reading both logit maps once.

``python benchmarks/losses.py`` prints a table and writes results/losses.csv and results/losses.md beside this file;
``--only kd,cwd``, ``--classes 19`` and ``--quick`` (three repeats, no memory) print only. Times are medians in ms, in
turns in one process; extra memory is the peak above the state before the call, each in a fresh process. Ours and plain
must agree: values to 1e-3, gradients to 1e-2, relative.
"""

import argparse
import importlib.util
import math
import os
import statistics
import subprocess
import sys
import time

import torch
from loss_cases import CASES, SHAPES, Inputs
from table import cell, environment, write
from torch import Tensor

from segkd.analysis.cost import peak_memory

MODULE = "segkd.losses."
SECONDS = 10.0  # for the repeats of one row; never fewer than three
TINY = (1, 8, 16)  # batch and grid of the call that loads code before memory is measured
COLUMNS = ("loss", "shape", "ours ms", "plain ms", "ratio", "floor ms", "target ms", "met", "extra MiB ours")
COLUMNS += ("extra MiB plain", "target MiB")
NOTES = (
    "Forward and backward in float32. Floor: reading the student's and the teacher's logits once (two sums); where it "
    "is above 1 ms, other work kept the processor busy. Shape: that of the logits (B, C, h, w); labels have eight "
    "times the grid. Features: 128 channels for the student and 256 for the teacher (at, dsd, cirkd), 128 for both "
    "(skd, ifvd), 256 for both (fitnet); mgd takes the logits as its maps, with the identity as generator. "
    "cirkd_memory: the pixel and the region term, from unit vectors and keys of 256 channels. fakd_cwd and fakd_pd "
    "start from the logits, the classifier and the statistics, fakd_cwd_feature from the feature; fakd_statistics is "
    "their update, cwd_head is CWD from the same feature. rdd: weights and task loss of both heads. Target of fakd_cwd: 1.3 times cwd, of fakd_pd: 3 times kd, "
    "timed in turns with them. Extra memory: the peak of the process above its size before the call, gradients "
    "included."
)


class Work:
    """One side of a case, ready to run: forward, and backward where there are leaves."""

    def __init__(self, name: str, side: str, inputs: Inputs):
        case = CASES[name]
        module = importlib.import_module(MODULE + case.module)
        self.terms = (lambda: case.ours(module, inputs)) if side == "ours" else (lambda: case.plain(inputs))
        self.leaves = [getattr(inputs, leaf) for leaf in case.leaves]

    def __call__(self) -> list[Tensor]:
        terms = self.terms()
        if self.leaves:
            sum(terms).backward()
        return [term.detach() for term in terms]

    def seconds(self) -> float:
        """Wall time of one run; the old gradients are dropped before it."""
        for leaf in self.leaves:
            leaf.grad = None
        begin = time.perf_counter()
        self()
        return time.perf_counter() - begin


def floor(inputs: Inputs) -> float:
    """Seconds of reading both logit maps once."""
    begin = time.perf_counter()
    with torch.no_grad():
        inputs.student.sum() + inputs.teacher.sum()
    return time.perf_counter() - begin


def disagreement(ours: Work, plain: Work) -> str:
    """Empty if values and gradients agree; otherwise the largest relative differences of both."""
    found = []
    for work in (ours, plain):
        work.seconds()  # drops old gradients
        for leaf in work.leaves:
            leaf.grad = None
        found.append((work(), [leaf.grad for leaf in work.leaves]))
    values, gradients = (max(map(difference, *pair), default=0.0) for pair in zip(*found))
    return "" if values <= 1e-3 and gradients <= 1e-2 else f"differs (value {values:.1e}, gradient {gradients:.1e})"


def difference(ours: Tensor, plain: Tensor) -> float:
    """Norm of the difference over the norm of the plain one; infinite where it is not a number."""
    gap = float((ours.double() - plain.double()).norm() / plain.double().norm())
    return math.inf if math.isnan(gap) else gap


def in_turns(works: dict, repeats: int, seconds: float = SECONDS) -> dict[str, list[float]]:
    """Ms of each work in each round, every other round backwards; slow ones are repeated less often."""
    warm = sum(work() for work in works.values())
    rounds = max(min(3, repeats), min(repeats, int(seconds / warm)))
    times = [{name: works[name]() for name in list(works)[:: (-1) ** turn]} for turn in range(rounds)]
    return {name: [1e3 * turn[name] for turn in times] for name in works}


def medians(works: dict, repeats: int, seconds: float = SECONDS) -> dict[str, float]:
    """Median ms of each work, `in_turns`."""
    return {name: statistics.median(times) for name, times in in_turns(works, repeats, seconds).items()}


def measure(name: str, classes: int, repeats: int, memory: bool) -> dict:
    """One row of the table."""
    case, inputs = CASES[name], Inputs(SHAPES[classes])
    row = dict.fromkeys(COLUMNS) | {"loss": name, "shape": "x".join(map(str, SHAPES[classes]))}
    ours, plain = Work(name, "ours", inputs), Work(name, "plain", inputs)
    wrong = disagreement(ours, plain)
    works = {"ours": ours.seconds, "plain": plain.seconds, "floor": lambda: floor(inputs)}
    reference, factor = case.relative.get(classes, (None, None))
    if reference:
        works["reference"] = Work(reference, "ours", inputs).seconds
    for side, value in medians(works, repeats).items():
        row[f"{side} ms"] = value
    row["target ms"] = factor * row.pop("reference ms") if reference else case.target.get(classes)
    row["ratio"], row["target MiB"] = row["plain ms"] / row["ours ms"], case.target_mib.get(classes)
    for side in ("ours", "plain") if memory else ():
        row[f"extra MiB {side}"] = child_memory(name, classes, side)
    return row | {"met": wrong or verdict(row)}


def verdict(row: dict) -> str:
    """Whether time and memory keep to their targets; empty without a target."""
    pairs = [(row["ours ms"], row["target ms"]), (row["extra MiB ours"], row["target MiB"])]
    kept = [value <= target for value, target in pairs if None not in (value, target)]
    return "" if not kept else "yes" if all(kept) else "no"


def child_memory(name: str, classes: int, side: str) -> float:
    """Extra MiB of one side of a case, measured in a fresh process."""
    arguments = ["--memory-of", name, str(classes), side, "--threads", str(torch.get_num_threads())]
    command = [sys.executable, __file__, *arguments]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def extra_memory(name: str, classes: int, side: str) -> float:
    """Peak MiB of this process during one call above its size before."""
    tiny, inputs = Inputs((TINY[0], classes, *TINY[1:])), Inputs(SHAPES[classes])
    Work(name, side, tiny)()
    for attribute in vars(tiny):  # what the tiny call asked for is there before the call that counts
        getattr(inputs, attribute)
    found = peak_memory(Work(name, side, inputs), torch.device("cpu"))
    return math.nan if found is None else found


def skipped(name: str) -> bool:
    """Says so when the file of a loss is not there."""
    gone = importlib.util.find_spec(MODULE + CASES[name].module) is None
    if gone:
        print(f"{name}: segkd/losses/{CASES[name].module}.py is not there, skipped")
    return gone


def cells(row: dict) -> list[str]:
    """A row as text: three digits for small numbers, none after the point for large ones."""
    return [cell(row[column]) for column in COLUMNS]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="cases, joined by commas: " + ",".join(CASES))
    parser.add_argument("--classes", type=int, choices=SHAPES, help="one of the two shapes")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="three repeats, no memory")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if unknown := set((chosen.only or "kd").split(",")) - set(CASES):
        parser.error(f"--only: no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    return chosen


def main() -> None:
    """Everything, or what was chosen."""
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    if chosen.memory_of:
        name, classes, side = chosen.memory_of
        return print(extra_memory(name, int(classes), side))
    where, rows = environment(), []
    print(where, "\n" + " | ".join(COLUMNS))
    if os.getloadavg()[0] > 1:
        print("other work runs on this machine: times will be too long")
    names = [name for name in (chosen.only.split(",") if chosen.only else CASES) if not skipped(name)]
    for classes in [chosen.classes] if chosen.classes else SHAPES:
        for name in names:
            rows.append(measure(name, classes, 3 if chosen.quick else chosen.repeats, memory=not chosen.quick))
            print(" | ".join(cells(rows[-1])), flush=True)
    if not (chosen.only or chosen.classes or chosen.quick):
        write("losses", "Cost of the losses", COLUMNS, [[row[column] for column in COLUMNS] for row in rows], where, NOTES)
    if any(row["met"].startswith("differs") for row in rows):
        raise SystemExit("some of ours differ from their plain transcription")


if __name__ == "__main__":
    main()
