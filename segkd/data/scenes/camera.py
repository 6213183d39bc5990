"""Procedural street scenes, the camera: downsampling, bonnet, blur, exposure, white balance, noise, sloppy labels."""

from __future__ import annotations

import numpy as np

from segkd.data.scenes.draw import Canvas, noise
from segkd.data.scenes.layout import BUILDING, CAR, FENCE, PAVEMENT, ROAD, SKY, TREE, VOID

COARSE = np.zeros(256, dtype=bool)
COARSE[[SKY, BUILDING, ROAD, PAVEMENT, TREE, FENCE, CAR]] = True


def paint_bonnet(canvas: Canvas) -> None:
    """The bonnet of the recording car, void, along the lower edge."""
    weather = canvas.world.weather
    if not weather["bonnet"]:
        return
    mask = canvas.y > 1.0 - weather["bonnet"] * (1 - (canvas.x / 0.75) ** 2)
    shine = weather["bonnet_grey"] * (0.7 + 3.0 * (canvas.y[mask] - 0.88)).clip(0.3, 1.4)
    canvas.colour[mask] = shine[:, None] * canvas.light
    canvas.label[mask] = VOID


def expose(canvas: Canvas, factor: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Colour and label of the canvas, ``factor`` times wider than the picture, to image and label, both uint8."""
    weather = canvas.world.weather
    colour, label = canvas.colour, canvas.label[:, factor // 2 :: factor]
    if factor > 1:
        colour = sum(colour[:, j::factor] for j in range(factor)) / factor
    height = colour.shape[0]
    colour = blur(blur(colour, 1, weather["blur"] * height / 100), 0, weather["blur"] * height / 100)
    colour = blur(colour, 1, weather["motion"] * height / 100)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, label.shape[1], dtype=np.float32)
    gain = weather["exposure"] * (1 - 0.5 * weather["vignette"] * (x * x + y * y))
    colour = 0.45 + (colour * gain[..., None] - 0.45) * weather["contrast"]
    grain = rng.standard_normal(colour.shape, dtype=np.float32)
    colour = colour + grain * (weather["noise"] * (0.5 + 0.5 * colour.clip(0, 1)))
    return (colour.clip(0, 1) * 255 + 0.5).astype(np.uint8), sloppy(label, weather)


def blur(colour: np.ndarray, axis: int, radius: float) -> np.ndarray:
    """Box blur along one axis with a real-valued radius in pixels; edges repeat."""
    if radius < 0.1:
        return colour
    whole = int(radius)
    reach = whole + 1
    pad = [(0, 0)] * 3
    pad[axis] = (reach, reach)
    padded, size = np.pad(colour, pad, mode="edge"), colour.shape[axis]
    total = np.zeros_like(colour)
    for shift in range(2 * reach + 1):
        weight = 1.0 if abs(shift - reach) <= whole else radius - whole
        total += weight * (padded[shift : shift + size] if axis == 0 else padded[:, shift : shift + size])
    return total / (1 + 2 * radius)


def sloppy(label: np.ndarray, weather: dict[str, float]) -> np.ndarray:
    """The label with stretches of the boundaries between large classes set to void, as hand-drawn labels have them."""
    label = np.ascontiguousarray(label)
    edge = np.zeros(label.shape, dtype=bool)
    edge[:, 1:] |= (label[:, 1:] != label[:, :-1]) & COARSE[label[:, :-1]]
    edge[1:] |= (label[1:] != label[:-1]) & COARSE[label[:-1]]
    height, width = label.shape
    v, u = (np.arange(height) + 0.5) * (90 / height), (np.arange(width) + 0.5) * (120 / width)
    careless = noise(u[None, :] + 37 + 0 * v[:, None], v[:, None] + weather["cloud_u"] + 0 * u) < weather["sloppy"]
    label[edge & careless & COARSE[label]] = VOID
    return label
