"""Procedural street scenes, the stage: sky, skyline, road, pavement and building lines, by casting one ray a pixel."""

from __future__ import annotations

import numpy as np

from segkd.data.scenes.draw import Canvas, noise
from segkd.data.scenes.layout import (
    BARRIER, BUILDING, COLUMNS, FENCE, HEDGE, PAVEMENT, ROAD, SIGN, SKY, STREET, TREE, VOID, World,
)  # fmt: skip

FAR = 9e3  # "never hits": below the offset 10^4 of the right side's segments
COLUMN = {name: i for i, name in enumerate(COLUMNS)}


def wall_distance(world: World, slope: np.ndarray, t: float) -> np.ndarray:
    """Distance z (m) at which rays x = slope * z meet the line ``t`` m beside the road's middle; FAR if they do not."""
    c0, c1, c2 = world.centre
    offset, side = c0 + t, 1.0 if t > 0 else -1.0
    q = slope - c1
    root = np.sqrt(np.maximum(q * q - 4 * c2 * offset, 0))
    divisor = q + side * root
    z = 2 * offset / np.where(divisor * side > 1e-6, divisor, 1e-9 * side)
    return np.where((q * q >= 4 * c2 * offset) & (divisor * side > 1e-6), np.minimum(z, FAR), FAR)


def cast(canvas: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel: distance of the building line (m), its segment, and whether it is the right one."""
    world = canvas.world
    slope = canvas.x / world.focal
    reach = world.half_width + world.pavement[0], world.half_width + world.pavement[1]
    left, right = wall_distance(world, slope, -reach[0]), wall_distance(world, slope, reach[1])
    is_right = right < left
    z = np.where(is_right, right, left).astype(np.float32)
    segment = np.searchsorted(world.starts, z + 1e4 * is_right, side="right") - 1
    segment = np.maximum(segment, 0)
    opening = world.kinds[segment] >= STREET
    following = np.minimum(segment + 1, len(world.kinds) - 1)
    begin = (world.starts - 1e4 * (world.starts > 5e3)).astype(np.float32)
    z = np.where(opening, begin[following], np.minimum(z, world.end)).astype(np.float32)
    return z, np.where(opening, following, segment), is_right


def paint_stage(canvas: Canvas) -> None:
    """Sky and skyline everywhere, then the ground, then the building lines."""
    world = canvas.world
    paint_sky(canvas)
    distance, segment, is_right = cast(canvas)
    drop = canvas.y - world.horizon
    ground_z = world.focal * world.eye / np.maximum(drop, 1e-4)
    on_ground = ground_z < distance
    paint_ground(canvas, on_ground, ground_z[on_ground])
    wall = np.flatnonzero(~on_ground)
    paint_walls(canvas, wall, distance.ravel()[wall], segment.ravel()[wall], is_right.ravel()[wall])


def paint_sky(canvas: Canvas) -> None:
    """A gradient with clouds, bright to overexposed, and a hazy skyline of buildings or trees over the horizon."""
    world, weather = canvas.world, canvas.world.weather
    patch = canvas.patch(-1, 0, 1, world.horizon + 0.01)
    x, y = patch.x, patch.y
    up = np.maximum(world.horizon - y, 0) / world.horizon
    cloud = noise(weather["cloud_u"] + x * 70, weather["cloud_v"] + y * 150)
    cloud = np.clip((cloud - 1 + weather["clouds"]) * 3, 0, 1)
    blue = weather["blue"] * (0.25 + 0.75 * up) * (1 - cloud)
    bright = weather["glare"] * (1.05 - 0.25 * weather["dusk"]) * (1 - 0.18 * cloud * up)
    sky = np.stack([bright * (1 - 0.55 * blue), bright * (1 - 0.30 * blue), bright * (1 - 0.05 * blue)], axis=-1)
    patch.fill(np.ones(x.shape, dtype=bool), sky, SKY)
    step = 40 if weather["skyline_kind"] == BUILDING else 110
    top = noise(np.floor(x[0] * step) * (1 if step == 110 else 7), x[0] * 0 + weather["cloud_u"])
    line = y > world.horizon - weather["skyline"] * (0.4 + top)
    tint = (0.22, 0.27, 0.17) if weather["skyline_kind"] == TREE else (0.42, 0.38, 0.36)
    haze = canvas.haze(150.0)
    rgb = np.array(tint, np.float32) * canvas.light * (1 - haze) + canvas.haze_colour * haze
    patch.colour[line] = rgb * (0.7 + 0.6 * noise(x[line] * 300, y[line] * 500))[:, None]
    patch.label[line] = weather["skyline_kind"]


def paint_ground(canvas: Canvas, mask: np.ndarray, z: np.ndarray) -> None:
    """Road, pavement and what lies in the openings, with marks, wear and the shadows of the building lines."""
    world, ground, weather = canvas.world, canvas.world.ground, canvas.world.weather
    t = canvas.x[mask] * z / world.focal - world.middle(z)
    is_right = t > 0
    reach = np.where(is_right, world.half_width + world.pavement[1], world.half_width + world.pavement[0])
    kind = world.kinds[np.searchsorted(world.starts, z + 1e4 * is_right, side="right") - 1]
    street = kind == STREET
    beside = np.abs(t) - world.half_width
    road = (beside < 0) | street
    label = np.where(road, ROAD, PAVEMENT).astype(np.uint8)
    label[(np.abs(t) > reach + 0.1) & ~street] = VOID  # yards: the set has no word for them
    grain = noise(ground["u"] + t * 23, ground["v"] + z * 11)
    broad = noise(ground["v"] + t * 5, ground["u"] + z * 1.7)
    grey = road_grey(ground, t, z, broad, beside, canvas.pixel * z / world.focal)
    paving = ground["paving"] * (0.9 + 0.2 * broad)
    joints = np.minimum(t / ground["tiles"] % 1, z / ground["tiles"] % 1) < 0.06
    paving = np.where(joints & (z < 20), paving * 0.85, paving)
    paving = np.where(beside < 0.22, ground["grey"] * ground["kerb"], paving)
    grey = np.where(road, grey, paving) * (0.88 + 0.24 * grain)
    grey = np.where(label == VOID, 0.25 + 0.2 * broad, grey)
    grey *= wall_shadow(world, t, z)
    warm = np.where(road, ground["warm"], ground["paving_warm"])
    rgb = np.stack([grey * (1 + warm), grey, grey * (1 - 1.3 * warm)], axis=-1)
    if ground["cycle"]:
        lane = (beside * ground["cycle"] < 0) & (beside < -0.3) & (beside > -1.6) & (t * ground["cycle"] > 0)
        rgb[lane] *= np.array([1.35, 0.75, 0.70] if ground["yellow"] > 0.5 else [0.75, 1.1, 0.75])
    rgb *= canvas.light * (0.85 + 0.25 * weather["sun"])
    haze = canvas.haze(z)[:, None]
    canvas.colour[mask] = rgb * (1 - haze) + canvas.haze_colour * haze
    canvas.label[mask] = label


def road_grey(ground: dict, t, z, broad, beside, footprint) -> np.ndarray:
    """Grey of the road surface: wear, patches, lane marks; ``footprint`` the width (m) of a pixel."""
    grey = ground["grey"] * (1 - ground["wear"] * broad)
    patch = noise(ground["u"] + np.floor(t / 2.3) * 37, ground["v"] + np.floor(z / 5.1) * 53) < ground["patches"]
    grey = np.where(patch, grey * 0.82, grey)
    thick = np.maximum(0.07, 0.5 * footprint)
    mark = np.zeros(t.shape, dtype=bool)
    if ground["dash"]:
        mark |= (np.abs(t) < thick) & (z % ground["dash"] < 0.5 * ground["dash"])
    if ground["edge"]:
        mark |= np.abs(beside + ground["edge"]) < 0.7 * thick
    if ground["zebra"] > 0:
        ahead = z - ground["zebra"]
        mark |= (ahead > 0) & (ahead < 3) & (t % 1.2 < 0.6)
        mark |= (ahead > -1.6) & (ahead < -1.2) & (t > 0)
    strength = np.minimum(1, 0.07 / thick + 0.25) * (0.6 + 0.4 * broad)
    return np.where(mark & (beside < 0), grey + (ground["mark"] - grey) * strength, grey)


def wall_shadow(world: World, t, z) -> np.ndarray:
    """Factor on the light of the ground: less where the building line of the sun's side keeps the sun away."""
    weather = world.weather
    side = weather["sun_side"]
    ahead = np.clip(z + 1.5, 0, world.end - 1e-3) + (1e4 if side > 0 else 0)
    height = world.rows[np.searchsorted(world.starts, ahead, side="right") - 1, COLUMN["height"]]
    reach = world.half_width + world.pavement[1 if side > 0 else 0]
    dark = t * side > reach - height * weather["sun_reach"]
    return np.where(dark, 1 - 0.55 * weather["sun"], 1.0)


def paint_walls(canvas: Canvas, where, z, segment, is_right) -> None:
    """Houses, hedges and garden fences of the building lines at flat pixel indices ``where``."""
    world = canvas.world
    over = world.eye - (canvas.y.ravel()[where] - world.horizon) * z / world.focal
    tallest = 1.2 * world.rows[:, COLUMN["height"]] + world.rows[:, COLUMN["gable"]]
    low = over < np.maximum(tallest, world.eye + 0.05)[segment]  # first the pixels that may see the wall at all
    where, z, segment, is_right, over = where[low], z[low], segment[low], is_right[low], over[low]
    wall = {name: np.ascontiguousarray(column).take(segment) for name, column in zip(COLUMNS, world.rows.T)}
    wall |= {"kind": world.kinds.take(segment), "where": where, "z": z, "over": over}
    begin = (world.starts % 1e4).astype(np.float32).take(segment)
    facing = (np.abs(z - begin) < 1e-2) | (z >= world.end - 1e-2)  # the end wall of an opening or of the street
    wall["along"] = np.where(facing, canvas.x.ravel()[where] * z / world.focal, z) + wall["phase"]
    ragged = np.where(wall["kind"] == HEDGE, 0.55 + 0.6 * noise(wall["along"] * 9, wall["phase"]), 1)
    slope = np.where(facing, 9.0, np.minimum(z - begin, wall["length"] - z + begin))  # metres from the gable
    top = wall["height"] * ragged + np.minimum(wall["gable"], slope)
    visible = over < np.maximum(top, world.eye + 0.05)  # nobody looks over a wall at the ground beyond
    sun_side = world.weather["sun_side"]
    wall["lit"] = np.where(facing, 0.6, np.where(is_right, 0.5 - 0.5 * sun_side, 0.5 + 0.5 * sun_side))
    wall = {name: column[visible] for name, column in wall.items()}
    rgb, label = facade(canvas, wall)
    light = 0.72 + 0.45 * world.weather["sun"] * (wall["lit"] - 0.3)
    rgb = rgb * (light.astype(np.float32)[:, None] * canvas.light)
    haze = canvas.haze(wall["z"])[:, None]
    canvas.colour.reshape(-1, 3)[wall["where"]] = rgb * (1 - haze) + canvas.haze_colour * haze
    canvas.label.reshape(-1)[wall["where"]] = label


def facade(canvas: Canvas, wall: dict) -> tuple[np.ndarray, np.ndarray]:
    """Reflectance (n, 3) and label (n,) of wall points: windows, shop fronts and their signs, roofs, leaves, boards."""
    kind, along, over = wall["kind"], wall["along"], wall["over"]
    house = (kind != HEDGE) & (kind != BARRIER)
    fine, broad = noise(along * 19, over * 31 + wall["phase"]), noise(wall["phase"] + along * 3, over * 5)
    contrast = np.where(kind == HEDGE, 0.9, 0.12 + 0.3 * wall["texture"])
    shade = 1 + contrast * (0.6 * fine + 0.4 * broad - 0.5)
    course = (over / 0.3 % 1 < 0.25) & house & (wall["texture"] > 0.6) & (wall["z"] < 25)
    slats = (kind == BARRIER) & (along / 0.25 % 1 < 0.35)
    shade = np.where(course | slats, shade * 0.75, shade).astype(np.float32)[:, None]
    rgb = np.stack([wall["red"], wall["green"], wall["blue"]], axis=-1) * shade
    rgb = glaze(canvas, wall, house, broad, rgb)
    roof = house & (over > wall["height"] - 0.15)
    red = wall["shade"][roof]
    rgb[roof] = np.stack([0.20 + 0.25 * red, 0.20 + 0.05 * red, 0.21 + 0 * red], axis=-1) * shade[roof]
    board = (wall["shop"] > 0) & house & (over > 0.80 * wall["floor"]) & (over < 0.80 * wall["floor"] + 0.55)
    board &= along / 9.0 % 1 < 0.22
    tone = wall["tone"][board]
    paint = np.stack([0.2 + 0.7 * tone, 0.25 + 0.5 * (tone * 7 % 1), 0.2 + 0.6 * (tone * 13 % 1)], axis=-1)
    rgb[board] = paint * np.where(fine[board] > 0.7, 1.6, 1.0)[:, None]
    label = np.where(kind == HEDGE, TREE, np.where(kind == BARRIER, FENCE, BUILDING))
    return rgb, np.where(board, SIGN, label).astype(np.uint8)


def glaze(canvas: Canvas, wall: dict, house, broad, rgb) -> np.ndarray:
    """Put windows and shop fronts into the walls ``rgb`` (n, 3): dark, mirroring the sky, or lit at dusk."""
    along, over, floor = wall["along"], wall["over"], wall["floor"]
    column, storey = along / wall["window_pitch"], over / floor
    pane = (np.abs(column % 1 - 0.5) < wall["window_width"]) & (np.abs(storey % 1 - 0.55) < wall["window_height"])
    front = (over > 0.4) & (over < 0.78 * floor) & (along / 3.1 % 1 > 0.12)
    pane = np.where((wall["shop"] > 0) & (over < floor), front, pane) & house & (over < wall["height"] - 0.5)
    glass = np.where(wall["tone"] < 0.6, 0.12 + 0.25 * broad, 0.45 + 0.4 * over / (wall["height"] + 1))
    if canvas.world.weather["dusk"]:
        glass = np.where(noise(np.floor(column) * 31, np.floor(storey) * 57) < 0.5 * wall["shade"], 1.5, glass)
    seen = np.clip(1.4 - wall["z"] / 70, 0.15, 1)  # windows of far houses melt into the wall
    mix = (pane * seen).astype(np.float32)[:, None]
    return rgb + (glass[:, None] * np.array([0.95, 1.0, 1.05], np.float32) - rgb) * mix
