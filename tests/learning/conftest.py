"""Data that several tests learn from."""

import pytest

from .phantoms import phantom_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """60 phantoms of 32 pixels, one or two films a patient."""
    return phantom_dataset(tmp_path_factory.mktemp("phantoms"))
