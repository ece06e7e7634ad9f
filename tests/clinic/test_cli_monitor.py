"""``monitor``, ``clinic retention``, ``clinic delete-study`` and ``data export-feedback`` from outside."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pneumoscope.cli.main import app
from pneumoscope.core.errors import InputError
from pneumoscope.data.dataset import Dataset
from pneumoscope_clinic.monitoring.alarms import AlarmCause, open_alarm
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Film, now
from tests.clinic.stores import add_bundle, add_feedback, add_film, make_store
from tests.films import write_film
from tests.tiny_bundle import write_tiny_bundle

run = CliRunner().invoke


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    return ["--data-dir", str(tmp_path / "data")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An installation with one examined image; the command line opens it anew."""
    made = make_store(tmp_path)
    add_bundle(made, at=now() - timedelta(days=2), location=str(tmp_path / "gone"))
    add_feedback(made, add_film(made, probability=0.9), "viral")
    yield made
    made.close()


def test_report_writes_its_files_and_prints_json(store: Store, tmp_path: Path, flags: list[str]) -> None:
    out = tmp_path / "report"
    result = run(app, ["monitor", "report", "--days", "7", "--out", str(out), "--json", *flags])
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert printed == json.loads((out / "monitoring.json").read_text())
    assert len(printed["days"]) == 7
    assert printed["positive_rate"]["value"] == 1.0
    assert (out / "monitoring.html").is_file()
    result = run(app, ["monitor", "report", "--out", str(out), *flags])
    assert "1 images in 30 days, 0 alarms open." in result.stdout


def test_check_says_what_changed(store: Store, flags: list[str]) -> None:
    add_film(store, examined=False, at=now() - timedelta(hours=1))
    result = run(app, ["monitor", "check", *flags])
    assert result.exit_code == 0
    assert "opened: queue" in result.stdout
    assert json.loads(run(app, ["monitor", "check", "--json", *flags]).stdout)["opened"] == []


def test_alarms_are_shown_and_acknowledged(store: Store, flags: list[str]) -> None:
    assert "No alarm is open." in run(app, ["monitor", "alarms", *flags]).stdout
    open_alarm(store, AlarmCause("queue", "The oldest image has waited for 20 minutes"))
    result = run(app, ["monitor", "alarms", "--acknowledge", "1", *flags])
    assert "queue, seen by terminal:" in result.stdout
    (row,) = json.loads(run(app, ["monitor", "alarms", "--json", *flags]).stdout)
    assert row["kind"] == "queue"
    result = run(app, ["monitor", "alarms", "--acknowledge", "5", *flags])
    assert isinstance(result.exception, InputError)


def test_the_baseline_is_said_and_restarted(store: Store, flags: list[str]) -> None:
    assert "399 images are still missing" in run(app, ["monitor", "baseline", *flags]).stdout
    assert "400 images are still missing" in run(app, ["monitor", "baseline", "--restart", *flags]).stdout


def test_retention_says_what_it_deletes(store: Store, tmp_path: Path, flags: list[str]) -> None:
    config = tmp_path / "clinic.toml"
    config.write_text("[privacy]\nretain_days = 1\n")
    add_film(store, at=now() - timedelta(days=2))
    options = ["--config", str(config), *flags]
    result = run(app, ["clinic", "retention", "--dry-run", *options])
    assert "1 studies, 1 images with their results would be deleted." in result.stdout
    assert "1 studies, 1 images" in run(app, ["clinic", "retention", *options]).stdout
    assert "Nothing deleted." in run(app, ["clinic", "retention", *options]).stdout


def test_one_study_is_deleted_by_its_id(store: Store, flags: list[str]) -> None:
    film = add_film(store)
    with store.read() as session:
        study = session.get_one(Film, film).study_id
    assert "1 studies" in run(app, ["clinic", "delete-study", study, *flags]).stdout
    result = run(app, ["clinic", "delete-study", study, *flags])
    assert isinstance(result.exception, InputError)


def test_confirmed_films_are_exported_through_the_sandbox(tmp_path: Path, flags: list[str]) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    store = make_store(tmp_path)
    add_bundle(store, bundle.id, location=str(bundle.directory))
    film = write_film(tmp_path / "film.png", 0.5).read_bytes()
    add_feedback(store, add_film(store, content=film), "normal", consent=True)
    out = str(tmp_path / "set")
    result = run(app, ["data", "export-feedback", out, *flags])
    assert isinstance(result.exception, InputError)
    assert "licence" in str(result.exception)
    result = run(app, ["data", "export-feedback", out, "--licence", "CC-BY-4.0", *flags])
    assert result.exit_code == 0, result.output
    assert "1 images are new, 0 went, 0 left out." in result.stdout
    (sample,) = Dataset.open(tmp_path / "set").samples
    assert (sample.label, sample.width, sample.height) == ("normal", 160, 120)
    store.close()
