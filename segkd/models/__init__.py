"""Segmentation networks: encoders, heads, smp's networks, weights, and what all cost; each file of `encoders` is imported here."""

from __future__ import annotations

import importlib
import pkgutil

from segkd.models import encoders
from segkd.models.adapt import Adapted, adapt
from segkd.models.complexity import complexity
from segkd.models.segmenter import Segmenter, check_model_name, create_model, list_models

for _module in pkgutil.iter_modules(encoders.__path__):
    importlib.import_module(f"{encoders.__name__}.{_module.name}")

__all__ = ["Adapted", "Segmenter", "adapt", "check_model_name", "complexity", "create_model", "list_models"]
