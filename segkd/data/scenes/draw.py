"""Procedural street scenes, the canvas: rolled image coordinates, patches, polygons, value noise. No random state."""

from __future__ import annotations

from functools import cache

import numpy as np

from segkd.data.scenes.layout import PAVEMENT, ROAD, World

ASPECT = 4 / 3  # of the layout; other image shapes show it stretched


@cache
def noise_table(size: int = 256) -> np.ndarray:
    """Periodic value noise (size, size) float32 in [0, 1], five octaves, uniform histogram; always the same table."""
    rng = np.random.Generator(np.random.PCG64(2024))
    total = np.zeros((size, size))
    for cells, weight in ((8, 0.34), (16, 0.26), (32, 0.18), (64, 0.13), (128, 0.09)):
        lattice = rng.random((cells, cells))
        place = np.arange(size) * (cells / size)
        low = place.astype(int)
        blend = place - low
        blend = blend * blend * (3 - 2 * blend)
        rows = lattice[low] * (1 - blend)[:, None] + lattice[(low + 1) % cells] * blend[:, None]
        total += weight * (rows[:, low] * (1 - blend) + rows[:, (low + 1) % cells] * blend)
    ranks = np.empty(size * size, dtype=np.float32)
    ranks[np.argsort(total, axis=None, kind="stable")] = np.arange(size * size) / (size * size)
    return ranks.reshape(size, size)


def noise(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The noise table at texel coordinates (u, v), any shape, wrapped."""
    return noise_table().ravel().take((v.astype(np.int32) & 255) * 256 + (u.astype(np.int32) & 255))


class Patch:
    """A window of the canvas: coordinates (x, y), views on colour and label, and how much haze lies before it."""

    def __init__(self, canvas: Canvas, window: tuple[slice, slice], haze: float):
        self.x, self.y = canvas.x[window], canvas.y[window]
        self.rows, self.columns = canvas.rows[window[0]], canvas.columns[window[1]]
        self.colour, self.label = canvas.colour[window], canvas.label[window]
        self.haze, self.haze_colour, self.light = haze, canvas.haze_colour, canvas.light

    def fill(self, mask: np.ndarray, rgb, label: int, glow: bool = False) -> None:
        """Paint where ``mask``: ``rgb`` is a reflectance (3,) or (h, w, 3); with ``glow`` it shines by itself."""
        rgb = np.asarray(rgb, dtype=np.float32) * (1.0 if glow else self.light)
        rgb = rgb + (self.haze_colour - rgb) * self.haze
        self.colour[mask] = rgb[mask] if rgb.ndim == 3 else rgb
        self.label[mask] = label


class Canvas:
    """What is drawn on: ``colour`` (h, w, 3) float32, ``label`` (h, w) uint8, coordinates ``x`` and ``y`` (h, w)."""

    def __init__(self, world: World, height: int, width: int, pixel: float):
        self.rows = (np.arange(height, dtype=np.float32) + 0.5) / height
        self.columns = ((np.arange(width, dtype=np.float32) + 0.5) / width - 0.5) * ASPECT
        x, y = self.columns[None, :], self.rows[:, None]
        self.world, self.height, self.width, self.pixel = world, height, width, pixel
        self.x = np.ascontiguousarray(x + world.roll * (y - 0.5))  # a small turn, to first order
        self.y = np.ascontiguousarray(y - world.roll * x)
        self.colour = np.zeros((height, width, 3), dtype=np.float32)
        self.label = np.zeros((height, width), dtype=np.uint8)
        weather = world.weather
        balance = np.array([weather["red"], weather["green"], weather["blue_gain"]], dtype=np.float32)
        self.light = balance * weather["light"]
        self.haze_colour = self.light * np.array([0.80, 0.83, 0.86], dtype=np.float32)

    def haze(self, z):
        """Fraction of haze in the light from ``z`` metres away."""
        return z / (z + self.world.weather["haze"])

    def project(self, t: float, z: float, h: float) -> tuple[float, float]:
        """Image point of a place ``t`` m right of the road's middle, ``z`` m ahead, ``h`` m over the ground."""
        world = self.world
        scale = world.focal / z
        return scale * (world.middle(z) + t), world.horizon + scale * (world.eye - h)

    def patch(self, left: float, top: float, right: float, bottom: float, haze: float = 0.0) -> Patch:
        """The window that covers a box of image coordinates, with room for the roll; of no pixels when out of view."""
        slack = abs(self.world.roll)
        i0 = max(0, int((top - slack * ASPECT / 2) * self.height))
        i1 = min(self.height, int((bottom + slack * ASPECT / 2) * self.height) + 1)
        j0 = max(0, int(((left - slack / 2) / ASPECT + 0.5) * self.width))
        j1 = min(self.width, int(((right + slack / 2) / ASPECT + 0.5) * self.width) + 1)
        return Patch(self, (slice(i0, max(i0, i1)), slice(j0, max(j0, j1))), haze)

    def upright(self, t: float, z: float, reach: float, height: float):
        """Patch and metric coordinates (u right of the foot, v over the ground) of a thing."""
        x, y = self.project(t, z, 0.0)
        scale = self.world.focal / z
        patch = self.patch(x - reach * scale, y - height * scale, x + reach * scale, y, self.haze(z))
        return patch, (patch.x - x) / scale, (y - patch.y) / scale

    def polygon(self, points: list[tuple[float, float]], rgb, label: int, haze: float = 0.0) -> None:
        """Fill a convex polygon of image points, given in either turn."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        patch = self.patch(min(xs), min(ys), max(xs), max(ys), haze)
        area = sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(points)))
        turn = 1.0 if area > 0 else -1.0
        roll, inside = self.world.roll, True
        for i in range(len(points)):  # one half-plane an edge; linear, so a sum of a part by row and a part by column
            ax, ay = turn * (xs[i] - xs[i - 1]), turn * (ys[i] - ys[i - 1])
            limit = ax * ys[i] - ay * xs[i] - ay * roll * 0.5
            inside = inside & ((ax - ay * roll) * patch.rows[:, None] >= limit + (ax * roll + ay) * patch.columns)
        patch.fill(inside, rgb, label)

    def shadow(self, t: float, z: float, reach: float, depth: float) -> None:
        """Darken the ground under and beside a thing, away from the sun; an ellipse on the ground."""
        weather = self.world.weather
        x, y = self.project(t - weather["sun_side"] * weather["sun"] * reach * 0.8, z, 0.0)
        rx, ry = reach * self.world.focal / z, max(depth * self.world.focal * self.world.eye / (z * z), self.pixel)
        patch = self.patch(x - rx, y - ry, x + rx, y + ry)
        inside = ((patch.x - x) / rx) ** 2 + ((patch.y - y) / ry) ** 2 < 1
        inside &= (patch.label == ROAD) | (patch.label == PAVEMENT)
        patch.colour[inside] *= 1 - 0.25 - 0.35 * weather["sun"]
