"""Data sets: readers by name (catalog), packing into memory-mapped arrays (store), order (sampler), augmentation."""

from segkd.data.catalog import Dataset, create_dataset, list_datasets
from segkd.data.verify import verify
# Readers register themselves: one file and one name here.
from segkd.data import ade20k, camvid, cityscapes, coco_stuff, folder, pascal_context, voc  # noqa: F401

__all__ = ["Dataset", "create_dataset", "list_datasets", "verify"]
