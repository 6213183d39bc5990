"""The embedded data set: procedural street scenes with CamVid's eleven classes, a pure function of (seed, index)."""

from segkd.data.scenes.layout import DIFFICULTY
from segkd.data.scenes.scene import CLASSES, PALETTE, SPLITS, VERSION, scene, split_scene

__all__ = ["CLASSES", "DIFFICULTY", "PALETTE", "SPLITS", "VERSION", "scene", "split_scene"]
