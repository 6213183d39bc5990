"""Learned pixel features: a balanced sample before the classifier, its t-SNE and silhouette (HWD Fig. 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from segkd.analysis.figures.chart import listed, tell
from segkd.analysis.figures.style import MARKERS, colours, styled, subplots
from segkd.data.augment import to_batch
from segkd.prediction import IGNORE, labels_to_grid
from segkd.registry import UserError
from segkd.train.runtime import like


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Eval mode without gradient, images and draws in the model's precision; gives its device, puts modes back at the end."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), like(model):
            yield next(model.parameters()).device
    finally:
        for module, mode in modes.items():
            module.training = mode


def one(image, label=None) -> tuple[Tensor, Tensor]:
    """An image (H, W, 3) uint8 and its label (H, W) as a batch of one: (1, 3, H, W) in [0, 1] and int64 (1, H, W)."""
    label = np.zeros(np.shape(image)[:2], np.uint8) if label is None else label
    return to_batch(*(torch.from_numpy(np.array(part))[None] for part in (image, label)))


def network_input(images: Tensor, labels: Tensor, label_noise: Callable, seed: int = 0) -> Tensor:
    """Images (B, 3, H, W) with the noised label as 4th channel.

    ``label_noise(labels int64 (B, H, W), generator) -> (B, 1, H, W)`` is LAD's ``LabelNoise``; ``seed`` fixes its draw.
    """
    return torch.cat([images, label_noise(labels, generator=torch.Generator().manual_seed(seed)).to(images)], dim=1)


SHOWN_CLASSES = 20  # of more classes a map shows the most frequent ones: more colours cannot be told apart


def sample_positions(labels, grids: Sequence[tuple[int, int]], num_classes: int, per_class: int) -> np.ndarray:
    """Balanced sample of grid points: rows (class, image, y, x), int64, sorted by class and image.

    ``labels`` N of (H, W) uint8 are brought each to its grid of ``grids`` by nearest; void is never drawn. A class with
    fewer than ``per_class`` points gives all it has; of more than 20 classes the 20 with the most points are drawn. A pure
    function of its arguments: networks with the same grids share the sample.
    """
    small = [labels_to_grid(torch.from_numpy(np.array(x)).long()[None], grid).flatten() for x, grid in zip(labels, grids)]
    flat, begin = np.concatenate(small), np.cumsum([0, *map(len, small)])
    rows, points = [], np.bincount(flat, minlength=IGNORE + 1)[:num_classes]
    for c in sorted(np.argsort(-points, kind="stable")[:SHOWN_CLASSES]):
        candidates = np.flatnonzero(flat == c)
        chosen = np.sort(np.random.default_rng([0, c]).permutation(candidates)[:per_class])
        image = np.searchsorted(begin, chosen, "right") - 1
        y, x = np.divmod(chosen - begin[image], np.asarray(grids)[image, 1])
        rows.append(np.stack([np.full_like(chosen, c), image, y, x], axis=1))
    return np.concatenate(rows).astype(np.int64)


def pixel_features(model: nn.Module, packed, per_class: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Features before the classifier at a balanced sample of labelled pixels: (n, A) in its precision, classes (n,) int64.

    Only images that hold a sampled pixel are run, after one of each size for its grid. UserError: the network has no feature.
    At most ``per_class`` times C rows; keep that near 1000 for t-SNE.
    """

    def feature(index: int) -> np.ndarray:
        prediction = model(one(packed.images[index])[0].to(device))
        if prediction.feature is None:
            raise UserError("pixel_features: the network gives no feature before its classifier; use one of segkd's")
        return prediction.feature[0].cpu().numpy()

    with evaluating(model) as device:
        shapes = [label.shape for label in packed.labels]
        grid_of = {shape: feature(shapes.index(shape)).shape[-2:] for shape in dict.fromkeys(shapes)}
        rows = sample_positions(packed.labels, [grid_of[shape] for shape in shapes], len(packed.classes), per_class)
        parts = np.zeros((len(rows), 0))
        for index in np.unique(rows[:, 1]):
            maps, here = feature(index), rows[:, 1] == index
            parts = parts if parts.shape[1] else np.zeros((len(rows), len(maps)), maps.dtype)
            parts[here] = maps[:, rows[here, 2], rows[here, 3]].T
    return parts, rows[:, 0]


def embed(features: np.ndarray, perplexity: float = 30.0) -> np.ndarray:
    """t-SNE (n, 2) of features (n, A) after PCA to 50 dimensions; deterministic on one machine.

    On one thread: at this size (about 1000 points, some seconds) threads cost more than they give. UserError: n < 5.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(features) < 5:
        raise UserError(f"embed: {len(features)} points are too few for a t-SNE; sample more pixels per class")
    count, width = features.shape
    reduced = PCA(min(50, width, count - 1), random_state=0).fit_transform(features)
    # 500 iterations end within 1 % of the objective of the default 1000 at this size
    tsne = TSNE(2, perplexity=min(perplexity, (count - 1) / 3), init="pca", max_iter=500, random_state=0)
    with threadpool_limits(1):
        return tsne.fit_transform(reduced.astype(np.float32))


def silhouette(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette in [-1, 1] (Euclidean) of features (n, A) under their classes; NaN for fewer than two classes.

    NaN too where no class has two points.
    """
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(features, labels)) if 1 < len(np.unique(labels)) < len(labels) else float("nan")


def class_silhouettes(features: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Mean silhouette of the pixels of each class that occurs: which classes a method pulls apart."""
    from sklearn.metrics import silhouette_samples

    values = silhouette_samples(features, labels) if 1 < len(np.unique(labels)) < len(labels) else np.full(len(labels), np.nan)
    return {classes[c]: float(values[labels == c].mean()) for c in np.unique(labels)}


def thinned(sample: tuple[np.ndarray, np.ndarray], every: int) -> tuple[np.ndarray, np.ndarray]:
    """Every so-manieth point of each class of a sample (features, classes): a smaller sample, still balanced."""
    features, labels = sample
    chosen = np.concatenate([np.flatnonzero(labels == c)[::every] for c in np.unique(labels)])
    return features[chosen], labels[chosen]


def perplexity_check(samples: dict, perplexities: Sequence[float]) -> pd.DataFrame:
    """Silhouette of the t-SNE plane at several perplexities: columns name, perplexity, silhouette.

    ``samples`` {name: (features, classes)}. If the order of the networks turns with the perplexity, their planes say
    nothing about which separates the classes better. Perplexities that a sample is too small for are left out.
    """
    rows = []
    for name, (found, labels) in samples.items():
        for perplexity in perplexities:
            if perplexity <= (len(found) - 1) / 3:
                plane = embed(found, perplexity)
                rows.append({"name": name, "perplexity": perplexity, "silhouette": silhouette(plane, labels)})
    return pd.DataFrame(rows, columns=["name", "perplexity", "silhouette"])


@styled
def perplexity_figure(df: pd.DataFrame):
    """A line per network through the silhouettes of its planes. ``df``: as `perplexity_check` gives it."""
    figure, axes = subplots(figsize=(6, 3.2))
    for name, colour in colours(list(dict.fromkeys(df["name"]))).items():
        axes.plot("perplexity", "silhouette", "-o", data=df[df["name"] == name], color=colour, label=name)
    axes.set_xticks(sorted(df["perplexity"].unique()))
    axes.set(xlabel="perplexity", ylabel="silhouette of the plane")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    orders = {tuple(own.sort_values("silhouette")["name"]) for _, own in df.groupby("perplexity")}
    said = "The order of the networks is the same at every perplexity." if len(orders) == 1 else "The order of the networks changes with the perplexity: the map is no evidence for it."
    marks = [(axes, line.perplexity, line.perplexity, line.silhouette, line.silhouette, f"{line.name}, perplexity {line.perplexity:g}: {line.silhouette:.3f}") for line in df.itertuples(index=False)]
    return tell(figure, "Curves: silhouette of the plane over the perplexity", said, marks)


def plane_frame(planes: dict, classes: Sequence[str]) -> pd.DataFrame:
    """The points of t-SNE panels as a table: name, x, y, class. ``planes`` {name: (xy, classes)}."""
    parts = [
        pd.DataFrame({"name": name, "x": xy[:, 0], "y": xy[:, 1], "class": [classes[c] for c in labels]})
        for name, (xy, labels) in planes.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["name", "x", "y", "class"])


@styled
def tsne_figure(df: pd.DataFrame, classes: Sequence[str], palette, scores: dict | None = None):
    """t-SNE panels side by side, colour and marker by class. ``df``: as `plane_frame` gives it.

    Give every panel the same sample, seed and perplexity. ``scores`` {name: silhouette of the features} goes into the
    titles; without it the silhouette of the plane is given, and called so: distances in a t-SNE plane mean little.
    """
    from matplotlib.lines import Line2D

    panels = dict(list(df.groupby("name", sort=False)))
    known, what = (scores, "features") if scores is not None else ({name: silhouette(own[["x", "y"]], own["class"]) for name, own in panels.items()}, "plane")
    present = [c for c, name in enumerate(classes) if name in set(df["class"])]
    looks = {classes[c]: {"marker": MARKERS[c % len(MARKERS)], "color": np.asarray(palette[c]) / 255} for c in present}
    across = 2 if len(panels) in (2, 4) else min(3, len(panels))
    lines, columns = -(-len(panels) // across), max(2, int(3.6 * across / 1.25))
    size = (3.6 * across, 3.9 * lines + 0.22 * -(-len(present) // columns))
    figure, axes = subplots(lines, across, figsize=size, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (name, own) in zip(axes.flat, panels.items()):
        for c, look in looks.items():
            axis.scatter("x", "y", data=own[own["class"] == c], s=14, edgecolor="#333333", lw=0.25, **look)
        axis.set_title(f"{name}\nsilhouette of the {what} {known[name]:.3f}")
        axis.set(xticks=[], yticks=[])
    edge = {"ls": "", "markeredgecolor": "#333333", "markeredgewidth": 0.4}
    handles = [Line2D([], [], label=c, **edge, **look) for c, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8.5)
    marks = [(axis, at.x, at.x, at.y, at.y, f"{name}: {c}, the middle of its points") for axis, (name, own) in zip(axes.flat, panels.items()) for c, at in own.groupby("class", sort=False)[["x", "y"]].median().iterrows()]
    said = f"Silhouette of the {what}: {listed([f'{name} {known[name]:.3f}' for name in panels], 12)}."
    return tell(figure, "t-SNE maps of pixel features, coloured by class", said, marks)
