"""Run folders that several tests read."""

import pytest

from tests.reporting.runs import write_dataset, write_run


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("grey"))


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory, dataset):
    """A finished run; tests that change it work on a copy."""
    return write_run(tmp_path_factory.mktemp("runs") / "run", dataset)
