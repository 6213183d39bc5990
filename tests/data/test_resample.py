"""The two ways of sampling images agree: matrix products (CPU) and one call of grid_sample (GPU), here on the CPU."""

import pytest
import torch

from segkd.data.draws import Numbers, draw
from segkd.data.resample import BLOCK, _by_grid, _by_products, sample_labels, taps


def look(height, width, crop, seed, scale=(0.5, 2.0)):
    images = torch.randint(0, 256, (3, height, width, 3), dtype=torch.uint8)
    draws = Numbers.of(3, torch.Generator().manual_seed(seed))
    rows, columns = draw(torch.tensor([height, width]).expand(3, 2), draws, crop, scale, True)
    return images, taps(rows), taps(columns)


@pytest.mark.parametrize("width", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 90), (60, 1), (50, 70)])
def test_both_ways_agree(size, width):
    for seed in range(3):
        images, y, x = look(*size, (33, width), seed)
        products, grid = _by_products(images, y, x), _by_grid(images, y, x)
        assert products.shape == grid.shape == (3, 3, 33, width) and products.is_contiguous()
        assert (products - grid).abs().max() * 255 < 0.1


def test_only_what_the_crop_sees_is_read():
    """A crop that looks at part of the image gives the same bits whatever lies elsewhere."""
    images, y, x = look(100, 120, (20, 20), 0, (1.5, 2.0))
    other = 255 - images
    for b in range(3):
        seen = slice(int(y.lower[b].min()), int(y.upper[b].max()) + 1), slice(int(x.lower[b].min()), int(x.upper[b].max()) + 1)
        assert seen[0].stop - seen[0].start < 20
        other[b][seen] = images[b][seen]
    assert torch.equal(_by_products(images, y, x), _by_products(other, y, x))


def test_labels_on_a_gpu_use_the_same_places():
    """The gather that GPUs do, on the CPU."""
    labels = torch.randint(0, 19, (3, 50, 70), dtype=torch.uint8)
    _, y, x = look(50, 70, (40, 90), 2)
    index = y.nearest[:, :, None] * 70 + x.nearest[:, None, :]
    assert torch.equal(sample_labels(labels, y, x), labels.flatten(1).gather(1, index.flatten(1)).view(3, 40, 90).long())
