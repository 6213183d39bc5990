"""Procedural street scenes, the layout: what stands where, in metres; every random number of a layout is drawn here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
VOID = 255


@dataclass(frozen=True)
class Difficulty:
    """All that makes the set harder or easier. Changing a value changes the data set (and the golden label hash)."""

    noise: float = 0.02  # largest standard deviation of the sensor noise, of full scale
    blur: float = 0.3  # largest box blur radius, in hundredths of the image height
    motion: float = 0.6  # largest motion blur, in hundredths of the image height
    grey: float = 0.08  # chance that a facade or a pavement takes the colour of the road
    camouflage: float = 0.05  # chance that a thing takes a dull colour of its surroundings
    dark: float = 0.08  # chance of dusk
    flat: float = 0.2  # chance of an overcast, low-contrast sky
    haze: float = 600.0  # distance (m) at which half the light is haze; bad weather divides it by up to four
    white_balance: float = 0.07  # largest relative error of a colour channel
    exposure: float = 0.18  # largest relative error of the exposure
    sloppy: float = 0.25  # fraction of class boundaries left void
    bonnet: float = 0.2  # chance that the bonnet of the recording car is in view
    near: float = 0.45  # factor on the distances of people, riders, signs and lamps: how large rare things are


DIFFICULTY = Difficulty()

FACADES = [
    (0.55, 0.30, 0.24), (0.47, 0.26, 0.20), (0.72, 0.66, 0.52), (0.62, 0.60, 0.56), (0.80, 0.78, 0.74),
    (0.40, 0.40, 0.42), (0.66, 0.52, 0.38), (0.50, 0.46, 0.40), (0.34, 0.31, 0.30), (0.58, 0.62, 0.66),
]  # fmt: skip
PAINTS = [
    (0.75, 0.75, 0.76), (0.85, 0.85, 0.84), (0.10, 0.10, 0.12), (0.32, 0.33, 0.35), (0.55, 0.08, 0.08),
    (0.10, 0.18, 0.45), (0.15, 0.32, 0.22), (0.62, 0.58, 0.45), (0.20, 0.35, 0.60), (0.48, 0.50, 0.52),
]  # fmt: skip
LEAVES = [(0.20, 0.34, 0.11), (0.13, 0.26, 0.09), (0.30, 0.38, 0.12), (0.40, 0.34, 0.12), (0.22, 0.28, 0.12)]
BOARDS = [(0.45, 0.29, 0.14), (0.36, 0.22, 0.11), (0.16, 0.28, 0.24), (0.52, 0.36, 0.20)]
CLOTHES = [(0.12, 0.14, 0.30), (0.60, 0.12, 0.12), (0.10, 0.10, 0.12), (0.16, 0.30, 0.60), (0.62, 0.45, 0.40)]
VESTS = [(0.75, 0.85, 0.10), (0.85, 0.90, 0.20), (0.90, 0.45, 0.08), (0.65, 0.10, 0.15)]

# A street segment (one side, from a start in metres along the road): its kind and the columns of its row.
HOUSE, HEDGE, BARRIER, STREET, YARD = range(5)
COLUMNS = ("height", "red", "green", "blue", "window_pitch", "floor", "window_width", "window_height", "gable",
           "shop", "tone", "phase", "shade", "texture", "length")  # fmt: skip


class Draw:
    """Random numbers from ``Generator.random`` alone: the stream that numpy keeps stable across versions."""

    def __init__(self, *entropy: int):
        self.rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))

    def real(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, items):
        return items[int(self.rng.random() * len(items))]

    def many(self, low: float, high: float) -> int:
        """A whole number in [low, high]."""
        return int(self.real(low, high + 1))


@dataclass
class Thing:
    """An upright object ``t`` metres right of the road's middle, ``z`` metres ahead; ``look``: 12 numbers in [0, 1)."""

    kind: str
    t: float
    z: float
    look: list[float]
    colour: tuple[float, float, float]
    on_pavement: bool = True


@dataclass
class Railing:
    """A fence along the road, ``t`` metres right of its middle, from ``z0`` to ``z1``; styles: bars, rails, boards."""

    t: float
    z0: float
    z1: float
    height: float
    style: str
    colour: tuple[float, float, float]
    phase: float


@dataclass
class World:
    """One scene. Lengths in metres; image coordinates in image heights, x from the middle, y from the top."""

    horizon: float
    focal: float
    roll: float
    eye: float  # height of the camera over the road
    centre: tuple[float, float, float]  # the road's middle lies at x = c0 + c1 z + c2 z^2
    half_width: float
    pavement: tuple[float, float]  # widths left and right
    end: float  # where the street ends
    starts: np.ndarray  # (K,) starts of the segments, left then right (right ones + 10^4)
    kinds: np.ndarray  # (K,) HOUSE ... YARD; the last of each side closes the street
    rows: np.ndarray  # (K, len(COLUMNS)) float32
    weather: dict[str, float] = field(default_factory=dict)
    ground: dict[str, float] = field(default_factory=dict)
    things: list[Thing] = field(default_factory=list)
    railings: list[Railing] = field(default_factory=list)

    def middle(self, z):
        """x (m) of the road's middle at ``z`` metres ahead."""
        c0, c1, c2 = self.centre
        return c0 + (c1 + c2 * z) * z


def make_world(seed: int, index: int) -> World:
    """The scene of (seed, index): a pure function, the same whatever the size it is drawn at."""
    draw = Draw(seed, index)
    style = draw.pick(["urban", "urban", "suburb", "suburb", "open"])
    half = draw.real(3.0, 5.6)
    pavement = (draw.real(2.4, 5.6), draw.real(2.4, 5.6))
    end = draw.real(50.0, 140.0)
    lane = draw.real(-0.75, 0.35) * half * draw.pick([-1, 1])
    centre = (lane, draw.real(-0.09, 0.09), draw.pick([0, 1]) * draw.real(-0.002, 0.002))
    weather, ground = make_weather(draw), make_ground(draw)
    sides = [make_side(draw, style, end, ground["grey"]) for _ in range(2)]
    starts = np.concatenate([sides[0][0], sides[1][0] + 1e4])
    kinds = np.concatenate([sides[0][1], sides[1][1]])
    rows = np.concatenate([sides[0][2], sides[1][2]]).astype(np.float32)
    horizon, focal = draw.real(0.38, 0.53), draw.real(0.95, 1.35)
    world = World(horizon, focal, draw.real(-0.035, 0.035), draw.real(1.35, 1.95), centre, half, pavement, end,
                  starts, kinds, rows, weather, ground)  # fmt: skip
    populate(draw, world, style)
    return world


def make_weather(draw: Draw) -> dict[str, float]:
    """Light: colour and strength of sky and sun, clouds, haze, and the faults of the camera."""
    dusk, flat = draw.chance(DIFFICULTY.dark), draw.chance(DIFFICULTY.flat)
    warm = draw.real(-1.0, 1.0) * DIFFICULTY.white_balance
    bad = draw.real(1.0, 4.0) if flat or dusk else draw.real(0.6, 1.3)
    return {
        "dusk": float(dusk), "sun": 0.0 if flat else draw.real(0.2, 0.45) if dusk else draw.real(0.3, 1.0),
        "sun_side": draw.pick([-1.0, 1.0]), "sun_reach": draw.real(0.2, 1.2), "light": draw.real(0.4, 0.65) if dusk else
        draw.real(0.9, 1.25), "blue": 0.1 if flat else draw.real(0.2, 1.0), "clouds": draw.real(0.0, 1.0),
        "cloud_u": draw.real(0, 256), "cloud_v": draw.real(0, 256), "glare": draw.real(0.75, 1.25),
        "haze": DIFFICULTY.haze / bad, "red": 1 + warm + (0.12 if dusk else 0),
        "green": 1 + 0.4 * draw.real(-1, 1) * DIFFICULTY.white_balance, "blue_gain": 1 - warm,
        "contrast": draw.real(0.5, 0.8) if flat else draw.real(0.8, 1.15),
        "noise": draw.real(0.1, 1) * DIFFICULTY.noise,
        "exposure": 1 + draw.real(-1, 1) * DIFFICULTY.exposure, "blur": draw.real(0, 1) ** 2 * DIFFICULTY.blur,
        "motion": draw.pick([0, 0, 1]) * draw.real(0, 1) * DIFFICULTY.motion, "vignette": draw.real(0, 0.35),
        "skyline": draw.real(0.0, 0.07), "skyline_kind": draw.pick([BUILDING, TREE, TREE]),
        "bonnet": draw.real(0.05, 0.13) if draw.chance(DIFFICULTY.bonnet) else 0.0, "bonnet_grey": draw.real(0.05, 0.6),
        "sloppy": draw.real(0, 2) * DIFFICULTY.sloppy,
    }  # fmt: skip


def make_ground(draw: Draw) -> dict[str, float]:
    """Road and pavement: colours, marks, crossing, cycle lane, wear."""
    grey = draw.real(0.24, 0.46)
    paving = grey * draw.real(0.9, 1.2) if draw.chance(DIFFICULTY.grey) else draw.real(0.42, 0.66)
    return {
        "grey": grey, "warm": draw.real(-0.03, 0.04), "paving": paving, "paving_warm": draw.real(0.0, 0.12),
        "tiles": draw.real(0.4, 1.2), "kerb": draw.real(0.9, 1.35), "dash": draw.pick([0.0, 4.0, 6.0, 9.0]),
        "edge": draw.pick([0.0, 0.0, 0.2, 0.5]), "yellow": draw.real(0, 1), "mark": draw.real(0.45, 0.9),
        "zebra": draw.real(7.0, 30.0) if draw.chance(0.25) else -1.0, "cycle": draw.pick([0, 0, 0, 0, 1, -1]),
        "patches": draw.real(0.0, 0.35), "wear": draw.real(0.0, 0.25), "u": draw.real(0, 256), "v": draw.real(0, 256),
    }  # fmt: skip


def make_side(draw: Draw, style: str, end: float, grey: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The building line of one side: starts (K,), kinds (K,), rows (K, columns); never two openings in a row."""
    odds = {"urban": (0.80, 0.86, 0.90), "suburb": (0.60, 0.77, 0.85), "open": (0.36, 0.70, 0.83)}[style]
    storeys = {"urban": (2, 6), "suburb": (2, 4), "open": (1, 4)}[style]
    starts, kinds, rows, z = [], [], [], -20.0
    while z < end:
        roll = draw.rng.random()
        kind = HOUSE if roll < odds[0] else HEDGE if roll < odds[1] else BARRIER if roll < odds[2] else STREET
        if kind == STREET:
            kind = HOUSE if kinds and kinds[-1] >= STREET else draw.pick([STREET, STREET, YARD])
        starts.append(z)
        kinds.append(kind)
        rows.append(make_segment(draw, kind, storeys, grey))
        length = draw.real(4.0, 10.0) if kind >= STREET else draw.real(6.0, 22.0)
        rows[-1].append(length)
        z += length
    starts.append(end)
    kinds.append(draw.pick([HOUSE, HOUSE, HEDGE]))
    rows.append([*make_segment(draw, kinds[-1], storeys, grey), 99.0])
    return np.array(starts), np.array(kinds), np.array(rows)


def make_segment(draw: Draw, kind: int, storeys: tuple[int, int], grey: float) -> list[float]:
    """One row of COLUMNS, all but the length, for a segment of this kind."""
    bright = draw.real(0.8, 1.15)
    colour = [c * bright * draw.real(0.94, 1.06) for c in draw.pick(FACADES)]
    if draw.chance(DIFFICULTY.grey):
        colour = [grey * draw.real(0.9, 1.3)] * 3
    floor = draw.real(2.7, 3.6)
    height = floor * draw.many(*storeys) + draw.real(0.5, 1.5)
    if kind == HEDGE:
        colour, height = [c * draw.real(0.8, 1.2) for c in draw.pick(LEAVES)], draw.real(2.5, 9.0)
    if kind == BARRIER:
        colour = list(draw.pick(LEAVES if draw.chance(DIFFICULTY.camouflage) else BOARDS))
        height = draw.real(1.4, 2.6)
    if kind >= STREET:
        height = 0.0
    gable = draw.real(0.8, 2.8) if kind == HOUSE and height < 10 and draw.chance(0.5) else 0.0
    return [height, *colour, draw.real(1.4, 4.5), floor, draw.real(0.12, 0.40), draw.real(0.18, 0.36), gable,
            float(draw.chance(0.22)), draw.real(0, 1), draw.real(0, 200), draw.real(0, 1), draw.real(0, 1)]  # fmt: skip


def populate(draw: Draw, world: World, style: str) -> None:
    """Put things and railings into the world; far ones first, pavement before road (nearer to every ray's end)."""
    add_street_furniture(draw, world, style)
    add_traffic(draw, world)
    add_people(draw, world)
    add_railings(draw, world)
    world.things.sort(key=lambda thing: (not thing.on_pavement, -thing.z))


def place(draw: Draw, world: World, kind: str, t: float, z: float, palette=PAINTS, on_pavement: bool = True) -> None:
    """Add one thing; some take a dull colour of the street instead of their own."""
    colour = tuple(c * draw.real(0.75, 1.2) for c in draw.pick(palette))
    if draw.chance(DIFFICULTY.camouflage) and kind not in ("tree", "bush"):
        colour = tuple(world.ground["grey"] * draw.real(0.6, 1.1) for _ in range(3))
    world.things.append(Thing(kind, t, z, draw.rng.random(12).tolist(), colour, on_pavement))


def verge(draw: Draw, world: World, near: float = 0.2, far: float = 0.9) -> float:
    """A place across the pavement of a random side, at a fraction [near, far] of its width from the kerb."""
    side = draw.pick([0, 1])
    return (2 * side - 1) * (world.half_width + draw.real(near, far) * world.pavement[side])


def add_street_furniture(draw: Draw, world: World, style: str) -> None:
    """Trees, bushes, lamps, signs, traffic lights and things of no class."""
    trees = {"urban": draw.many(1, 4), "suburb": draw.many(2, 6), "open": draw.many(2, 6)}[style]
    for _ in range(trees):
        place(draw, world, "tree", verge(draw, world, 0.3, 1.6), draw.real(9.0, 55.0), LEAVES)
    for _ in range(draw.many(-1, 2)):
        place(draw, world, "bush", verge(draw, world, 0.7, 1.2), draw.real(8.0, 40.0), LEAVES)
    for _ in range(draw.many(1, 5)):
        place(draw, world, "lamp", verge(draw, world, 0.1, 0.3), draw.real(8.0, 40.0) * DIFFICULTY.near, FACADES)
    for _ in range(draw.many(1, 5)):
        kind = draw.pick(["sign", "sign", "lights"])
        place(draw, world, kind, verge(draw, world, 0.1, 0.35), draw.real(8.0, 17.0) * DIFFICULTY.near)
    for _ in range(draw.many(-2, 2)):
        place(draw, world, "clutter", verge(draw, world), draw.real(6.0, 25.0))


def add_traffic(draw: Draw, world: World) -> None:
    """Parked rows along the kerb, cars in the lanes, a car or van across at times."""
    for side in (-1, 1):
        z = draw.real(6.0, 20.0)
        while draw.chance(0.85) and z < world.end - 10:
            place(draw, world, "car", side * (world.half_width - draw.real(0.9, 1.2)), z, on_pavement=False)
            z += draw.real(5.5, 12.0)
    for _ in range(draw.many(1, 4)):
        lane = draw.real(0.3, 0.55) * world.half_width * draw.pick([-1, 1])
        place(draw, world, "car", lane, draw.real(8.0, 45.0) if draw.chance(0.8) else draw.real(6.0, 10.0),
              on_pavement=False)  # fmt: skip
    if draw.chance(0.18):
        place(draw, world, "side_car", draw.real(-5, 5), draw.real(9.0, 28.0), on_pavement=False)


def add_people(draw: Draw, world: World) -> None:
    """Pedestrians on the pavement, some on the road; bicyclists on the road, some beside it."""
    for _ in range(draw.pick([0, 1, 2, 2, 3, 5])):
        on_pavement = draw.chance(0.7)
        t = verge(draw, world) if on_pavement else draw.real(-0.9, 0.9) * world.half_width
        place(draw, world, "person", t, draw.real(7.5, 21.0) * DIFFICULTY.near, CLOTHES, on_pavement)
    for _ in range(draw.pick([0, 1, 1, 2])):
        side = draw.pick([-1, 1])
        t = side * world.half_width * draw.real(0.3, 1.15)
        place(draw, world, "rider", t, draw.real(7.5, 16.0) * DIFFICULTY.near, VESTS, False)


def add_railings(draw: Draw, world: World) -> None:
    """Fences along the pavement: at the kerb or at its far edge."""
    for side in (0, 1):
        if not draw.chance(0.8):
            continue
        at_kerb = draw.chance(0.4)
        t = world.half_width + (0.25 if at_kerb else world.pavement[side] - 0.05)
        z0 = draw.real(4.0, 20.0)
        colour = draw.pick(LEAVES if draw.chance(DIFFICULTY.camouflage) else BOARDS)
        world.railings.append(
            Railing((2 * side - 1) * t, z0, z0 + draw.real(10.0, 30.0), draw.real(1.1, 1.8),
                    draw.pick(["bars", "rails", "boards"]), colour, draw.real(0, 3))
        )  # fmt: skip
