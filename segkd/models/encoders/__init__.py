"""Encoders: one file a family, which registers its encoders, the networks on them and the facts of their weights."""
