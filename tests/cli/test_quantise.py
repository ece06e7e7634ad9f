"""``pneumoscope quantise``: what it asks the learning layer for, what it prints, what it refuses."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from pneumoscope.cli import quantise as command
from pneumoscope.core.errors import DatasetError, InputError, MissingExtraError
from pneumoscope.core.files import write_json
from pneumoscope.learning import quantisation
from tests.tiny_bundle import write_tiny_bundle

from ..learning.phantoms import phantom_dataset


def estimates(accuracy):
    names = {"accuracy": accuracy, "roc_auc": 0.97}
    return {name: {"value": value, "low": 0.8, "high": 1.0, "n": 12} for name, value in names.items()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return phantom_dataset(tmp_path_factory.mktemp("phantoms"), count=24)


@pytest.fixture
def run():
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)

    def invoke(*arguments):
        result = CliRunner().invoke(app, ["quantise", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def asked(monkeypatch):
    """What the learning layer is asked for; it quantises nothing."""
    calls = []

    def own_films(bundle, dataset, *, run, split):
        calls.append((bundle.id, run, split))
        return SimpleNamespace(validation=range(12))

    def quantise(bundle, films, directory, name, progress):
        calls.append((directory, name))
        return SimpleNamespace(id="tiny-int8@1", document={"validation": estimates(0.88)})

    def quantise_folds(source, dataset, directory, config, progress):
        calls.append((source, directory, config.name))
        kinds = {"float32": estimates(0.9), "int8": estimates(0.88)}
        return {"films": 40, "estimates": kinds, "changed_decisions": {"value": 0.025}}

    monkeypatch.setattr(quantisation, "own_films", own_films)
    monkeypatch.setattr(quantisation, "quantise", quantise)
    monkeypatch.setattr(quantisation, "quantise_folds", quantise_folds)
    return calls


@pytest.fixture
def bundle(tmp_path):
    return write_tiny_bundle(tmp_path / "tiny", validation=estimates(0.9))


def test_a_bundle_is_quantised_and_compared(run, asked, bundle, dataset, tmp_path):
    result = run(
        bundle.directory, dataset.directory, "-o", tmp_path / "out", "--split", "mine", "--name", "n"
    )
    assert asked == [(bundle.id, None, "mine"), (tmp_path / "out", "n")]
    lines = [line.split("│")[1:-1] for line in result.stdout.splitlines() if "│" in line]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
    assert rows == {"ROC AUC": ["0.9700", "0.9700", "+0.0000"], "Accuracy": ["0.9000", "0.8800", "-0.0200"]}
    assert "12 validation images" in result.stdout
    assert f"written: {tmp_path / 'out'}" in result.stdout


def test_json_has_both_bundles(run, asked, bundle, dataset, tmp_path):
    result = run(bundle.directory, dataset.directory, "-o", tmp_path / "out", "--run", "r", "--json")
    document = json.loads(result.stdout)
    assert asked[0] == (bundle.id, Path("r"), None)
    assert document["bundles"] == {"float32": bundle.id, "int8": "tiny-int8@1"}
    assert document["estimates"]["int8"]["accuracy"]["value"] == 0.88


def test_a_cross_validation_is_quantised_fold_by_fold(run, asked, dataset, tmp_path):
    write_json(tmp_path / "cv" / "run.json", {"command": "cross-validate"})
    result = run(tmp_path / "cv", dataset.directory, "-o", tmp_path / "out")
    assert asked == [(tmp_path / "cv", tmp_path / "out", None)]
    assert "40 images out of fold" in result.stdout
    assert "2.50% of the decisions at probability 0.5 changed" in result.stdout
    with pytest.raises(InputError, match="has its own folds"):
        run(tmp_path / "cv", dataset.directory, "-o", tmp_path / "out", "--split", "default")


def test_run_and_split_exclude_each_other(run, bundle, dataset, tmp_path):
    with pytest.raises(InputError, match="both --run and --split"):
        run(bundle.directory, dataset.directory, "-o", tmp_path / "o", "--run", "r", "--split", "s")


def test_films_of_another_bundle_are_refused(run, dataset, tmp_path):
    training = {
        "films": ["0" * 16],
        "validation_films": [],
        "counts": {"training": 1, "validation": 0},
        "split": {"method": "fractions"},
    }
    stranger = write_tiny_bundle(tmp_path / "stranger", training=training)
    with pytest.raises(DatasetError, match="1 of its images are missing, 0 are others"):
        run(stranger.directory, dataset.directory, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_onnx_the_extra_is_named(run, bundle, dataset, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else real(name))
    with pytest.raises(MissingExtraError, match=r"needs onnx; pip install 'pneumoscope\[train\]'"):
        run(bundle.directory, dataset.directory, "-o", tmp_path / "out")
