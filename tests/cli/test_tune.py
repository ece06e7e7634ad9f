"""``pneumoscope tune``: what it asks for, what it prints, and that processes share a search."""

import json
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from pneumoscope.cli import tune as command
from pneumoscope.core.errors import ConfigError, InputError
from pneumoscope.core.files import read_json
from pneumoscope.learning import search as searching
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.search_space import SearchConfig, SearchSpace
from pneumoscope.workflows import training as workflow

from ..learning.phantoms import phantom_dataset
from ..reporting.test_search_page import ROWS, document


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return phantom_dataset(tmp_path_factory.mktemp("phantoms"))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command in an empty folder; errors come out as exceptions, as ``main`` gets them."""
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)

    def invoke(*arguments):
        result = CliRunner().invoke(app, ["tune", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the learning layer is asked for; it searches nothing."""
    calls = []

    def search(films, config, run, listener):
        calls.append((films, config, run))
        listener.trial(13, {"optimiser": "sgd", "learning_rate": 0.00123456})
        listener.result(ROWS[14], ROWS[13])
        return {**document(ROWS), "interrupted": len(calls) > 1}

    monkeypatch.setattr(searching, "search", search)
    return calls


def test_the_space_and_the_base_come_from_files_and_flags(run, asked, dataset, tmp_path):
    (tmp_path / "space.toml").write_text("size = [64]\n")
    (tmp_path / "base.toml").write_text('network = "cnn-9"\nepochs = 7\n')
    run(dataset.directory, "--config", "base.toml", "--set", "epochs=3", "--space", "space.toml",
        "--objective", "auc", "--pruner", "halving", "--startup-trials", 4, "--study", "x.db",
        "--hours", 0.5, "-o", "out")  # fmt: skip
    _, config, where = asked[0]
    assert config == SearchConfig(
        base=TrainConfig(network="cnn-9", epochs=3), space=SearchSpace(size=(64,)), objective="auc",
        pruner="halving", startup_trials=4,
    )  # fmt: skip
    assert (str(where.directory), where.study, where.trials, where.hours) == ("out", "x.db", None, 0.5)
    assert (tmp_path / "out" / "search.html").exists()


def test_without_a_limit_there_is_one_and_the_folder_is_always_the_same(run, asked, dataset):
    run(dataset.directory, "--json")
    assert (asked[0][2].trials, asked[0][2].hours) == (workflow.TRIALS, None)
    assert str(asked[0][2].directory) == f"tuning/{dataset.directory.name}"


def test_people_see_trials_and_what_to_do_next_and_machines_one_object(run, asked, dataset):
    result = run(dataset.directory, "-o", "out")
    assert "trial 13: optimiser sgd, learning_rate 0.00123" in result.stderr
    assert "trial 14 pruned: behind the others after epoch 1; best 0.35120 of trial 13" in result.stderr
    assert re.search(r"trial +┃ 13 +┃ 0 +┃ 1 +┃ 2 +┃ 3 ", result.stdout), "the best first"
    assert re.search(r"log loss +│ 0\.3512 +│ 0\.4000 +│", result.stdout)
    assert "trials: 14 complete, 1 pruned, 1 failed" in result.stdout
    assert "next: pneumoscope train DATASET --config out/best.toml" in result.stdout
    interrupted = run(dataset.directory, "-o", "out", "--json")
    assert interrupted.exit_code == 130
    summary = json.loads(interrupted.stdout)
    assert summary["trials"] == {"complete": 14, "pruned": 1, "failed": 1}
    assert (summary["best"]["number"], summary["best"]["value"]) == (13, 0.3512)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--space", "space.toml"), "unknown key 'colour'"),
        (("--space", "missing.toml"), "no such configuration file"),
        (("--objective", "accuracy"), "'objective'"),
        (("--set", "epochs=0"), "'epochs'"),
        (("--set", "init=random", "--space", "frozen.toml"), "builds on pretrained weights"),
        (("--split-name", "other"), "no such split"),
    ],
)
def test_a_mistake_is_told_before_any_work(run, dataset, tmp_path, arguments, message):
    (tmp_path / "space.toml").write_text("colour = [1]\n")
    (tmp_path / "frozen.toml").write_text('stage = ["frozen"]\n')
    with pytest.raises((ConfigError, InputError), match=message) as caught:
        run(dataset.directory, *arguments, "-o", "out")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out" / "trials").exists()


SPACE = """
optimiser = ["adamw"]
learning_rate = {low = 1e-3, high = 1e-2, log = true}
batch_size = [16]
size = [32]
ema_decay = [0.0]
dense_layers = [[]]
"""


@pytest.mark.slow
def test_processes_share_a_search(dataset, tmp_path):
    """Each draws other points; together they run as many trials as were asked for, or one more."""
    (tmp_path / "space.toml").write_text(SPACE)
    keys = ("network=cnn-small", "init=random", "epochs=1", "size=32", "threads=1", "learning_rate=0.005",
            "ema_decay=0", "batch_size=16")  # fmt: skip
    arguments = [
        sys.executable, "-c", "from pneumoscope.cli.main import main; main()", "tune", dataset.directory,
        *(word for key in keys for word in ("--set", key)), "--space", tmp_path / "space.toml",
        "--trials", 4, "--pruner", "none", "-o", tmp_path / "out", "--json",
    ]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen([*map(str, arguments)], cwd=tmp_path, **pipes) for _ in range(2)]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    found = read_json(tmp_path / "out" / "search.json")["trials"]
    assert {row["state"] for row in found} == {"complete"}
    assert 4 <= len(found) <= 5
    assert len({row["parameters"]["learning_rate"] for row in found}) == len(found)
    assert (tmp_path / "out" / "best.toml").exists()
