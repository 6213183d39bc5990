"""Procedural street scenes, upright things: trees, lamps, signs, people, riders, clutter. Metric local coordinates."""

from __future__ import annotations

from math import sqrt

import numpy as np

from segkd.data.scenes.draw import Canvas, Patch, noise
from segkd.data.scenes.layout import BICYCLIST, FENCE, PEDESTRIAN, POLE, SIGN, TREE, VOID, Railing, Thing
from segkd.data.scenes.world import wall_distance

SKINS = ((0.72, 0.52, 0.42), (0.48, 0.33, 0.25), (0.82, 0.63, 0.53), (0.30, 0.20, 0.15))
BOARDS = ((0.10, 0.25, 0.60), (0.10, 0.38, 0.22), (0.75, 0.68, 0.15))
LAMPS = ((1.0, 0.15, 0.1), (1.0, 0.6, 0.1), (0.2, 1.0, 0.4))


def bar(u, v, a: tuple[float, float], b: tuple[float, float], thick: float) -> np.ndarray:
    """Mask of a thick line from a to b (m); ``thick`` is half its width."""
    du, dv = b[0] - a[0], b[1] - a[1]
    along = np.clip(((u - a[0]) * du + (v - a[1]) * dv) / (du * du + dv * dv), 0, 1)
    return (u - a[0] - along * du) ** 2 + (v - a[1] - along * dv) ** 2 < thick * thick


def disc(u, v, u0: float, v0: float, ru: float, rv: float) -> np.ndarray:
    """Mask of an ellipse with centre (u0, v0) and half axes (ru, rv), metres."""
    return ((u - u0) / ru) ** 2 + ((v - v0) / rv) ** 2 < 1


def tint(colour, factor: float) -> np.ndarray:
    """The colour, brighter or darker."""
    return np.array(colour, dtype=np.float32) * factor


def paint_tree(canvas: Canvas, thing: Thing) -> None:
    """A trunk and a ragged canopy, lit from the sun's side; with few leaves the background shows through."""
    look = thing.look
    wide, tall, foot = 1.2 + 2.2 * look[0], 1.3 + 2.2 * look[1], 1.6 + 2.0 * look[2]
    canvas.shadow(thing.t, thing.z, wide, 1.2)
    patch, u, v = canvas.upright(thing.t, thing.z, wide * 1.3, foot + 2.4 * tall)
    scale = canvas.world.focal / thing.z
    trunk = np.maximum(0.10 + 0.16 * look[3], 0.5 * canvas.pixel / scale)
    stem = (np.abs(u - 0.1 * look[5] * v) < trunk) & (v < foot + tall) & (v >= 0)
    bark = (0.24 + 0.16 * look[4]) * (0.75 + 0.5 * noise(u * 60, v * 9))
    patch.fill(stem, bark[..., None] * tint((1.0, 0.85, 0.7), 1.0), TREE)
    ragged = noise(u * 14 + 256 * look[6], v * 14 + 256 * look[7])
    leaves = noise(u * 45 + 256 * look[7], v * 45 + 256 * look[6])
    canopy = ((u / wide) ** 2 + ((v - foot - tall) / tall) ** 2) < 0.55 + 0.75 * ragged
    thin = 0.75 * look[8] if look[8] > 0.6 else 0.0
    sun = canvas.world.weather["sun"] * canvas.world.weather["sun_side"]
    shade = (0.45 + 0.75 * leaves) * (1 + 0.3 * np.clip(sun * u / wide + 0.4 * (v - foot - tall) / tall, -1, 1))
    behind = patch.colour.copy()
    patch.fill(canopy, shade[..., None] * tint(thing.colour, 1.0), TREE)
    holes = canopy & (leaves < thin)
    patch.colour[holes] = behind[holes]


def paint_bush(canvas: Canvas, thing: Thing) -> None:
    """A low ragged heap of leaves."""
    look = thing.look
    wide, tall = 0.7 + 1.6 * look[0], 0.6 + 1.0 * look[1]
    patch, u, v = canvas.upright(thing.t, thing.z, wide * 1.2, 1.3 * tall)
    leaves = noise(u * 50 + 256 * look[2], v * 50 + 256 * look[3])
    heap = (u / wide) ** 2 + (v / tall) ** 2 < 0.6 + 0.6 * noise(u * 20 + 256 * look[3], v * 20)
    patch.fill(heap & (v >= 0), (0.5 + 0.7 * leaves)[..., None] * tint(thing.colour, 1.0), TREE)


def post(canvas: Canvas, thing: Thing, patch: Patch, u, v, height: float, thick: float) -> None:
    """A thin upright pole, never thinner than about one pixel."""
    thick = max(thick, 0.55 * canvas.pixel * thing.z / canvas.world.focal)
    grey = tint((0.30, 0.31, 0.31), 0.5 + 1.2 * thing.look[0])
    patch.fill((np.abs(u) < thick) & (v < height) & (v >= 0), grey, POLE)


def paint_lamp(canvas: Canvas, thing: Thing) -> None:
    """A street lamp or a telegraph pole: post, and at times an arm over the road with its lamp."""
    look = thing.look
    height = 4.5 + 4.0 * look[1]
    patch, u, v = canvas.upright(thing.t, thing.z, 2.2, height + 0.5)
    post(canvas, thing, patch, u, v, height, 0.05 + 0.06 * look[2])
    if look[3] < 0.6:
        inward = -1.0 if thing.t > 0 else 1.0
        thick = max(0.05, 0.5 * canvas.pixel * thing.z / canvas.world.focal)
        grey = tint((0.30, 0.31, 0.31), 0.5 + 1.2 * look[0])
        patch.fill(bar(u, v, (0.0, height - 0.1), (inward * 1.6, height + 0.25), thick), grey, POLE)
        lit = canvas.world.weather["dusk"] > 0
        patch.fill(disc(u, v, inward * 1.6, height + 0.2, 0.32, 0.12), (1.4, 1.2, 0.8) if lit else grey, POLE, glow=lit)


def paint_sign(canvas: Canvas, thing: Thing) -> None:
    """A traffic sign on its post: disc, triangle, plate or the grey back of one."""
    look = thing.look
    size, foot = 0.46 + 0.24 * look[1], 1.9 + 0.8 * look[2]
    patch, u, v = canvas.upright(thing.t, thing.z, 1.0, foot + 3 * size)
    post(canvas, thing, patch, u, v, foot + size, 0.04)
    h = v - foot - size
    kind = int(look[3] * 4)
    rim, inner = (0.75, 0.10, 0.10), (0.88, 0.87, 0.84)
    if kind == 0:
        plate, core = disc(u, h, 0, 0, size, size), disc(u, h, 0, 0, 0.68 * size, 0.68 * size)
    elif kind == 1:
        plate = (h > -0.8 * size) & (np.abs(u) < 0.62 * (size - h))
        core = (h > -0.55 * size) & (np.abs(u) < 0.62 * (0.5 * size - h))
    else:
        wide = size * (0.7 + 1.0 * look[4])
        plate, core = (np.abs(u) < wide) & (np.abs(h) < size), (np.abs(u) < 0.8 * wide) & (np.abs(h) < 0.25 * size)
        rim = BOARDS[int(look[5] * 3)] if kind == 2 else thing.colour
    if look[6] < 0.2:
        rim = inner = (0.42, 0.43, 0.44)
    patch.fill(plate, rim, SIGN)
    patch.fill(core, inner, SIGN)


def paint_lights(canvas: Canvas, thing: Thing) -> None:
    """A traffic light: a dark box on a post, one lamp on."""
    look = thing.look
    foot = 2.0 + 0.8 * look[1]
    patch, u, v = canvas.upright(thing.t, thing.z, 0.6, foot + 1.4)
    post(canvas, thing, patch, u, v, foot, 0.07)
    patch.fill((np.abs(u) < 0.26) & (np.abs(v - foot - 0.55) < 0.55), tint((0.08, 0.08, 0.08), 0.5 + look[2]), SIGN)
    on = int(look[3] * 3)
    patch.fill(disc(u, v, 0, foot + 0.87 - 0.32 * on, 0.13, 0.13), LAMPS[on], SIGN, glow=True)


def paint_person(canvas: Canvas, thing: Thing) -> None:
    """A pedestrian: legs in stride, tapered torso, arms, head, at times a bag."""
    look = thing.look
    size = 0.82 + 0.24 * look[0]
    canvas.shadow(thing.t, thing.z, 0.55, 0.35)
    patch, u, v = canvas.upright(thing.t, thing.z, 0.9, 1.95 * size)
    u, v = u / size, v / size
    stride, lean = 0.30 * look[1], 0.06 * (look[2] - 0.5)
    trousers = tint((0.18, 0.19, 0.25), 0.5 + 1.5 * look[3])
    patch.fill(bar(u, v, (-0.07, 0.9), (-0.07 - stride, 0.05), 0.10), trousers, PEDESTRIAN)
    patch.fill(bar(u, v, (0.07, 0.9), (0.07 + 0.6 * stride, 0.05), 0.10), tint(trousers, 0.85), PEDESTRIAN)
    wide = 0.19 + 0.05 * look[4]
    arms = bar(u, v, (-wide, 1.4), (-wide - 0.08 - 0.4 * stride, 0.85), 0.065)
    arms |= bar(u, v, (wide, 1.4), (wide + 0.06 + 0.3 * stride, 0.85), 0.065)
    patch.fill(arms, tint(thing.colour, 0.8), PEDESTRIAN)
    coat = 0.80 - 0.3 * (look[5] > 0.7)
    patch.fill((v > coat) & (v < 1.5) & (np.abs(u - lean) < wide * (1.15 - 0.25 * (v - 0.8))), thing.colour, PEDESTRIAN)
    skin = SKINS[int(look[6] * 4)]
    patch.fill(disc(u, v, lean, 1.64, 0.115, 0.15), skin, PEDESTRIAN)
    patch.fill(disc(u, v, lean, 1.70, 0.12, 0.10), tint((0.3, 0.22, 0.15), 0.3 + look[7]), PEDESTRIAN)
    if look[8] > 0.65:
        patch.fill(disc(u, v, wide + 0.14, 0.78, 0.12, 0.2), tint((0.5, 0.35, 0.25), 0.4 + look[9]), PEDESTRIAN)


def paint_rider(canvas: Canvas, thing: Thing) -> None:
    """A bicyclist: two wheels, frame, legs, bent torso, head with or without helmet; turned by any angle."""
    look = thing.look
    squeeze = (0.16 + 0.84 * look[0] * sqrt(look[0])) * (1 if look[1] < 0.5 else -1)
    canvas.shadow(thing.t, thing.z, 0.4 + 0.5 * abs(squeeze), 0.35)
    patch, u, v = canvas.upright(thing.t, thing.z, 1.1, 1.95)
    body = u  # the rider keeps his breadth; the bicycle shrinks as it turns
    u = u / squeeze
    line = max(0.035, 0.4 * canvas.pixel * thing.z / canvas.world.focal)
    for hub in (-0.52, 0.52):
        reach = (u - hub) ** 2 + (v - 0.35) ** 2
        wheel = reach < 0.35**2
        tyre = wheel & ((reach > (0.35 - 1.5 * line) ** 2) | (np.abs(body - hub * squeeze) < 0.04))
        patch.label[wheel] = BICYCLIST
        patch.colour[wheel] *= 0.8
        patch.fill(tyre, (0.07, 0.07, 0.07), BICYCLIST)
    frame = bar(u, v, (-0.52, 0.35), (-0.15, 0.85), line) | bar(u, v, (-0.15, 0.85), (0.42, 0.82), line)
    frame |= bar(u, v, (0.0, 0.35), (0.42, 0.82), line) | bar(u, v, (0.52, 0.35), (0.40, 1.0), line)
    patch.fill(frame, tint(thing.colour[::-1], 0.8), BICYCLIST)
    trousers = tint((0.2, 0.2, 0.26), 0.5 + look[2])
    hip, hand, neck = -0.18 * squeeze, 0.40 * squeeze, (0.12 + 0.12 * look[3]) * squeeze
    for offset, foot in ((-0.08, 0.22), (0.08, 0.45)):
        patch.fill(bar(body, v, (hip + offset, 0.95), (0.15 * squeeze + offset, foot), 0.09), trousers, BICYCLIST)
    patch.fill(bar(body, v, (hip, 0.98), (neck, 1.38), 0.2), thing.colour, BICYCLIST)
    patch.fill(bar(body, v, (neck, 1.36), (hand, 1.05), 0.07), tint(thing.colour, 0.8), BICYCLIST)
    patch.fill(disc(body, v, neck * 1.3, 1.66, 0.12, 0.15), SKINS[int(look[4] * 4)], BICYCLIST)
    cap = (0.8, 0.8, 0.75) if look[5] > 0.6 else tint((0.25, 0.2, 0.15), 0.4 + look[6])
    patch.fill(disc(body, v, neck * 1.3, 1.74, 0.13, 0.10), cap, BICYCLIST)


def paint_clutter(canvas: Canvas, thing: Thing) -> None:
    """Things of no class (void): bins, boxes, boards."""
    look = thing.look
    wide, tall = 0.2 + 0.5 * look[0], 0.5 + 0.9 * look[1]
    canvas.shadow(thing.t, thing.z, wide * 1.4, 0.3)
    patch, u, v = canvas.upright(thing.t, thing.z, wide, tall)
    mask = (v >= 0) & ((np.abs(u) < wide * (0.7 + 0.3 * v / tall)) if look[2] < 0.6 else disc(u, v, 0, 0, wide, tall))
    patch.fill(mask, (0.8 + 0.4 * (v > 0.7 * tall))[..., None] * tint(thing.colour, 1.0), VOID)


def paint_railing(canvas: Canvas, railing: Railing) -> None:
    """A fence along the road: bars or rails let the background through, boards do not; all of it is Fence."""
    corners = [canvas.project(railing.t, z, h) for z in (railing.z0, railing.z1) for h in (0.0, railing.height)]
    xs, ys = zip(*corners)
    patch = canvas.patch(min(xs), min(ys), max(xs), max(ys), canvas.haze(railing.z0 + 3))
    world = canvas.world
    z = wall_distance(world, patch.x / world.focal, railing.t)
    over = world.eye - (patch.y - world.horizon) * z / world.focal
    panel = (z > railing.z0) & (z < railing.z1) & (over > 0) & (over < railing.height)
    panel &= (z + railing.phase) % 7.0 > 0.5  # a gap now and then
    coarse = np.maximum(0.35, 0.9 * canvas.pixel * z / world.focal)
    bars, rails = z / 0.28 % 1 < coarse, (over / railing.height * 3) % 1 < coarse
    solid = {"bars": bars | (over > 0.9 * railing.height), "rails": rails | (z / 2.0 % 1 < 0.08)}.get(railing.style)
    shade = 0.8 + 0.4 * noise(z * 30, over * 30)
    patch.label[panel] = FENCE
    patch.fill(panel if solid is None else panel & solid, shade[..., None] * tint(railing.colour, 0.9), FENCE)


PAINTERS = {
    "tree": paint_tree, "bush": paint_bush, "lamp": paint_lamp, "sign": paint_sign, "lights": paint_lights,
    "person": paint_person, "rider": paint_rider, "clutter": paint_clutter,
}  # fmt: skip
