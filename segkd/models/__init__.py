"""Segmentation networks of the papers: encoders (timm), heads, weights, and what they cost."""

from __future__ import annotations

from segkd.models.adapt import Adapted, adapt
from segkd.models.complexity import complexity
from segkd.models.segmenter import Segmenter, create_model, list_models

__all__ = ["Adapted", "Segmenter", "adapt", "complexity", "create_model", "list_models"]
