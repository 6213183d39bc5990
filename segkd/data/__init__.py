"""Data sets: readers by name (catalog), packing into memory-mapped arrays (store), order (sampler), augmentation."""

from segkd.data.catalog import Dataset, create_dataset, list_datasets, verify
from segkd.data import camvid as _camvid  # noqa: F401  (a reader registers itself: one file and one line here)

__all__ = ["Dataset", "create_dataset", "list_datasets", "verify"]
