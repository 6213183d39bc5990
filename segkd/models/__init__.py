"""Segmentation networks: encoders (timm), heads, the table of both, smp's networks, weights, and what all cost."""

from __future__ import annotations

from segkd.models.adapt import Adapted, adapt
from segkd.models.complexity import complexity
from segkd.models.segmenter import Segmenter, check_model_name, create_model, list_models

__all__ = ["Adapted", "Segmenter", "adapt", "check_model_name", "complexity", "create_model", "list_models"]
