"""Procedural street scenes, cars and vans: boxes along the road in perspective, and cars seen from the side."""

from __future__ import annotations

import numpy as np

from segkd.data.scenes.draw import Canvas
from segkd.data.scenes.layout import CAR, Thing
from segkd.data.scenes.things import disc, tint

GLASS = (0.13, 0.16, 0.19)
DETAILED = 32.0  # metres: beyond, a car is some pixels wide and goes without wheels, lights and bumper


def slab(canvas: Canvas, corners, rgb, haze: float) -> None:
    """A polygon through points (t, z, h) in metres, labelled Car."""
    canvas.polygon([canvas.project(*corner) for corner in corners], rgb, CAR, haze)


def paint_car(canvas: Canvas, thing: Thing) -> None:
    """A car or van along the road, seen from behind or from the front: side, deck, cabin, near face, lights, tyres."""
    look, t, z = thing.look, thing.t, thing.z
    van = look[0] > 0.82
    half, length = 0.82 + 0.1 * look[1], (4.6 if van else 3.7 + 0.9 * look[2])
    deck, roof = (1.15, 1.9 + 0.4 * look[3]) if van else (0.85 + 0.1 * look[3], 1.38 + 0.16 * look[4])
    (left, top), (right, bottom) = canvas.project(t - half, z, roof), canvas.project(t + half, z, 0.0)
    far = canvas.project(t, z + length, 0.0)[0]
    if not canvas.patch(min(left, far), top, max(right, far), bottom).label.size:
        return
    haze, colour = canvas.haze(z), thing.colour
    canvas.shadow(t, z + 0.5 * length, half * 1.25, 0.6 * length)
    x, _ = canvas.project(t, z, 0)
    side = -1.0 if canvas.project(t, z + length, 0)[0] < x else 1.0  # the flank that shows
    edge = t + side * half
    dim = 0.62 if side == canvas.world.weather["sun_side"] else 0.85
    flank = [(edge, z, 0.22), (edge, z, deck), (edge, z + length, deck), (edge, z + length, 0.28)]
    slab(canvas, flank, tint(colour, dim), haze)
    for hub in (0.18 * length, 0.8 * length) if z < DETAILED else ():
        wheel = [(edge, z + hub + a, h) for a, h in ((-0.3, 0.0), (-0.22, 0.6), (0.22, 0.6), (0.3, 0.0))]
        slab(canvas, wheel, (0.05, 0.05, 0.05), haze)
    slab(canvas, [(t - half, z, deck), (t + half, z, deck), (t + half, z + length, deck), (t - half, z + length, deck)],
         tint(colour, 1.15), haze)  # fmt: skip
    front = z + (0.05 if van else 0.15 + 0.8 * look[5])
    back, inner = z + length - 1.0, half - 0.18
    top = t + side * inner
    slab(canvas, [(edge, front, deck), (top, front + 0.3, roof), (top, back - 0.4, roof), (edge, back, deck)],
         tint(colour, dim) if van else tint(GLASS, 1.2), haze)  # fmt: skip
    if roof < canvas.world.eye:
        slab(canvas, [(t - inner, front + 0.3, roof), (t + inner, front + 0.3, roof), (t + inner, back, roof),
                      (t - inner, back, roof)], tint(colour, 1.1), haze)  # fmt: skip
    paint_near_face(canvas, thing, half, inner, deck, roof, front, haze)


def paint_near_face(canvas: Canvas, thing: Thing, half, inner, deck, roof, front, haze) -> None:
    """Rear or front of a car: cabin with its window, body, bumper, tyres, lights, plate."""
    look, t, z = thing.look, thing.t, thing.z
    slab(canvas, gable(t, half - 0.04, inner, front, deck, roof), tint(thing.colour, 0.9), haze)
    pane = gable(t, half - 0.16, inner - 0.1, front, deck + 0.06, roof - 0.09)
    slab(canvas, pane, tint(GLASS, 0.7 + 1.6 * look[6]), haze)
    patch, u, v = canvas.upright(t, z, half, deck)
    u = np.abs(u)
    body = (u < half) & (v < deck)
    patch.fill(body & (v > 0.25), tint(thing.colour, 0.95), CAR)
    if z > DETAILED:
        return
    patch.fill(body & (v > 0.22) & (v < 0.42), tint(thing.colour, 0.55), CAR)
    patch.fill(body & (u > half - 0.24) & (v >= 0) & (v < 0.35), (0.04, 0.04, 0.04), CAR)
    lit = canvas.world.weather["dusk"] > 0
    lamp, number = ((0.75, 0.75, 0.72), (0.85, 0.85, 0.8)) if look[7] > 0.55 else ((0.5, 0.06, 0.06), (0.8, 0.7, 0.2))
    patch.fill(body & (u > half - 0.3) & (v > deck - 0.3) & (v < deck - 0.08), tint(lamp, 1 + 0.8 * lit), CAR, glow=lit)
    patch.fill((u < 0.26) & (v > 0.45) & (v < 0.57), number, CAR)


def gable(t: float, half: float, inner: float, z: float, low: float, high: float) -> list[tuple[float, float, float]]:
    """Corners of a leaning trapezium: ``half`` wide at the bottom, ``inner`` at the top, which lies 0.3 m further."""
    return [(t - half, z, low), (t - inner, z + 0.3, high), (t + inner, z + 0.3, high), (t + half, z, low)]


def paint_side_car(canvas: Canvas, thing: Thing) -> None:
    """A car that crosses the road: its profile with windows and wheels."""
    look = thing.look
    canvas.shadow(thing.t, thing.z, 2.3, 0.9)
    patch, u, v = canvas.upright(thing.t, thing.z, 2.2, 1.6)
    u = u if look[0] < 0.5 else -u
    half, deck, roof = 1.9 + 0.25 * look[1], 0.86, 1.38 + 0.14 * look[2]
    body = (np.abs(u) < half - 0.25 * np.clip(v - 0.5, 0, 1)) & (v > 0.24) & (v < deck)
    slant = (roof - v) / (roof - deck)
    cabin = (v >= deck) & (v < roof) & (u > -half + 0.25 + 0.55 * (1 - slant)) & (u < 0.75 - 0.65 * (1 - slant))
    glass = cabin & (v < roof - 0.1) & (v > deck + 0.03) & (np.abs(u + 0.35) > 0.05)
    glass &= (u > -half + 0.45 + 0.55 * (1 - slant)) & (u < 0.6 - 0.65 * (1 - slant))
    patch.fill(body, tint(thing.colour, 0.8), CAR)
    patch.fill(body & (v > 0.62), tint(thing.colour, 1.0), CAR)
    patch.fill(cabin, tint(thing.colour, 0.95), CAR)
    patch.fill(glass, tint(GLASS, 0.7 + 1.5 * look[3]), CAR)
    for hub in (-0.65 * half, 0.65 * half):
        patch.fill(disc(u, v, hub, 0.33, 0.34, 0.34), (0.05, 0.05, 0.05), CAR)
        patch.fill(disc(u, v, hub, 0.33, 0.18, 0.18), (0.45, 0.46, 0.47), CAR)
