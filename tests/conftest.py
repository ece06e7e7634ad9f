"""Hypothesis profiles: ``test`` draws the same examples in every run, ``fuzz`` (make fuzz) new ones."""

from hypothesis import settings

settings.register_profile("test", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("fuzz", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("test")  # pytest --hypothesis-profile=fuzz is loaded after this
