"""Data that several tests learn from."""

import signal

import pytest

from .phantoms import phantom_dataset


@pytest.fixture(scope="session", autouse=True)
def _quick_exports(quick_exports):
    """For all tests of learning but those of the export itself."""


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """60 phantoms of 32 pixels, one or two images a patient."""
    return phantom_dataset(tmp_path_factory.mktemp("phantoms"))


@pytest.fixture(autouse=True)
def _interruptions_raise():
    """SIGINT raises, also where the tests run in the background of a shell, which makes it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
