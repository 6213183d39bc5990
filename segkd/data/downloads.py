"""Fetching the archives of a data set: which may be fetched, from where, and nothing is kept that is not what it should be."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from segkd.data.catalog import CHECKOUT, DATASETS, create_dataset
from segkd.data.files.unpack import forget, uncompressed
from segkd.data.verify import has_manifest, verify
from segkd.download import fetch
from segkd.registry import UserError

NOWHERE = (" is not in ", "no segkd.yaml in ", "there is no ")  # how readers say that they found nothing at all
FILE = Path(__file__).with_name("downloads.yaml")


@dataclass(frozen=True)
class Archive:
    """A file to fetch. ``digest`` as `segkd.download.fetch` takes it; ``by_hand``: why it cannot be fetched, and what to do."""

    name: str
    urls: Sequence[str] = ()
    digest: str | None = None
    bytes: int = 0
    by_hand: str = ""

    def why_not(self, name: str) -> str:
        """Why it is not fetched for the set ``name``; empty if it may be."""
        if self.by_hand or self.digest or has_manifest(name):
            return self.by_hand
        return "no hash and no manifest tells whether it is the right file: get it by hand"

    def is_in(self, folder: Path) -> bool:
        """Whether it is there, perhaps uncompressed."""
        return (folder / self.name).exists() or (folder / uncompressed(self.name)).exists()


def known_archives() -> dict[str, tuple[Archive, ...]]:
    """Data set -> its archives."""
    values = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: tuple(Archive(file, **entry) for file, entry in archives.items()) for name, archives in values.items()}


def raw_folder(name: str) -> Path:
    """Where a set is put that has no other place: data/raw and the name that its reader looks for first."""
    about = DATASETS.get(name).about
    return CHECKOUT / "data" / "raw" / (about.folders[0] if about else name)


def download(name: str, folder: Path | None = None, archives: Sequence[Archive] | None = None) -> Path:
    """Fetch what is missing of a set's archives into ``folder`` (default: ``raw_folder``), and return it.

    Archives of known hash are checked by it; others only come for a set whose manifest knows every label, and go again
    if it does not agree. UserError: a file that must be got by hand (before anything is fetched), no room, no network.
    """
    folder = raw_folder(name) if folder is None else Path(folder)
    archives = known_archives().get(name, ()) if archives is None else archives
    if not archives:
        raise UserError(f"{name} cannot be downloaded: {DATASETS.get(name).how}")
    missing = [archive for archive in archives if not archive.is_in(folder)]
    by_hand = [archive for archive in missing if archive.why_not(name)]
    if by_hand:
        why, files = by_hand[0].why_not(name), ", ".join(archive.name for archive in by_hand)
        raise UserError(f"{name}: {files} cannot be downloaded here: {why}; put what you get into {folder} and give the command again")
    folder.mkdir(parents=True, exist_ok=True)
    need, free = sum(archive.bytes for archive in missing), shutil.disk_usage(folder).free
    if need > free:
        raise UserError(f"{name}: no room in {folder}: {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
    for archive in missing:
        fetch(archive.urls, archive.digest, folder / archive.name)
    unknown = [folder / archive.name for archive in missing if not archive.digest]
    try:
        if unknown:
            verify(name, folder)
    except UserError as error:
        for file in unknown:
            forget(file)
            file.unlink(missing_ok=True)
        names = ", ".join(file.name for file in unknown)
        raise UserError(f"{names} was fetched, is not what it should be, and was removed again: {error}") from error
    return folder


def may_be_fetched(name: str) -> bool:
    """Whether ``download`` brings a set without anything done by hand."""
    archives = known_archives().get(name, ())
    return bool(archives) and not any(archive.why_not(name) for archive in archives)


def is_here(name: str, root: str | Path | None = None) -> bool:
    """Whether a reader finds the set; a set that is there and damaged is here."""
    try:
        create_dataset(name, root, DATASETS.get(name).splits[0])
    except UserError as error:
        return not any(words in str(error) for words in NOWHERE)
    return True
