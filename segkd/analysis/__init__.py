"""Measurements for the notebooks, each with its own figure: of plain arrays, models and packed data, never of a study."""
