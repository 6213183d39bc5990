"""Learned pixel features: a balanced sample before the classifier, its t-SNE and silhouette (HWD Fig. 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from segkd.analysis.style import MARKERS, colours, styled
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


def network_input(images, labels=None, label_noise: Callable | None = None, seed: int = 0) -> Tensor:
    """uint8 images (B, H, W, 3) as float (B, 3, H, W) in [0, 1]; with ``label_noise`` the noised label as 4th channel.

    ``label_noise(labels int64 (B, H, W), generator) -> (B, 1, H, W)`` is LAD's ``LabelNoise``; ``seed`` fixes its draw.
    """
    rgb = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(torch.get_default_dtype()) / 255
    if label_noise is None:
        return rgb
    labels = torch.from_numpy(np.array(labels)).long()
    return torch.cat([rgb, label_noise(labels, generator=torch.Generator().manual_seed(seed)).to(rgb)], dim=1)


SHOWN_CLASSES = 20  # of more classes a map shows the most frequent ones: more colours cannot be told apart


def sample_positions(labels, grid: tuple[int, int], num_classes: int, per_class: int, seed: int = 0) -> np.ndarray:
    """Balanced sample of grid points: rows (class, image, y, x), int64, sorted by class and image.

    ``labels`` (N, H, W) uint8 are brought to ``grid`` by nearest; void is never drawn. A class with fewer than
    ``per_class`` points gives all it has; of more than 20 classes the 20 with the most points are drawn. A pure function
    of its arguments: networks with one grid share the sample.
    """
    small = [labels_to_grid(torch.from_numpy(np.array(label)).long()[None], grid)[0].numpy() for label in labels]
    flat = np.stack(small).reshape(-1)
    rows, points = [], np.bincount(flat, minlength=IGNORE + 1)[:num_classes]
    for c in sorted(np.argsort(-points, kind="stable")[:SHOWN_CLASSES]):
        candidates = np.flatnonzero(flat == c)
        chosen = np.sort(np.random.default_rng([seed, c]).permutation(candidates)[:per_class])
        rows.append(np.stack([np.full_like(chosen, c), *np.unravel_index(chosen, (len(small), *grid))], axis=1))
    return np.concatenate(rows).astype(np.int64)


def pixel_features(
    model: nn.Module,
    packed,
    per_class: int = 80,
    seed: int = 0,
    *,
    label_noise: Callable | None = None,
    batch_size: int = 4,
) -> tuple[np.ndarray, np.ndarray]:
    """Features before the classifier at a balanced sample of labelled pixels: (n, A) in its precision, classes (n,) int64.

    Only images that hold a sampled pixel are run, after one for the grid. ``label_noise`` feeds a label-assisted
    teacher. UserError: the network has no feature. At most ``per_class`` times C rows; keep that near 1000 for t-SNE.
    """

    def feature(indices: np.ndarray) -> Tensor:
        images, labels = packed.images[indices], packed.labels[indices]
        prediction = model(network_input(images, labels, label_noise, seed).to(device))
        if prediction.feature is None:
            raise UserError("pixel_features: the network gives no feature before its classifier; use one of segkd's")
        return prediction.feature.cpu()

    with evaluating(model) as device:
        grid = tuple(feature(np.array([0])).shape[-2:])
        rows = sample_positions(packed.labels, grid, len(packed.classes), per_class, seed)
        parts = np.zeros((len(rows), 0))
        used = np.unique(rows[:, 1])
        for start in range(0, len(used), batch_size):
            indices = used[start : start + batch_size]
            maps = feature(indices).numpy()
            parts = np.zeros((len(rows), maps.shape[1]), maps.dtype) if parts.shape[1] == 0 else parts
            here = np.isin(rows[:, 1], indices)
            parts[here] = maps[np.searchsorted(indices, rows[here, 1]), :, rows[here, 2], rows[here, 3]]
    return parts, rows[:, 0]


def embed(features: np.ndarray, seed: int = 0, perplexity: float = 30.0, components: int = 50) -> np.ndarray:
    """t-SNE (n, 2) of features (n, A) after PCA to ``components`` dimensions; deterministic for a seed on one machine.

    On one thread: at this size (about 1000 points, some seconds) threads cost more than they give. UserError: n < 5.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(features) < 5:
        raise UserError(f"embed: {len(features)} points are too few for a t-SNE; sample more pixels per class")
    count, width = features.shape
    reduced = PCA(min(components, width, count - 1), random_state=seed).fit_transform(features)
    # 500 iterations end within 1 % of the objective of the default 1000 at this size
    tsne = TSNE(2, perplexity=min(perplexity, (count - 1) / 3), init="pca", max_iter=500, random_state=seed)
    with threadpool_limits(1):
        return tsne.fit_transform(reduced.astype(np.float32))


def silhouette(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette in [-1, 1] (Euclidean) of features (n, A) under their classes; NaN for fewer than two classes."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(features, labels)) if len(np.unique(labels)) > 1 else float("nan")


def class_silhouettes(features: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Mean silhouette of the pixels of each class that occurs: which classes a method pulls apart."""
    from sklearn.metrics import silhouette_samples

    values = silhouette_samples(features, labels)
    return {classes[c]: float(values[labels == c].mean()) for c in np.unique(labels)}


def thinned(sample: tuple[np.ndarray, np.ndarray], every: int) -> tuple[np.ndarray, np.ndarray]:
    """Every so-manieth point of each class of a sample (features, classes): a smaller sample, still balanced."""
    features, labels = sample
    chosen = np.concatenate([np.flatnonzero(labels == c)[::every] for c in np.unique(labels)])
    return features[chosen], labels[chosen]


def perplexity_check(samples: dict, perplexities: Sequence[float] = (5, 15, 30, 50), seed: int = 0) -> pd.DataFrame:
    """Silhouette of the t-SNE plane at several perplexities: columns name, perplexity, silhouette.

    ``samples`` {name: (features, classes)}. If the order of the networks turns with the perplexity, their planes say
    nothing about which separates the classes better. Perplexities that a sample is too small for are left out.
    """
    rows = []
    for name, (found, labels) in samples.items():
        for perplexity in perplexities:
            if perplexity <= (len(found) - 1) / 3:
                plane = embed(found, seed, perplexity)
                rows.append({"name": name, "perplexity": perplexity, "silhouette": silhouette(plane, labels)})
    return pd.DataFrame(rows, columns=["name", "perplexity", "silhouette"])


@styled
def perplexity_figure(df: pd.DataFrame):
    """A line per network through the silhouettes of its planes. ``df``: as `perplexity_check` gives it."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2))
    for name, colour in colours(list(dict.fromkeys(df["name"]))).items():
        axes.plot("perplexity", "silhouette", "-o", data=df[df["name"] == name], color=colour, label=name)
    axes.set_xticks(sorted(df["perplexity"].unique()))
    axes.set(xlabel="perplexity", ylabel="silhouette of the plane")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plane_frame(planes: dict, classes: Sequence[str]) -> pd.DataFrame:
    """The points of t-SNE panels as a table: name, x, y, class. ``planes`` {name: (xy, classes)}."""
    parts = [
        pd.DataFrame({"name": name, "x": xy[:, 0], "y": xy[:, 1], "class": [classes[c] for c in labels]})
        for name, (xy, labels) in planes.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["name", "x", "y", "class"])


@styled
def tsne_figure(panels: dict, classes: Sequence[str], palette, scores: dict | None = None):
    """t-SNE panels side by side, colour and marker by class: ``panels`` {name: (xy (n, 2), labels (n,))}.

    Give every panel the same sample, seed and perplexity. ``scores`` {name: silhouette of the features} goes into the
    titles; without it the silhouette of the plane is given, and called so: distances in a t-SNE plane mean little.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    present = np.unique(np.concatenate([labels for _, labels in panels.values()]))
    looks = {c: {"marker": MARKERS[c % len(MARKERS)], "color": np.asarray(palette[c]) / 255} for c in present}
    across = 2 if len(panels) in (2, 4) else min(3, len(panels))
    lines, columns = -(-len(panels) // across), max(2, int(3.6 * across / 1.25))
    size = (3.6 * across, 3.9 * lines + 0.22 * -(-len(present) // columns))
    figure, axes = plt.subplots(lines, across, figsize=size, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (name, (xy, labels)) in zip(axes.flat, panels.items()):
        for c, look in looks.items():
            axis.scatter(*xy[labels == c].T, s=14, edgecolor="#333333", lw=0.25, **look)
        value = silhouette(xy, labels) if scores is None else scores[name]
        axis.set_title(f"{name}\nsilhouette of the {'plane' if scores is None else 'features'} {value:.3f}")
        axis.set(xticks=[], yticks=[])
    edge = {"ls": "", "markeredgecolor": "#333333", "markeredgewidth": 0.4}
    handles = [Line2D([], [], label=classes[c], **edge, **look) for c, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8.5)
    return figure
