"""Menus of a notebook: choose an image and two finished runs, and see what their networks make of it."""

from __future__ import annotations

import base64
import io
import time
from functools import lru_cache
from html import escape

import numpy as np
import torch

from segkd.analysis.side_by_side import Look, look, side_by_side_figure, stage_layercam
from segkd.config import RunConfig
from segkd.data.augment import to_batch
from segkd.registry import UserError
from segkd.runs import Run, find
from segkd.study.lab.views import loaded, target_class
from segkd.study.numbers.study import Study
from segkd.train.evaluate import feed

Key = tuple[str, str, int]  # network, row, seed
NETWORKS, LOOKS = 8, 32  # how many are kept: looks at large images are some megabytes each


def explore(study: Study, image: int = 0, rows: tuple[str, str] = ("baseline", "CWD")):
    """The menus for a study's finished runs, starting with ``image`` and ``rows`` (or with the rows that there are).

    In JupyterLab the value of a cell shows them; a page made from the notebook shows the picture of the first choice.
    Without finished runs: a sentence that says which command trains them. UserError: ``image`` is not in the split.
    """
    runs = choices(study)
    if not runs:
        return _sentence(f"No finished run to explore yet. {how_to_train(study)}")
    return Explorer(study, runs, image, rows)


def choices(study: Study) -> dict[Key, Run]:
    """Every finished run behind the study's tables, once, by network, row and seed."""
    found: dict[Key, Run] = {}
    for table in study.all_tables:
        for row in study.rows(table):
            for run in study.runs(table, row.label):
                key = _network(run.config), row.label, run.config.seed
                if run.id not in {r.id for r in found.values()}:
                    found[key if key not in found else (key[0], f"{row.label} ({table})", key[2])] = run
    return found


def _network(config: RunConfig) -> str:
    network = config.network
    return network.label + (", sees labels" if network.extra_channels else "")


def _sentence(text: str):
    from IPython.display import Markdown

    return Markdown(text)


def missing_runs(study: Study):
    """How many runs of the study are there, and the command that trains the others."""
    wanted = study.configs()
    count = sum(find(config).done for config in wanted)
    text = f"{count} of {len(wanted)} runs are there."
    return _sentence(text if count == len(wanted) else f"{text} {how_to_train(study)}")


def how_to_train(study: Study) -> str:
    """A sentence with the command that trains a study."""
    profile = study.profile
    choice = "" if study.dataset == "scenes" else f" DATASET={study.dataset}"
    methods = f" METHODS={','.join(study.methods)}" if study.methods else ""
    return (
        f"`make reproduce PROFILE={profile.name}{choice}{methods}` trains the others and keeps them (a whole study at "
        f"this profile needs {profile.needs}); `study.run()` in a cell does the same here."
    )


class RunMenus:
    """The three menus of one run: network, row (method) and seed; each offers what is left by those before it."""

    def __init__(self, letter: str, keys: list[Key], start: str):
        from ipywidgets import Dropdown, HBox, Layout

        self.keys = keys

        def menu(name: str, own: int, entries: int) -> Dropdown:
            layout = Layout(width=f"{own + entries}px", max_width="97%")  # a phone is narrower
            return Dropdown(description=name, layout=layout, style={"description_width": f"{own}px"})

        self.network, self.row, self.seed = menu(f"{letter}: network", 75, 215), menu("method", 55, 235), menu("seed", 40, 60)
        self.box = HBox([self.network, self.row, self.seed], layout=Layout(flex_flow="row wrap"))
        first = next((key for key in keys if key[1] == start), keys[0])
        self.network.options, self.network.value = _once(key[0] for key in keys), first[0]
        self._offer_rows()
        self.row.value = first[1]
        self._offer_seeds()

    @property
    def key(self) -> Key:
        """What is chosen."""
        return self.network.value, self.row.value, self.seed.value

    def narrow(self, menu) -> None:
        """After a change of ``menu``: let the menus behind it offer what there is, keeping what is chosen if it can be kept."""
        if menu is self.network:
            self._offer_rows()
        if menu in (self.network, self.row):
            self._offer_seeds()

    def _offer_rows(self) -> None:
        _offer(self.row, _once(row for network, row, _ in self.keys if network == self.network.value))

    def _offer_seeds(self) -> None:
        _offer(self.seed, _once(seed for *pair, seed in self.keys if pair == [self.network.value, self.row.value]))


def _once(values) -> list:
    return list(dict.fromkeys(values))


def _offer(menu, options: list) -> None:
    kept = menu.value
    menu.options = options
    menu.value = kept if kept in options else options[0]


class Explorer:
    """Menus and picture. ``image``, ``target`` and ``sides`` are the menus; ``picture`` holds the PNG that is shown."""

    def __init__(self, study: Study, runs: dict[Key, Run], image: int, rows: tuple[str, str]):
        from ipywidgets import HTML, Dropdown, HBox, Image, IntSlider, Layout, VBox

        self.runs, self.packed = runs, study.packed(study.data.split)
        if not 0 <= image < len(self.packed):
            split = f"the {study.data.split} split of {study.dataset}"
            raise UserError(f"image {image}: {split} has images 0 to {len(self.packed) - 1}")
        self.start = target_class(study)
        self._load = lru_cache(NETWORKS)(lambda key: loaded(self.runs[key]))
        self._look, self._cam = lru_cache(LOOKS)(self._look_at), lru_cache(LOOKS)(self._explain)
        self.image = IntSlider(
            image, 0, len(self.packed) - 1, description="image", continuous_update=False, layout=Layout(width="320px"),
            style={"description_width": "75px"},
        )  # fmt: skip
        self.target = Dropdown(description="LayerCAM of", layout=Layout(width="270px"), style={"description_width": "85px"})
        self.sides = [RunMenus(letter, list(runs), row) for letter, row in zip("AB", rows)]
        self.picture = Image(format="png", layout=Layout(max_width="100%", height="auto", object_fit="contain"))
        self.status = HTML()
        top = HBox([self.image, self.target], layout=Layout(flex_flow="row wrap"))
        self.panel = VBox([top, *(side.box for side in self.sides), self.picture, self.status])
        self._busy = False
        self._offer_classes()
        self._draw()
        for menu in (self.image, self.target, *(m for s in self.sides for m in (s.network, s.row, s.seed))):
            menu.observe(self._changed, "value")

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The menus for a notebook with a kernel, and the picture alone for a page without one."""
        bundle = dict(self.panel._repr_mimebundle_(**kwargs))
        picture = base64.b64encode(self.picture.value).decode()
        return bundle | {"image/png": picture, "text/plain": "menus: see them in JupyterLab"}

    def _changed(self, change: dict) -> None:
        """One new picture for each choice, however many menus it moves."""
        if self._busy:
            return
        self._busy = True
        try:
            for side in self.sides:
                side.narrow(change["owner"])
            if change["owner"] is self.image:
                self._offer_classes()
            self._draw()
        except UserError as error:  # an error in here would only reach the browser's log
            self.status.value = f"<b>{escape(str(error))}</b>"
        finally:
            self._busy = False

    def _offer_classes(self) -> None:
        """The classes that the image shows; the one chosen before, else the most common one."""
        pixels = np.bincount(self._example(self.image.value)[1].ravel(), minlength=256)[: self.packed.num_classes]
        if not pixels.any():
            raise UserError(f"image {self.image.value} has no labelled pixel: choose another")
        kept = self.target.value if self.target.options else self.start
        self.target.options = [(self.packed.classes[c], c) for c in np.flatnonzero(pixels).tolist()]
        self.target.value = kept if pixels[kept] else int(pixels.argmax())

    def _example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        images, labels, _ = self.packed.take([index])
        return images[0].numpy(), labels[0].numpy()

    def _input(self, key: Key, index: int) -> torch.Tensor:
        """What the run's network takes: the image, and for a label-assisted teacher the noised label beside it."""
        _, kind = self._load(key)
        images, labels, _ = self.packed.take([index])
        return feed(*to_batch(images, labels), kind, self.runs[key].config.seed, "picture")

    def _look_at(self, key: Key, index: int) -> Look:
        return look(self._load(key)[0], self._input(key, index), self._example(index)[1])

    def _explain(self, key: Key, index: int, target: int) -> np.ndarray:
        mask = self._example(index)[1] == target
        return stage_layercam(self._load(key)[0], self._input(key, index), mask, target)

    def _draw(self) -> None:
        begin, index, target = time.perf_counter(), self.image.value, self.target.value
        keys = [side.key for side in self.sides]
        sides = [(f"{key[1]}, seed {key[2]}", self._look(key, index), self._cam(key, index, target)) for key in keys]
        overall = [self.runs[key].result["iou"] for key in keys]
        figure = side_by_side_figure(*self._example(index), sides, self.packed.palette, self.packed.classes, target, overall)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        self.picture.value = buffer.getvalue()
        totals = "; ".join(
            f"{letter}: <code>{escape(self.runs[key].id)}</code>, mIoU {100 * self.runs[key].result['miou']:.1f} % "
            f"on all {self.runs[key].result['images']} images" for letter, key in zip("AB", keys)
        )  # fmt: skip
        self.status.value = f"{totals}; drawn in {time.perf_counter() - begin:.1f} s"
