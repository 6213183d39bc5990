"""One procedural street scene: world, stage, things, bonnet and camera in their order; the splits as streams of numbers."""

from __future__ import annotations

import numpy as np

from segkd.data.scenes.camera import expose, paint_bonnet
from segkd.data.scenes.cars import paint_car, paint_side_car
from segkd.data.scenes.draw import Canvas
from segkd.data.scenes.layout import DIFFICULTY, make_world
from segkd.data.scenes.things import PAINTERS, paint_railing
from segkd.data.scenes.world import paint_stage
from segkd.registry import UserError, unknown

CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
)  # fmt: skip
PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
SPLITS = {"train": 367, "val": 101, "test": 233}  # the sizes of CamVid's
VERSION = 1  # of the pictures: raise it when a pixel changes (tests/data/test_scenes.py knows their hash)
STREAM = 1_000_000  # scenes a split may have; split k takes the indices k * STREAM ...

_PAINTERS = PAINTERS | {"car": paint_car, "side_car": paint_side_car}


def scene(seed: int, index: int, size: tuple[int, int] = (192, 256)) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8 RGB and label (H, W) uint8 (0..10, void 255) of one scene at ``size`` = (H, W).

    A pure function: the same arguments give the same bytes. (seed, index), both >= 0, fix the layout whatever the size.
    The layout is made for 4:3 pictures; other shapes show it stretched. Bad arguments raise UserError.
    """
    if seed < 0 or index < 0:
        raise UserError(f"scene: seed {seed} and index {index} must be 0 or more")
    height, width = map(int, size)
    if height < 1 or width < 1:
        raise UserError(f"scene: size {tuple(size)} must be (height, width), both 1 or more")
    world = make_world(int(seed), int(index))
    factor = 2 if height * width <= 25_000 else 1  # small pictures are drawn wider: thin things are mostly upright
    canvas = Canvas(world, height, width * factor, 1.0 / height)
    paint_stage(canvas)
    for on_pavement in (True, False):  # things far to near, the railings between those on the pavement and those on the road
        for thing in world.things:
            if thing.on_pavement == on_pavement:
                _PAINTERS[thing.kind](canvas, thing)
        for railing in world.railings if on_pavement else ():
            paint_railing(canvas, railing)
    paint_bonnet(canvas)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((int(seed), int(index), 1))))
    return expose(canvas, factor, rng)


def split_scene(split: str, i: int, size: tuple[int, int] = (192, 256), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scene ``i`` of a split ("train", "val", "test"), whose streams are disjoint; SPLITS has their usual lengths."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if not 0 <= i < STREAM:
        raise UserError(f"scene {i} of split '{split}': take an index from 0 to {STREAM - 1}")
    return scene(seed, list(SPLITS).index(split) * STREAM + i, size)
