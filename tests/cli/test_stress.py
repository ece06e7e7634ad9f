"""``pneumoscope stress`` on phantoms, after a small cross-validation and on a bundle alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from pneumoscope.cli import audits
from pneumoscope.core.errors import ConfigError, InputError
from pneumoscope.core.files import read_json, write_json
from pneumoscope.evaluation.predictions import read_predictions
from pneumoscope.imaging.stress import STRESSES
from tests.tiny_bundle import write_tiny_bundle


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    audits.register(app)
    result = CliRunner().invoke(app, ["stress", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory, quick_exports: None):
    """A data set and a cross-validation of it."""
    from pneumoscope.learning.cross_validation import cross_validate
    from tests.learning.phantoms import phantom_dataset, small_run

    folder = tmp_path_factory.mktemp("phantoms")
    dataset = phantom_dataset(folder, count=40)
    cross_validate(dataset, small_run(network="mlp", epochs=2), folder / "cv", 2)
    return dataset, folder / "cv"


def test_a_cross_validation_is_stressed_out_of_fold(phantoms, tmp_path: Path) -> None:
    dataset, cv = phantoms
    out = tmp_path / "out"
    result = run(cv, dataset.directory, "-o", out, "--probe-limit", 1)
    document = read_json(out / "stress.json")
    assert document["films"] == len(dataset.samples)
    assert list(document["bundles"]) == ["fold-0", "fold-1"]
    assert [row["name"] for row in document["stresses"]] == ["unchanged", *(s.name for s in STRESSES)]
    with open(out / "films.csv", newline="") as stream:
        films = {row["path"]: row for row in csv.DictReader(stream)}
    pooled = read_predictions(cv / "predictions" / "cross-validation.csv")
    for path, probability in zip(pooled.paths, pooled.probability, strict=True):
        # The cache of training rounds to 8 bits what a stress test leaves as it is.
        assert float(films[path]["p_unchanged"]) == pytest.approx(probability, abs=0.02)
    points = [read_json(cv / f"fold-{k}" / "bundle" / "bundle.json")["operating_points"] for k in (0, 1)]
    for number, own in enumerate(points):
        threshold = next(point["threshold"] for point in own if point["name"] == "balanced")
        assert document["thresholds"][f"fold-{number}"] == threshold
    manifest = read_json(out / "run.json")
    assert (manifest["command"], manifest["outcome"]) == ("stress", "done")
    assert manifest["inputs"]["bundle fold-1"] == document["bundles"]["fold-1"]
    assert "Burned-in" in result.stdout
    assert "<html" in (out / "stress.html").read_text()
    assert (out / "stress.md").read_text().startswith("| stress |")
    with open(out / "stress.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 1 + len(STRESSES)


def test_the_same_seed_gives_the_same_figures(phantoms, tmp_path: Path) -> None:
    dataset, cv = phantoms
    first = run(cv, dataset.directory, "-o", tmp_path / "a", "--films", 12, "--seed", 3, "--json").stdout
    again = run(cv, dataset.directory, "-o", tmp_path / "b", "--films", 12, "--seed", 3, "--json").stdout
    assert json.loads(first) == json.loads(again) == read_json(tmp_path / "a" / "stress.json")
    assert json.loads(first)["films"] == 12


def test_a_failed_check_is_a_result_unless_asked_for(phantoms, tmp_path: Path) -> None:
    dataset, _ = phantoms
    # This bundle takes bright images for ill ones, so an image made brighter changes its answer.
    bundle = write_tiny_bundle(tmp_path / "tiny").directory
    arguments = (bundle, dataset.directory, "--split", "all", "-o", tmp_path / "out", "--limit", 0.5)
    assert run(*arguments).exit_code == 0
    rows = {row["name"]: row for row in read_json(tmp_path / "out" / "stress.json")["stresses"]}
    flipped = rows["exposure+30"]["estimates"]["flipped"]["value"]
    assert flipped > 0
    failed = {name for name, row in rows.items() if row["verdict"] == "fail"}
    assert failed
    assert run(*arguments, "--check").exit_code == 1
    assert run(*arguments[:-1], 100, "--probe-limit", 1, "--check").exit_code == 0


def test_what_cannot_be_done_is_said_before_any_work(phantoms, tmp_path: Path) -> None:
    dataset, cv = phantoms
    write_json(tmp_path / "old" / "run.json", {"command": "train"})
    with pytest.raises(InputError, match="another run"):
        run(cv, dataset.directory, "-o", tmp_path / "old")
    with pytest.raises(ConfigError, match="'limit'"):
        run(cv, dataset.directory, "--limit", -1)
    with pytest.raises(ConfigError, match="no operating point 'best'"):
        run(cv, dataset.directory, "--operating-point", "best", "-o", tmp_path / "new")
