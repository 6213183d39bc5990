"""Does a network start better from ImageNet weights? Val mIoU over training, with and without them, on real CamVid.

    SEGKD_DATA=... SEGKD_WEIGHTS=... python benchmarks/start.py

PSPNet on MobileNetV2 at full width, 192x256, batches of 4, AdamW; both starts at both learning rates, the same seeds and
so the same images in the same order. Writes results/start.csv (a row a validation) and results/start.png. Runs are kept
and resumed like all others, so a second call only draws.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import pandas as pd

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.runs import run_cohort

RESULTS = Path(__file__).parent / "results"
STARTS = {"random": None, "ImageNet": "mobilenet_v2.safetensors"}
RATES = (0.002, 0.01)


def config(start: str, rate: float, seed: int, steps: int) -> RunConfig:
    """One run; the schedule is that of the CPU profiles."""
    return RunConfig(
        data=DataConfig("camvid", (192, 256), scale=(1.0, 1.5)),
        network=NetworkConfig("pspnet/mobilenet_v2", weights=STARTS[start]),
        schedule=Schedule("adamw", steps=steps, batch_size=4, lr=rate, warmup=0.2, validations=4),
        seed=seed,
    )


def rows(steps: int, seeds: int) -> list[dict]:
    """Train what is missing; one row a validation, and the final test score of each run."""
    found = []
    for seed, rate in product(range(seeds), RATES):
        runs = run_cohort([config(start, rate, seed, steps) for start in STARTS])
        for start, run in zip(STARTS, runs):
            facts = {"start": start, "lr": rate, "seed": seed, "run": run.id, "test_miou": run.result["miou"]}
            found += [
                {**facts, "step": row["step"], "val_miou": row["miou"]} for row in run.metrics() if row["kind"] == "val"
            ]
    return found


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Curves of both starts, a panel a learning rate, a thin line a seed."""
    import seaborn as sns

    tidy = frame.assign(val=100 * frame.val_miou)
    grid = sns.relplot(
        tidy, x="step", y="val", hue="start", style="start", col="lr", units="seed", estimator=None, kind="line",
        markers=True, palette=["0.45", "#0072b2"], height=3.2, aspect=1.2,
    )
    grid.set_axis_labels("step", "val mIoU (%)").set_titles("learning rate {col_name}")
    grid.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    frame = pd.DataFrame(rows(options.steps, options.seeds))
    frame.to_csv(RESULTS / "start.csv", index=False, float_format="%.5f")
    draw(frame, RESULTS / "start.png")
    last = frame[frame.step == frame.step.max()]
    print(last.groupby(["lr", "start"])[["val_miou", "test_miou"]].agg(["mean", "min", "max"]).round(4).to_string())


if __name__ == "__main__":
    main()
