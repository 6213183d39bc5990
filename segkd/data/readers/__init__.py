"""One file a data set, which registers itself: one file and one name here; reader.py is what they share, sets.yaml their facts."""

from segkd.data.readers import ade20k, camvid, cityscapes, coco_stuff, folder, pascal_context, voc  # noqa: F401
