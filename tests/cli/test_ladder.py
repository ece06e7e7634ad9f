"""``pneumoscope ladder``: flags, output, exit codes; the climb itself is tested in learning."""

import json

import pytest
import typer
from typer.testing import CliRunner

from pneumoscope.cli import ladder as command
from pneumoscope.core.errors import ConfigError, InputError
from pneumoscope.learning import ladder as learning

from ..learning.phantoms import phantom_dataset
from ..reporting.ladders import ladder_document

LADDER = """folds = 3
weights = { vgg16 = "elsewhere" }
[[rung]]
name = "mlp"
says = "a perceptron"
train = { network = "mlp" }
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return phantom_dataset(tmp_path_factory.mktemp("phantoms"))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)

    def invoke(*arguments):
        result = CliRunner().invoke(app, ["ladder", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def asked(monkeypatch):
    """What the learning layer is asked for; it answers with a ladder in which one rung failed."""
    calls = []

    def run_ladder(dataset, climb, directory, listener):
        calls.append((dataset, climb, directory))
        return ladder_document(90)

    monkeypatch.setattr(learning, "run_ladder", run_ladder)
    return calls


def test_flags_reach_the_climb(run, asked, dataset, tmp_path):
    (tmp_path / "own.toml").write_text(LADDER)
    run(dataset.directory, "--config", "own.toml", "--hours", 1.5, "--only", "mlp, cnn", "--folds", 2,
        "--init", "mobilenet-v2=weights/a=b", "--init", "hf:owner/name-1.0=folder", "-o", "out")  # fmt: skip
    found, climb, directory = asked[0]
    assert found.hash == dataset.hash
    assert (climb.hours, climb.only, str(directory)) == (1.5, ("mlp", "cnn"), "out")
    assert (climb.ladder.folds, climb.ladder.run_folds) == (3, 2)
    assert climb.ladder.weights == {
        "vgg16": "elsewhere", "mobilenet-v2": "weights/a=b", "hf:owner/name-1.0": "folder",
    }  # fmt: skip


def test_the_default_folder_is_found_again(run, asked, dataset):
    run(dataset.directory)
    assert str(asked[0][2]) == f"runs/ladder-{dataset.name}"


def test_people_see_a_table_the_ranking_and_what_was_cut(run, asked, dataset, tmp_path):
    result = run(dataset.directory, "-o", "out")
    assert result.exit_code == 2, "a rung could not be run"
    assert "Place 1: " in result.stdout
    assert "1.25" in result.stdout
    assert "Fold 3 was not run for all rungs" in result.stderr
    for name in ("ladder.html", "ladder.csv", "ladder.md"):
        assert (tmp_path / "out" / name).is_file()


def test_machines_get_the_json(run, asked, dataset):
    assert json.loads(run(dataset.directory, "-o", "out", "--json").stdout)["schema_version"] == 1


def test_a_ladder_without_failures_ends_well(run, monkeypatch, dataset):
    document = ladder_document(90)
    document["rungs"].pop()
    monkeypatch.setattr(learning, "run_ladder", lambda *arguments: document)
    assert run(dataset.directory, "-o", "out").exit_code == 0


@pytest.mark.parametrize("text", ["mobilenet-v2", "=folder", "vgg16="])
def test_weights_are_a_pair(run, dataset, text):
    with pytest.raises(InputError, match="not NETWORK=SOURCE"):
        run(dataset.directory, "--init", text)


def test_mistakes_come_before_any_film_is_read(run, tmp_path):
    (tmp_path / "own.toml").write_text("colour = 3\n" + LADDER)
    with pytest.raises(ConfigError, match="unknown key"):
        run("nowhere", "--config", "own.toml")
    with pytest.raises(ConfigError, match="run_folds"):
        run("nowhere", "--folds", 6)
