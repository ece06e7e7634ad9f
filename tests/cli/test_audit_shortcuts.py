"""``pneumoscope audit-shortcuts`` on phantoms: a bundle alone, and a cross-validation without heat maps."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from pneumoscope.cli import audits
from pneumoscope.core.errors import ConfigError, DatasetError, InputError
from pneumoscope.core.files import read_json, write_json
from pneumoscope.data.dataset import Dataset
from tests.films import write_film
from tests.learning.phantoms import phantom_dataset
from tests.tiny_bundle import write_tiny_bundle


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    audits.register(app)
    result = CliRunner().invoke(app, ["audit-shortcuts", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return phantom_dataset(tmp_path_factory.mktemp("phantoms"), count=24, size=96)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny").directory


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "audit.toml"
    file.write_text("resamples = 100\nmap_films = 2\nmin_agreement = -1.0\n")
    return file


@pytest.fixture(scope="module")
def audited(dataset, bundle, config, tmp_path_factory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("runs") / "audit"
    return run(bundle, dataset.directory, "--split", "all", "--config", config, "-o", out), out


def test_every_film_is_asked_about_and_everything_is_written(audited, dataset) -> None:
    result, out = audited
    document = read_json(out / "shortcuts.json")
    assert document["films"] + sum(document["without_lungs"].values()) == len(dataset.samples)
    assert document["probes"][0]["name"] == "unchanged"
    assert document["maps"]["films"] == 2
    assert document["maps"]["method"] == "class-activation"
    assert set(document["limits"]) == {
        "max_auc_without_lungs", "max_accuracy_loss", "min_energy_ratio", "min_agreement",
        "min_fidelity_gain",
    }  # fmt: skip
    with open(out / "films.csv", newline="") as stream:
        films = list(csv.DictReader(stream))
    assert len(films) == document["films"]
    assert all(0.08 < float(row["lungs"]) < 0.6 for row in films)
    assert {f"p_{row['name']}" for row in document["probes"]} <= set(films[0])
    assert (out / "contact-sheet.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
    assert "<html" in (out / "shortcuts.html").read_text()
    assert (out / "shortcuts.md").read_text().startswith("**")
    manifest = read_json(out / "run.json")
    assert (manifest["command"], manifest["outcome"]) == ("audit-shortcuts", "done")
    assert manifest["results"]["verdict"] == document["verdict"]
    assert result.exit_code == 0
    assert {"pass": "PASS", "fail": "FAIL", "open": "OPEN"}[document["verdict"]] in result.stdout


def test_the_same_seed_gives_the_same_figures(audited, dataset, bundle, config, tmp_path: Path) -> None:
    arguments = (bundle, dataset.directory, "--split", "all", "--config", config, "-o", tmp_path / "out")
    assert json.loads(run(*arguments, "--json").stdout) == read_json(audited[1] / "shortcuts.json")


def test_a_failed_audit_is_a_result_unless_strict(audited, dataset, bundle, config, tmp_path: Path) -> None:
    assert read_json(audited[1] / "shortcuts.json")["verdict"] == "fail"  # it reads brightness
    assert audited[0].exit_code == 0
    arguments = (bundle, dataset.directory, "--split", "all", "--films", 12, "--config", config)
    assert run(*arguments, "-o", tmp_path / "strict", "--strict").exit_code == 2


@pytest.mark.usefixtures("quick_exports")
def test_a_cross_validation_is_audited_out_of_fold(dataset, config, tmp_path: Path) -> None:
    from pneumoscope.learning.cross_validation import cross_validate
    from tests.learning.phantoms import small_run

    cross_validate(dataset, small_run(network="mlp", epochs=1, task="binary"), tmp_path / "cv", 2)
    out = tmp_path / "out"
    run(tmp_path / "cv", dataset.directory, "--config", config, "-o", out)
    document = read_json(out / "shortcuts.json")
    assert list(document["bundles"]) == ["fold-0", "fold-1"]
    assert "out of fold" in document["protocol"]
    verdicts = {check["name"]: check["verdict"] for check in document["checks"]}
    # Its maps are occlusion maps: there is no class-activation map to compare.
    assert verdicts["agreement"] == "open"
    assert verdicts["energy"] != "open"


def test_films_of_one_class_leave_the_verdict_open(bundle, config, tmp_path: Path) -> None:
    for number in range(2):
        write_film(tmp_path / "films" / "NORMAL" / f"IM-{number:04d}-0001.png", 0.5)
    run(bundle, tmp_path / "films", "--split", "all", "--config", config, "-o", tmp_path / "out")
    document = read_json(tmp_path / "out" / "shortcuts.json")
    assert document["maps"] is None
    assert document["giveaways"]["kinds"] == {}
    first = document["checks"][0]
    assert (first["name"], first["verdict"]) == ("lungs-black", "open")
    assert document["verdict"] in ("open", "fail")


def test_what_cannot_be_done_is_said(dataset, bundle, tmp_path: Path) -> None:
    write_json(tmp_path / "old" / "run.json", {"command": "train"})
    with pytest.raises(InputError, match="another run"):
        run(bundle, dataset.directory, "-o", tmp_path / "old")
    with pytest.raises(ConfigError, match="'map_films'"):
        run(bundle, dataset.directory, "--config", _write(tmp_path / "bad.toml", "map_films = 0\n"))
    for level in (100, 120):
        file = tmp_path / "films" / "NORMAL" / f"IM-{level:04d}-0001.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (64, 64), level).save(file)
    with pytest.raises(DatasetError, match="no pair of lungs"):
        run(bundle, tmp_path / "films", "--split", "all", "-o", tmp_path / "none")


def _write(file: Path, text: str) -> Path:
    file.write_text(text)
    return file
