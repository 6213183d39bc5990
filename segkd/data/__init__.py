"""Data sets: readers by name (catalog), packing into memory-mapped arrays (store), order (sampler), augmentation."""

from segkd.data import readers  # noqa: F401
from segkd.data.catalog import Dataset, create_dataset, list_datasets
from segkd.data.verify import verify

__all__ = ["Dataset", "create_dataset", "list_datasets", "verify"]
