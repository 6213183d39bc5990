"""Whether an image is in two splits of a set: the same file, or, in a user's own folder, a file of the same content."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from segkd.data.catalog import Dataset, create_dataset
from segkd.data.files.layout import some
from segkd.registry import UserError

SWITCH = "SEGKD_ALLOW_OVERLAP"


def check_overlap(name: str, root: str | Path | None, splits: tuple[str, ...], split: str | None = None) -> None:
    """UserError if an image is in two of ``splits`` (with ``split``: in it and another); ``SEGKD_ALLOW_OVERLAP=1`` lets it pass."""
    if os.environ.get(SWITCH):
        return
    for pair in combinations(splits, 2):
        if split is not None and split not in pair:
            continue
        try:
            one, other = (create_dataset(name, root, part) for part in pair)
        except UserError:  # a split that is not there has no images
            continue
        same = list(_same(one, other))
        if same:
            raise UserError(
                f"{name}: {len(same)} image(s) of {pair[0]} are in {pair[1]} too, so that its score says nothing: {some(same)}; take "
                f"them out of one, or set {SWITCH}=1 if it is meant"
            )


def _same(one: Dataset, other: Dataset) -> Iterator[str]:
    """Names of the images of ``one`` that are in ``other``, with other names there. Only files of equal size are read."""
    if not hasattr(one, "pairs"):  # drawn
        return
    theirs = defaultdict(list)
    for name, pair in other.pairs.items():
        theirs[other.source.size(pair.image)].append((name, pair.image))
    for name in one.names:
        pair = one.pairs[name]
        for their_name, path in theirs.get(one.source.size(pair.image), ()):
            copied = not one.as_stored and one.source.checksum(pair.image) == other.source.checksum(path)
            if pair.image == path or copied:
                yield name if name == their_name else f"{name} = {their_name}"
                break
