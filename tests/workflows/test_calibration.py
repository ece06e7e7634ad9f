"""``calibrate``: new decisions on the same network, told apart by the id, and never on a bundle of a site."""

import json

import pytest
import typer
from typer.testing import CliRunner

from pneumoscope.cli import calibrate as command
from pneumoscope.core.errors import BundleError, InputError
from pneumoscope.core.records import Task
from pneumoscope.inference.bundle import load_bundle, write_bundle
from pneumoscope.workflows.calibration import PROTOCOL, calibrate
from tests.evaluation.test_decisions import cross_validation
from tests.tiny_bundle import document, write_tiny_bundle

COSTS = {"costs": {"missed_pneumonia": 10.0, "false_alarm": 1.0}}


@pytest.fixture
def bundle(tmp_path):
    training = {**document()["training"], "config": COSTS}
    return write_tiny_bundle(tmp_path / "tiny", Task.BINARY, training=training)


@pytest.fixture
def runs(tmp_path):
    return [cross_validation(tmp_path / name, name, **COSTS) for name in ("k-fold", "leave-cluster-out")]


def test_the_network_stays_and_the_decisions_are_new(bundle, runs, tmp_path):
    result = calibrate(bundle, runs, tmp_path / "new")
    new = load_bundle(tmp_path / "new")
    model = [(one.directory / "model.onnx").read_bytes() for one in (bundle, new)]
    assert model[0] == model[1]
    assert new.id == result.document["bundle"] != bundle.id
    assert new.operating_points.keys() == {"screening", "balanced", "rule-in", "cost"}
    assert new.document["calibration"]["judged"]["chosen"] == result.document["chosen"]
    assert new.document["validation"]["roc_auc"]["value"] == 1.0
    assert new.document["validation"]["roc_auc"]["n"] == 12
    assert new.document["validation_protocol"] == PROTOCOL
    assert [row["n"] for row in result.rows()] == [6, 6] * len(result.document["candidates"])
    again = calibrate(bundle, runs, tmp_path / "again")
    assert again.document["bundle"] == new.id


def test_a_bundle_of_a_site_is_refused(bundle, runs, tmp_path):
    entry = {"before": {"id": bundle.id}}
    changed = {**bundle.document, "history": [entry], "version": 2}
    site = write_bundle(tmp_path / "site", bundle.directory / "model.onnx", changed, bundle.arrays)
    with pytest.raises(BundleError, match="belongs to a site"):
        calibrate(site, runs, tmp_path / "new")
    with pytest.raises(InputError, match="nothing to calibrate on"):
        calibrate(bundle, [], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_prints_what_each_candidate_holds(bundle, runs, tmp_path):
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    words = ["calibrate", str(bundle.directory), *map(str, runs), "-o", str(tmp_path / "new")]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0
    assert "chosen:" in shown.stdout
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert told["bundle"] == load_bundle(tmp_path / "new").id
