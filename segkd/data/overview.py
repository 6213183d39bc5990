"""What ``segkd data`` says and does: the list of all sets with their state; get, pack and check one of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from segkd.data.catalog import CHECKOUT, DATASETS, Dataset, create_dataset, list_datasets, root_candidates
from segkd.data.downloads import download, is_here, may_be_fetched
from segkd.data.store import pack
from segkd.data.verify import doubts, splits_of, verify
from segkd.registry import UserError, unknown

PACKED = CHECKOUT / "data" / "packed"
ACTIONS = ("list", "prepare", "verify")


def command(words: list[str], root: Path | None = None, size: str | None = None, packed_dir: Path | None = None) -> Iterator[str]:
    """Lines of ``segkd data [list | prepare NAME | verify NAME | NAME]``; NAME alone gets, checks and packs a set."""
    packed_dir = PACKED if packed_dir is None else packed_dir
    if not words or words == ["list"]:
        yield from overview(packed_dir)
        return
    if words[0] in ACTIONS and len(words) == 1:
        raise UserError(f"segkd data {words[0]}: give the name of a data set: {', '.join(list_datasets())}")
    action, name = (words[0], words[1]) if len(words) == 2 else ("all", words[0])
    if len(words) > 2 or action not in (*ACTIONS[1:], "all"):
        raise unknown("data command", " ".join(words), ACTIONS)
    if name not in list_datasets():
        raise unknown("data set", name, (*list_datasets(), *(ACTIONS if action == "all" else ())))
    if action == "all" and not is_here(name, root):
        root = download(name, root)
        yield f"{name}: downloaded into {root}"
    if action in ("all", "verify"):
        yield from _check(name, root, packed_dir)
    if action == "prepare" or (action == "all" and (size or not _drawn(name))):
        yield from prepare(name, root, parse_size(size), packed_dir)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """ "360x480" -> (360, 480); None stays None, the images' own sizes."""
    if text is not None and not re.fullmatch(r"\d+x\d+", text):
        raise UserError(f"--size: '{text}' is not HEIGHTxWIDTH, such as 360x480")
    return text and tuple(map(int, text.split("x")))


def _drawn(name: str) -> bool:
    """Whether a set has no files: its images are made at any size."""
    return DATASETS.get(name).at_size is not Dataset.at_size


def prepare(name: str, root: Path | None, size: tuple[int, int] | None, packed_dir: Path) -> Iterator[str]:
    """Pack every split of a set (at once where it is done already); a line each: where, and how many bytes."""
    for split in splits_of(name, root):
        packed = pack(name, split, size, root, packed_dir)
        at = "their own sizes" if packed.size is None else f"{packed.size[0]}x{packed.size[1]}"
        yield f"{name} {split}: {len(packed)} images at {at}, {packed.nbytes / 1e6:.0f} MB in {packed.path}"


def _check(name: str, root: Path | None, packed_dir: Path) -> Iterator[str]:
    """Compare a set with its manifest, remember that it was right, and say what was compared and what is doubtful."""
    if _drawn(name):
        yield f"{name}: drawn when needed, no files to verify"
        return
    found = verify(name, root)
    counts = ", ".join(f"{split} {values['images']}" for split, values in found["splits"].items())
    packed_dir.mkdir(parents=True, exist_ok=True)
    dataset = create_dataset(name, root, next(iter(found["splits"])))
    note = {"place": str(dataset.source.path), "date": date.today().isoformat(), "checked": found["checked"]}
    _note(packed_dir, name).write_text(json.dumps(note))
    pixels = {split: values["pixels"] for split, values in found["splits"].items()}
    void = ", ".join(f"{split} {100 * count['void'] / sum(count.values()):.3g}%" for split, count in pixels.items() if count["void"])
    yield f"{name}: {counts} images verified ({found['checked']}){f'; ignored pixels: {void}' if void else ''}{dataset.form and f'; {dataset.form}'}"
    yield from doubts(found)


def _note(packed_dir: Path, name: str) -> Path:
    return packed_dir / f"{name}.verified.json"


def overview(packed_dir: Path) -> list[str]:
    """A table of all sets: state, images per split, packs, bytes on the disk, licence, and below it what is wrong."""
    root_candidates(None, ("",))  # a wrong SEGKD_DATA is one error, not one of each set
    head = ("set", "state", "images", "packed", "disk", "licence")
    rows, notes = [head], []
    for name in list_datasets():
        state, images, place, error = _state(name, packed_dir)
        sizes, packed_bytes = _packs(name, packed_dir)
        used, about = packed_bytes + (disk_bytes(place) if place else 0), DATASETS.get(name).about
        size = f"{used / 1e6:.0f} MB" if used < 1e9 else f"{used / 1e9:.1f} GB"
        rows.append((name, state, images, ", ".join(sizes) or "-", size, about.licence if about else ""))
        notes += [f"{name}: {error}"] if error else []
    wide = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, wide)), row[-1]]).rstrip() for row in rows]
    fetched = ", ".join(name for name in list_datasets() if may_be_fetched(name))
    return [*lines, "", f"`make data DATASET=name` gets, checks and packs {fetched}; of the others it says how to get them", *notes]


def _state(name: str, packed_dir: Path) -> tuple[str, str, Path | None, UserError | None]:
    """State in words, images per split, where the files are, and what is wrong."""
    try:
        splits = [create_dataset(name, split=split) for split in splits_of(name)]
    except UserError as error:
        return ("damaged", "-", None, error) if is_here(name) else ("not found", "-", None, None)
    images = "/".join(str(len(split)) for split in splits)
    if _drawn(name):
        return "drawn when needed", images, None, None
    place, note = splits[0].source.path, _note(packed_dir, name)
    known = json.loads(note.read_text()) if note.is_file() else {}
    verified = f", verified {known['date']}" if known.get("place") == str(place) else ""
    return f"in {place}{verified}", images, place, None


def _packs(name: str, packed_dir: Path) -> tuple[list[str], int]:
    """Sizes at which splits are packed, and their bytes."""
    sizes, total = {}, 0
    for folder in sorted(packed_dir.glob(f"{name}-*")):
        found = re.fullmatch(rf"{re.escape(name)}-\w+-(native|\d+x\d+)-n\d+-v\d+-[0-9a-f]+", folder.name)
        if found and folder.is_dir():
            used = disk_bytes(folder)
            total += used
            if used > 1 << 16 or found[1] != "native":  # a small native folder only says where the images are
                sizes[found[1]] = None
    return list(sizes), total


def disk_bytes(path: Path) -> int:
    """Bytes that a file or all files below a folder take."""
    files = [path.resolve()] if path.is_file() else (Path(folder, file) for folder, _, names in os.walk(path) for file in names)
    return sum(file.lstat().st_blocks * 512 for file in files)
