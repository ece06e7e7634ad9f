"""Hypothesis profiles, and quick exports of the networks that tests train.

The profile ``test`` draws the same examples in every run, ``fuzz`` (make fuzz) new ones.
"""

import pytest
from hypothesis import settings

settings.register_profile("test", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("fuzz", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("test")  # pytest --hypothesis-profile=fuzz is loaded after this


@pytest.fixture(scope="session")
def quick_exports():
    """Networks are exported without being traced anew; ``learning/test_export.py`` does without."""
    import torch  # most tests do without

    from tests.learning import exports

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.onnx, "export", exports.export)
        yield
