"""How many examples hypothesis tries: ``ci`` (the same ones each time, seconds) or ``nightly`` (many, random, minutes).

Chosen by ``HYPOTHESIS_PROFILE``; ``tests/conftest.py`` imports this module. A test that sets ``max_examples`` itself keeps its own
number in both, so tests leave it to the profile unless one example is expensive.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "nightly", deadline=None, max_examples=2_000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
