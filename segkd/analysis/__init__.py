"""Figures and measurements for the notebooks: plots of results, pictures of maps, pixel features, saliency of inputs.

Everything here takes plain arrays, data frames, models and packed data, never a study, and every figure is returned
as a closed matplotlib ``Figure``: the last line of a notebook cell shows it once, ``figure.savefig`` writes it.
"""
