"""Write the frozen files of a study: results, curves, counts of images, protocol and provenance, and their hashes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from segkd.config import ROOT, RunConfig
from segkd.download import file_sha256
from segkd.runs import Run, find
from segkd.study.numbers.frozen import FILES, HASHES, facts_of
from segkd.study.numbers.results import tidy
from segkd.study.numbers.study import Study
from segkd.study.tables.table import Row
from segkd.train.state import read_json, write_arrays, write_whole

PROTOCOL = ("data", "student", "teacher", "schedule", "seeds", "start")


def freeze(studies: list[Study], folder: Path, more: Iterable[RunConfig] = ()) -> pd.DataFrame:
    """Write all that report pages need of the finished runs; returns the results. A file changes only if its content does.

    ``more``: runs that pages use beside those of the tables.
    """
    runs = finished(studies, more)
    frame = results(studies, runs)
    _update(folder / "results.csv", frame.to_csv(index=False, float_format="%.9g").encode())
    _update(folder / "curves.csv", curves(runs).to_csv(index=False, float_format="%.5g").encode())
    counts = _image_counts(runs)
    write_arrays(folder / "images.npz", **counts) if counts else (folder / "images.npz").unlink(missing_ok=True)
    _update(folder / "study.json", _json(facts(studies[0], runs, folder)))
    _write_hashes(folder)
    return frame


def freeze_measures(folder: Path) -> None:
    """Keep what the claims page measured inside networks, which are not kept themselves."""
    path = folder / "figures" / "measures.csv"
    if path.exists():
        _update(folder / "measures.csv", path.read_bytes())
    _write_hashes(folder)


def _write_hashes(folder: Path) -> None:
    _update(folder / HASHES, _json({name: file_sha256(folder / name) for name in FILES if (folder / name).exists()}))


def every_config(studies: list[Study], more: Iterable[RunConfig] = ()) -> list[RunConfig]:
    """Of every row of every table, and of ``more``, each once."""
    rows = [(study, row) for study in studies for table in study.all_tables for row in study.rows(table)]
    found = [*(study.config(row, seed) for study, row in rows for seed in study.seeds), *more]
    return list({config.id: config for config in found}.values())


def finished(studies: list[Study], more: Iterable[RunConfig] = ()) -> dict[str, Run]:
    """Those of `every_config` that are finished, by their id."""
    return {run.id: run for run in map(find, every_config(studies, more)) if run.done}


def results(studies: list[Study], runs: Mapping[str, Run]) -> pd.DataFrame:
    """Tidy results of all tables, profile and data set first; runs of no table stand at the end, as table ``none``.

    A run stands in each table that has it, its IoU of the classes in the first alone.
    """
    frame = pd.concat([study.results() for study in studies], ignore_index=True)
    others = [runs[name] for name in sorted(set(runs) - set(frame["run"]))]
    lines = [line for run in others for line in tidy("", "none", Row(run.config.method, run.config.method), run)]
    frame = pd.concat([frame, pd.DataFrame(lines)], ignore_index=True) if lines else frame
    frame = frame[~(frame["metric"].str.startswith("iou/") & frame.duplicated(["run", "metric"]))]
    labels = pd.DataFrame({"profile": studies[0].profile.name, "dataset": studies[0].dataset}, index=frame.index)
    return pd.concat([labels, frame.drop(columns=["profile", "dataset"], errors="ignore")], axis=1)


def curves(runs: Mapping[str, Run]) -> pd.DataFrame:
    """The numbers of every run's ``metrics.jsonl``, one line a row: run, kind, step, losses, validation mIoU."""
    plain = lambda row: {k: v for k, v in row.items() if k != "lr" and not isinstance(v, (list, dict))}  # noqa: E731
    lines = [{"run": name, **plain(row)} for name in sorted(runs) for row in runs[name].metrics()]
    return pd.DataFrame(lines, columns=sorted({k for line in lines for k in line}, key=_column)) if lines else pd.DataFrame({"run": []})


def _column(name: str) -> tuple[int, str]:
    first = ("run", "kind", "step", "miou", "loss", "task", "task_aux")
    return (first.index(name) if name in first else len(first)), name


def _image_counts(runs: Mapping[str, Run]) -> dict[str, np.ndarray]:
    """Arrays of ``images.npz``: ``labels`` (N, C) once, for each run (N, 2, C): true positives and predicted pixels.

    A run whose labels differ from those of the first (another size) keeps all three rows.
    """
    found: dict[str, np.ndarray] = {}
    for name in sorted(runs):
        counts = runs[name].images()
        if counts is None:
            continue
        labels = found.setdefault("labels", _small(counts[:, 1]))
        found[name] = _small(counts[:, ::2] if np.array_equal(labels, counts[:, 1]) else counts)
    return found


def _small(counts: np.ndarray) -> np.ndarray:
    return counts.astype(np.min_scalar_type(int(counts.max(initial=0))))


def facts(study: Study, runs: Mapping[str, Run], folder: Path) -> dict[str, object]:
    """What the results were made with, for whoever reads them without the report; as they are, or as ``folder`` keeps them."""
    protocol, train = study.facts(), study.packed("train")
    return {
        "profile": study.profile.name, "dataset": study.dataset, "shows": study.profile.shows,
        **{key: protocol[key] for key in PROTOCOL},
        "split": study.data.split, "classes": list(train.classes),
        "train_shares": [round(float(share), 9) for share in train.class_frequencies()],
        "provenance": provenance(study, runs.values(), folder),
    }  # fmt: skip


def provenance(study: Study, runs: Iterable[Run], folder: Path) -> dict[str, object]:
    """Where the numbers come from: versions, commits, devices, data, time; every value is read from the runs' own files.

    Of runs that were trained elsewhere it is what ``folder`` keeps of them.
    """
    runs = list(runs)
    here = [run for run in runs if not run.kept]
    kept = facts_of(folder)["provenance"] if len(here) < len(runs) else {}
    known = [read_json(run.path / "env.json", "delete it") if (run.path / "env.json").exists() else {} for run in here]
    unique = lambda key, name: sorted({*kept.get(name, []), *(str(env[key]) for env in known if env.get(key))})  # noqa: E731
    busy = {"CPU": 0.0, "GPU": 0.0}
    for run, env in zip(here, known):
        busy["CPU" if env.get("device", "cpu") == "cpu" else "GPU"] += seconds(run)
    elsewhere = max(kept.get("hours", busy), key=lambda kind: kept.get("hours", busy)[kind])  # runs do not keep their device
    busy[elsewhere] += sum(seconds(run) for run in runs if run.kept)
    manifest = ROOT / "data" / "manifests" / f"{study.dataset}.json"
    return {
        "runs": len(runs),
        **{name: unique(key, name) for name, key in {
            "commits": "commit", "devices": "device", "machines": "machine", "python": "python", "torch": "torch", "timm": "timm",
        }.items()},
        **({key: kept[key] for key in ("data_fingerprint", "data_pixels") if key in kept} if not here else {
            "data_fingerprint": study.packed("train").fingerprint, "data_pixels": study.packed("train").pixels,
        }),
        "data_manifest": f"{manifest.name} {file_sha256(manifest)[:16]}" if manifest.exists() else "",
        "hours": {kind: round(value / 3600, 3) for kind, value in busy.items() if value},
        "wall_hours": round(kept.get("wall_hours", 0) + wall_seconds(here) / 3600, 3),
    }  # fmt: skip


def seconds(run: Run) -> float:
    """Time of a run's training steps, its share of the teacher's pass included."""
    return run.result["seconds_per_step"] * run.config.schedule.steps


def wall_seconds(runs: Iterable[Run]) -> float:
    """Time during which at least one of the runs was under way, from first to last write of its files; breaks count not."""
    times = [[(run.path / name).stat().st_mtime for name in ("config.json", "result.json")] for run in runs]
    total, end = 0.0, 0.0
    for begin, finish in sorted(times):
        total += max(finish - max(begin, end), 0.0)
        end = max(end, finish)
    return total


def _json(values: Mapping) -> bytes:
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()


def _update(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        write_whole(path, lambda p: p.write_bytes(content))
