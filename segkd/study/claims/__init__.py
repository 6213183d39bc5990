"""The papers' claims: what each needs, what was measured of it, and the verdict."""
