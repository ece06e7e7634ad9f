"""``pneumoscope evaluate`` on images that a tiny bundle can tell apart: bright is ill."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from pneumoscope.cli import evaluate
from pneumoscope.core.errors import ConfigError, InputError, LeakageError
from pneumoscope.core.files import read_json, sha256_file, write_json
from pneumoscope.evaluation.scoring import film_key, patient_key
from pneumoscope.reporting import evaluation_page

from ..tiny_bundle import document, write_tiny_bundle

BRIGHTNESS = {"NORMAL": 110, "PNEUMONIA/bacteria": 190, "PNEUMONIA/virus": 150}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the Guangzhou images come: 24 test images of three classes, two a patient, overlapping."""
    root = tmp_path_factory.mktemp("films") / "made-up"
    rng = np.random.default_rng(0)
    for number in range(24):
        patient, kind = number // 2, list(BRIGHTNESS)[number // 2 % 3]
        folder, _, cause = kind.partition("/")
        name = f"person{patient}_{cause}_{number}" if cause else f"IM-{patient:04d}-{number:04d}"
        level = BRIGHTNESS[kind] + rng.normal(0, 25)
        film = np.clip(rng.normal(level, 30, (80, 96)), 0, 255).astype(np.uint8)
        file = root / "test" / folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(film).save(file)
    return root


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny").directory


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the page out, which takes longer than everything else together."""
    monkeypatch.setattr(evaluation_page, "write_evaluation_page", lambda *_: None)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run the command in an empty folder; errors come out as exceptions, as ``main`` gets them."""
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.callback()(lambda: None)
    evaluate.register(app)

    def invoke(*arguments: object):
        result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
        if result.exception is not None:
            raise result.exception
        return result

    return invoke


def test_everything_is_written_and_the_figures_agree(run, bundle: Path, source: Path, tmp_path: Path) -> None:
    result = run(bundle, source, "-o", tmp_path / "out", "--prevalence", 0.2)
    found = read_json(tmp_path / "out" / "evaluation.json")
    assert (found["n"], found["patients"], found["protocol"]) == (24, 12, "publisher's split, part test")
    assert [point["n"] for point in found["operating_points"]] == [24] * len(found["operating_points"])
    assert "PPV and NPV at 20.0% prevalence" in result.stdout
    assert "Every image is answered: nothing here abstains." in result.stdout
    assert found["stated_prevalence"] == 0.2
    assert found["prevalence"] == pytest.approx(2 / 3)
    assert (found["scorings"], found["contaminated"]) == (1, False)
    files = sorted((source / "test").rglob("*.png"))
    brightness = [np.asarray(Image.open(file)).mean() for file in files]
    expected = roc_auc_score([file.parent.name == "PNEUMONIA" for file in files], brightness)
    assert found["estimates"]["roc_auc"]["value"] == pytest.approx(expected)
    assert found["operating_point"]["name"] == "balanced"
    with open(tmp_path / "out" / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    decided = sum(float(row["probability"]) >= 0.7 for row in rows)
    assert decided == found["decisions"]["tp"] + found["decisions"]["fp"]
    manifest = read_json(tmp_path / "out" / "run.json")
    assert (manifest["command"], manifest["outcome"]) == ("evaluate", "done")
    assert manifest["inputs"] == {"dataset": found["dataset_hash"], "bundle": found["bundle"]}
    assert manifest["results"]["scorings"] == 1
    assert "<html" in (tmp_path / "out" / "evaluation.html").read_text()
    assert "ROC AUC" in result.stdout
    assert f"{found['estimates']['roc_auc']['value']:.4f} [" in result.stdout
    assert "24 images of 12 patients" in result.stdout


@pytest.mark.usefixtures("no_page")
def test_json_is_alone_on_standard_output(run, bundle: Path, source: Path, tmp_path: Path) -> None:
    result = run(bundle, source, "-o", tmp_path / "out", "--json")
    assert json.loads(result.stdout) == read_json(tmp_path / "out" / "evaluation.json")


@pytest.mark.usefixtures("no_page")
def test_scoring_again_is_counted_and_said(run, bundle: Path, source: Path, tmp_path: Path) -> None:
    run(bundle, source, "-o", tmp_path / "out")
    result = run(bundle, source, "-o", tmp_path / "out", "--operating-point", "sensitive")
    assert read_json(tmp_path / "out" / "evaluation.json")["scorings"] == 2
    assert read_json(tmp_path / "out" / "evaluation.json")["operating_point"]["threshold"] == 0.6
    assert "scored 2 times" in result.stderr


@pytest.mark.usefixtures("no_page")
def test_the_default_folder_is_under_runs(run, bundle: Path, source: Path, tmp_path: Path) -> None:
    run(bundle, source)
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-evaluate-made-up-test")


@pytest.mark.usefixtures("no_page")
def test_leaked_films_are_refused_before_anything_is_written(run, source: Path, tmp_path: Path) -> None:
    film = sorted(source.rglob("*.png"))[0]
    training = {
        **document()["training"],
        "films": [film_key(sha256_file(film))],
        "patients": [patient_key("person1_bacteria")],
    }
    seen = write_tiny_bundle(tmp_path / "seen", training=training).directory
    with pytest.raises(LeakageError, match=film.name) as caught:
        run(seen, source, "-o", tmp_path / "out")
    assert caught.value.exit_code == 2
    assert "(same image)" in str(caught.value)
    assert not (tmp_path / "out").exists()
    result = run(seen, source, "-o", tmp_path / "out", "--allow-leakage")
    found = read_json(tmp_path / "out" / "evaluation.json")
    assert found["contaminated"]
    assert read_json(tmp_path / "out" / "run.json")["results"]["leaked_films"] >= 1
    assert "CONTAMINATED" in result.stderr


@pytest.mark.usefixtures("no_page")
def test_costs_come_from_the_configuration(run, bundle: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "costs.toml").write_text("resamples = 200\n[costs]\nmissed_pneumonia = 25\n")
    run(bundle, source, "-o", tmp_path / "out", "--config", tmp_path / "costs.toml", "--prevalence", 0.1)
    found = read_json(tmp_path / "out" / "evaluation.json")
    assert found["costs"]["costs"] == {"missed_pneumonia": 25, "false_alarm": 1, "prevalence": 0.1}
    assert found["estimates"]["brier"]["method"].endswith("200 resamples")
    (tmp_path / "costs.toml").write_text("resample = 200\n")
    with pytest.raises(ConfigError, match="unknown key 'resample'"):
        run(bundle, source, "--config", tmp_path / "costs.toml")


@pytest.mark.usefixtures("no_page")
def test_a_wrong_operating_point_is_said_before_any_work(
    run, bundle: Path, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no operating point 'best'"):
        run(bundle, source, "--operating-point", "best")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_page")
def test_another_runs_folder_is_not_overwritten(run, bundle: Path, source: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "trained" / "run.json", {"command": "train"})
    with pytest.raises(InputError, match="another run"):
        run(bundle, source, "-o", tmp_path / "trained")
    assert read_json(tmp_path / "trained" / "run.json") == {"command": "train"}
