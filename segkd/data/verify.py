"""Manifests: what a data set must hold (counts, sizes, pixels per class, a hash of every label), and whether it does."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from segkd.data.catalog import DATASETS, MANIFESTS, Dataset, create_dataset
from segkd.data.files.layout import some
from segkd.data.overlap import check_overlap
from segkd.data.pool import in_processes
from segkd.data.readers.folder_config import NEEDED, UNLABELLED
from segkd.metrics import IGNORE
from segkd.registry import UserError


VALUE_IS_A_CLASS = "where a mask value that is ignored is a class, say so in segkd.yaml (`- {name: crack, value: 255}`)"


def describe(name: str, root: str | Path | None = None) -> dict:
    """Read the whole set; what a manifest holds: per split images, sizes, pixels per class and void, hashes of the labels.

    A hash is the SHA-256 of a label's height, width and train ids, whatever file they come from. UserError names up to
    three files that cannot be used.
    """
    return {"name": name, "splits": {split: _describe(create_dataset(name, root, split)) for split in splits_of(name, root)}}


def splits_of(name: str, root: str | Path | None = None) -> tuple[str, ...]:
    """The splits of a set; of a described folder those of its description."""
    reader = DATASETS.get(name)
    return tuple(reader(root).config.splits) if name == "folder" else reader.splits


def _describe(dataset: Dataset) -> dict:
    found = list(in_processes(_look, dataset, len(dataset), f"reading {dataset.name} {dataset.split}"))
    errors = [one for one in found if isinstance(one, str)]
    if errors:
        raise UserError(f"{dataset.name} {dataset.split}: {len(errors)} image(s) cannot be used: {some(errors, ' | ', '')}")
    digests, sizes, counts = zip(*found)
    histogram = np.sum(counts, axis=0, dtype=np.int64)
    pixels = {label: int(histogram[index]) for index, label in enumerate(dataset.classes)}
    return {
        "images": len(dataset),
        "sizes": {f"{height}x{width}": count for (height, width), count in sorted(Counter(sizes).items())},
        "pixels": pixels | {"void": int(histogram[IGNORE])},
        "labels": dict(zip(dataset.names, digests)),
    }


def _look(dataset: Dataset, row: int) -> tuple[str, tuple[int, int], np.ndarray] | str:
    """Hash, size and pixel counts (256,) of a label, or what is wrong with the files."""
    try:
        label = dataset[row].label
    except UserError as error:
        return str(error)
    return label_sha256(label), label.shape, np.bincount(label.ravel(), minlength=256)


def label_sha256(label: np.ndarray) -> str:
    """SHA-256 of ``{height}x{width}:`` and the bytes of a label uint8 (H, W)."""
    return hashlib.sha256(f"{label.shape[0]}x{label.shape[1]}:".encode() + np.ascontiguousarray(label).tobytes()).hexdigest()


def has_manifest(name: str, folder: Path = MANIFESTS) -> bool:
    """Whether the labels of a set are known by their hashes."""
    return (Path(folder) / f"{name}.json").is_file()


def verify(name: str, root: str | Path | None = None, folder: Path = MANIFESTS) -> dict:
    """Read every file of a set and compare it with its manifest; returns the description, with ``checked`` in words.

    Without a manifest only the counts of the catalogue can be compared, and ``checked`` says so. UserError: what differs,
    in which images (three of them, and how many), and how to mend it; an image that is in two splits.
    """
    expected, checked = _expected(name, Path(folder))
    check_overlap(name, root, splits_of(name, root))
    found = describe(name, root)
    problems = [
        f"{name} {split} is not what {expected['source']} says: {'; '.join(wrong)}"
        for split, want in expected["splits"].items()
        if (wrong := list(_differences(want, found["splits"].get(split, {"images": 0}))))
    ]
    if problems:
        raise UserError(f"{'; '.join(problems)}; get it again ({DATASETS.get(name).how})")
    return found | {"checked": checked}


def _expected(name: str, folder: Path) -> tuple[dict, str]:
    """What a set must hold, and in words how much that says."""
    about = DATASETS.get(name).about
    if has_manifest(name, folder):
        manifest = json.loads((folder / f"{name}.json").read_text())
        hashed = all("labels" in split for split in manifest["splits"].values())
        checked = f"counts, sizes, pixels per class{', the hash of every label' if hashed else ''}"
        return manifest | {"source": f"its manifest {name}.json"}, checked
    if about is not None:
        splits = {split: {"images": count} for split, count in about.splits.items()}
        return {"splits": splits, "source": "the catalogue"}, "the number of images and that all can be read; there is no manifest"
    return {"splits": {}}, "only that all images can be read; neither a manifest nor a count is known"


def doubts(found: dict) -> Iterator[str]:
    """What a description (`describe`) lacks, a line each: classes without a pixel, fewer than two classes, a split to choose by."""
    for split, values in found["splits"].items():
        if split == UNLABELLED:
            continue
        pixels = dict(values["pixels"])
        ignored, total = pixels.pop("void"), sum(values["pixels"].values())
        there = [name for name, count in pixels.items() if count]
        missing = [name for name, count in pixels.items() if not count]
        if missing or len(there) < 2:
            alone = "" if len(there) > 1 else f" ALL ITS LABELS ARE {there[0] if there else 'IGNORED'}, which cannot be learned;"
            part = f"{100 * ignored / max(total, 1):.3g}% of its pixels are ignored" + (f": {VALUE_IS_A_CLASS}" if ignored else "")
            yield f"{found['name']} {split}: CHECK THE LABELS:{alone} no pixel of {some(missing) or 'another class'}; {part}"
    if "val" not in found["splits"]:
        yield f"{found['name']}: NO VAL, only {', '.join(found['splits'])}: {NEEDED}"


def _differences(want: dict, have: dict) -> Iterable[str]:
    """What a split has otherwise than it should, in words; of a manifest only what it holds is compared."""
    if want["images"] != have["images"]:
        yield f"{have['images']} images instead of {want['images']}"
    for size, count in want.get("sizes", {}).items():
        if have.get("sizes", {}).get(size, 0) != count:
            yield f"{have['sizes'].get(size, 0)} images of {size} instead of {count}"
    labels, there = want.get("labels", {}), have.get("labels", {})
    for what, names in (
        ("lacks", labels.keys() - there.keys()),
        ("should not have", there.keys() - labels.keys() if labels else set()),
        ("has other labels for", {name for name in labels.keys() & there.keys() if labels[name] != there[name]}),
    ):
        if names:
            yield f"{what} {some(sorted(names))}"
    pixels = have.get("pixels", {})
    for label, expected in want.get("pixels", {}).items():
        if pixels.get(label) != expected:
            yield f"{pixels.get(label, 'no')} pixels of {label} instead of {expected}"
            return  # the others follow from it
