"""What a training step costs, and what each choice for speed brings: on and off in turns, in one process.

``python benchmarks/step.py`` prints a table and writes results/step.csv and results/step.md beside this file;
``--only cwd,cohort`` prints only. Medians; ratios of numbers from one run; beside each how far the outcomes are apart.
``--cpu-time`` counts CPU time of one thread, for a machine that does other work. The cases are those of `step_cases`.
"""

import argparse
import time

import step_cases
import torch
from step_cases import BATCH, CASES, CLASSES, COHORT, COLUMNS, LOGITS, SIZE, STUDENT
from table import cell, environment, write

NOTES = f"""
DeepLabV3 with ResNet-18, width {STUDENT.width:g}, batch {BATCH} of {SIZE[0]}x{SIZE[1]}, {CLASSES} classes, SGD, float32 where
nothing else is said; the teacher is the same network at width 1. On/off: the share of the time (or memory) that is left.

- 'cwd step': off is the student's step plus the teacher's pass, each alone; on is the distillation step.
- 'loss of ...': off is the student's step with that loss, without the teacher's pass; on is the loss and its gradient.
- 'cohort': off is a teacher pass and a step for each of eight students ({", ".join(COHORT)}), on is one pass for all; their
  weights after two steps are compared bit by bit.
- 'evaluation': off is image by image in torch's own memory layout, with F.interpolate and a float confusion matrix. Most of it
  is the network's pass; the line below has the cost of all else: reading, resizing, classes, counting.
- 'cross-entropy': scores {LOGITS} brought to 512x512; off is F.interpolate and F.cross_entropy.
- 'outcomes differ by' is relative: of the loss after one step for bf16, compile and channels_last; elsewhere of weights,
  scores or gradients (largest difference over largest value); of evaluation the pixels that are counted elsewhere, since
  F.interpolate rounds otherwise. With the loop's scores resized as ours are, at most one pixel in 100,000 may be.
""".strip()


def main() -> None:
    """Everything, or what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="joined by commas: " + ",".join(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="CPU time of one thread instead of wall time")
    chosen = parser.parse_args()
    names = chosen.only.split(",") if chosen.only else list(CASES)
    if unknown := set(names) - set(CASES):
        parser.error(f"--only: no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    if chosen.cpu_time:
        step_cases.clock, chosen.threads = time.process_time, 1
    torch.set_num_threads(chosen.threads)
    where, rows = environment() + ", CPU time" * chosen.cpu_time, []
    print(where, "\n" + " | ".join(COLUMNS))
    for name in names:
        for line in CASES[name]():
            rows.append(line)
            print(" | ".join(cell(line[column]) for column in COLUMNS), flush=True)
    if not chosen.only:
        write("step", "Cost of a step", COLUMNS, [[line[column] for column in COLUMNS] for line in rows], where, NOTES)


if __name__ == "__main__":
    main()
