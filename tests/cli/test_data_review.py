"""``data review``: a page and a table from a run, and the reader's answers back."""

import csv

import pytest
from typer.testing import CliRunner

from pneumoscope.cli.data import app
from pneumoscope.core.errors import ConfigError, InputError
from pneumoscope.core.records import Task
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.predictions import tabulate, write_predictions
from tests.learning.phantoms import phantom_dataset


def run(*arguments):
    result = CliRunner().invoke(app, ["review", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def reviewed(tmp_path):
    """A data set and a run whose networks doubt one label."""
    import numpy as np

    dataset = phantom_dataset(tmp_path / "films", count=12)
    targets = [Task.THREE_CLASS.target(sample.label) for sample in dataset.samples]
    logits = 4.0 * np.eye(3)[targets]
    logits[0] = 4.0 * np.eye(3)[(targets[0] + 1) % 3]
    powers = np.exp(logits)
    table = tabulate(dataset.samples, Task.THREE_CLASS, logits, powers / powers.sum(axis=1, keepdims=True))
    write_predictions(tmp_path / "run" / "predictions" / "cross-validation.csv", table)
    return dataset, tmp_path / "run"


def test_the_doubtful_film_is_shown_and_corrected(reviewed, tmp_path):
    dataset, folder = reviewed
    result = run(dataset.directory, folder, "-o", tmp_path / "out", "--count", 3)
    assert "1 probable label errors and 3 hard images" in result.stdout
    page = (tmp_path / "out" / "review.html").read_text()
    assert page.count("<img") == 4
    assert f"labelled <strong>{dataset.samples[0].label}</strong>" in page
    table = tmp_path / "out" / "review.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert rows[0]["path"] == dataset.samples[0].path
    assert rows[0]["reader_label"] == ""
    rows[0]["reader_label"] = rows[0]["suggested"]
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    run(dataset.directory, "--apply", table, "--reader", "Dr. A", "-o", tmp_path / "new")
    corrected = {sample.path: sample.label for sample in Dataset.open(tmp_path / "new").samples}
    assert corrected[rows[0]["path"]] == rows[0]["suggested"]


def test_blind_pages_and_tables_show_no_label(reviewed, tmp_path):
    dataset, folder = reviewed
    run(dataset.directory, folder, "-o", tmp_path / "out", "--blind")
    assert "labelled" not in (tmp_path / "out" / "review.html").read_text()
    header = (tmp_path / "out" / "review.csv").read_text().splitlines()[0]
    assert header == "path,sha256,reader_label,comment"


def test_what_is_missing_is_said(reviewed, tmp_path):
    dataset, folder = reviewed
    with pytest.raises(InputError, match="no predictions"):
        run(dataset.directory, tmp_path)
    with pytest.raises(ConfigError, match="either RUN or --apply"):
        run(dataset.directory)
    with pytest.raises(ConfigError, match="needs --reader and --output"):
        run(dataset.directory, "--apply", folder)
