"""Evaluation against a loop that shares nothing with it: the same counts; ties go to the first class."""

import torch
import torch.nn.functional as F

from segkd.metrics import confusion_matrix
from segkd.prediction import Prediction
from segkd.train.evaluate import evaluate
from tests.train.harness import Split


class Drawn(torch.nn.Module):
    """Scores in whole numbers, so that ties are many and every sum is exact."""

    align_corners = True

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return Prediction((images * 255).round().remainder(4)[:, [0, 1, 2, 0, 1]])


def test_evaluation_equals_a_loop_over_images_with_float_counts():
    """Nine images: one batch is not full."""
    split, wanted = Split([(6, 7)] * 9), torch.zeros(5, 5)
    for image, label in split.items:
        guess = Drawn()(image.permute(2, 0, 1)[None] / 255).logits.argmax(1)[0]
        valid = label != 255
        wanted += F.one_hot(label[valid].long(), 5).float().T @ F.one_hot(guess[valid], 5).float()
    found = evaluate(Drawn(), split)
    assert torch.equal(found, wanted.long()) and found.sum() > 200


def test_small_integers_are_counted_without_overflow():
    labels, guess = torch.tensor([149, 255, 0], dtype=torch.uint8), torch.tensor([149, 3, 148], dtype=torch.uint8)
    counts = confusion_matrix(guess, labels, 150)
    assert counts[149, 149] == 1 and counts[0, 148] == 1 and counts.sum() == 2
