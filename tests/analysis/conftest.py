"""Figures without a screen, and one thread: for tiny networks a second one only waits."""

import matplotlib
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)
