"""``commission`` and ``rollback``: a verdict with its page and bundle, refused leaks, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from pneumoscope.cli import commission
from pneumoscope.core.errors import InputError, LeakageError
from pneumoscope.core.files import read_json
from pneumoscope.evaluation.scoring import film_key
from pneumoscope.inference.bundle import load_bundle
from tests.learning.phantoms import phantom_dataset
from tests.tiny_bundle import document, write_tiny_bundle


def run(*arguments: object) -> Result:
    app = typer.Typer()
    commission.register(app)
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory):
    return phantom_dataset(tmp_path_factory.mktemp("site"), count=40)


def test_a_site_gets_a_verdict_a_page_and_a_bundle_of_its_own(site, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    out = tmp_path / "out"
    result = run("commission", bundle.directory, site.directory, "--prevalence", 0.3, "-o", out)
    found = read_json(out / "commissioning.json")
    assert found["films"] == 40
    assert found["verdict"] == "NO-GO"  # the tiny network knows nothing about pneumonia
    assert f"NO-GO: {bundle.id} -> {bundle.id}+2" in result.stdout
    page = (out / "commissioning.html").read_text()
    for text in ("Commissioning: NO-GO", "Responsible reader", "30.0 %", bundle.id):
        assert text in page
    assert found["reasons"][0] in (page.lower() + "".join(found["reasons"]))
    assert "| AUC |" in (out / "commissioning.md").read_text()
    new = load_bundle(out / "bundle")
    assert new.document["version"] == 2
    assert new.document["calibration"]["local"]["prevalence"] == 0.3
    assert read_json(out / "run.json")["command"] == "commission"

    run("rollback", out / "bundle")
    back = load_bundle(out / "bundle")
    assert back.id == bundle.id
    assert back.document["calibration"] == bundle.document["calibration"]
    assert back.document["operating_points"] == bundle.document["operating_points"]
    with pytest.raises(InputError, match="first version"):
        run("rollback", out / "bundle")


def test_films_of_the_training_are_refused(site, tmp_path: Path) -> None:
    training = {**document()["training"], "films": [film_key(site.samples[0].sha256)]}
    bundle = write_tiny_bundle(tmp_path / "tiny", training=training)
    with pytest.raises(LeakageError, match=site.samples[0].path):
        run("commission", bundle.directory, site.directory, "--prevalence", 0.3, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_prevalence_that_is_none_and_another_runs_folder_are_refused(site, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    with pytest.raises(Exception, match="prevalence"):
        run("commission", bundle.directory, site.directory, "--prevalence", 1.5)
    (tmp_path / "run.json").write_text('{"command": "train"}')
    with pytest.raises(InputError, match="holds another run"):
        run("commission", bundle.directory, site.directory, "--prevalence", 0.5, "-o", tmp_path)
