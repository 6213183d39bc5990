"""Settings for all tests: hypothesis without deadlines, since speed is measured in benchmarks and never in a test."""

from hypothesis import settings

settings.register_profile("segkd", deadline=None)
settings.load_profile("segkd")
