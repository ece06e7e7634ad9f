"""``pneumoscope train``: where its configuration comes from, what it prints, and how it goes on."""

import importlib.util
import json
import re

import pytest
import typer
from typer.testing import CliRunner

from pneumoscope.cli import terminal
from pneumoscope.cli import train as command
from pneumoscope.core.errors import ConfigError, InputError, MissingExtraError
from pneumoscope.core.files import read_json, write_json
from pneumoscope.data.splits import SplitConfig, split_dataset, split_file
from pneumoscope.learning import cross_validation, training
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.loop import EpochReport

from ..learning.phantoms import Killed, phantom_dataset

ESTIMATE = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 12, "method": "Wilson"}
SMALL = ("--network", "mlp", "--init", "random", "--size", 32, "--batch-size", 16, "--set", "threads=1")


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
        result = CliRunner().invoke(app, ["train", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def asked(monkeypatch):
    """What the learning layer is asked for; it learns nothing."""
    calls = []

    class Bundle:
        id = "run@0123"
        document = {"validation": {"auc": ESTIMATE}}  # noqa: RUF012

    def train(films, config, directory, listener):
        calls.append((films, config, directory))
        listener.stage("building")
        listener.step(1, 4, 50.0)
        listener.epoch(EpochReport(0, "full", 0.5, 0.4, 0.9, 0.8, 1e-3, 50.0, 0.02), 3)
        return Bundle

    def cross_validate(dataset, config, directory, folds, listener):
        calls.append((dataset, config, directory, folds))
        return {"estimates": {"auc": ESTIMATE}}

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(cross_validation, "cross_validate", cross_validate)
    return calls


def test_flags_win_over_the_file_and_the_file_over_defaults(run, asked, dataset, tmp_path):
    file = tmp_path / "train.toml"
    file.write_text('network = "cnn-9"\nepochs = 7\nsize = 64\n[augmentation]\nnoise = 0.1\n')
    run(dataset.directory, "--config", file, "--epochs", 2, "--set", "augmentation.noise=0.2",
        "--set", 'optimiser=sgd', "--set", "ema_decay=0.5", "-o", "out")  # fmt: skip
    _, config, directory = asked[0]
    assert config == TrainConfig(
        network="cnn-9", epochs=2, size=64, augmentation={"noise": 0.2}, optimiser="sgd", ema_decay=0.5
    )
    assert str(directory) == "out"


def test_a_run_without_a_folder_gets_one_with_its_time_and_network(run, asked, dataset):
    run(dataset.directory, "--network", "hf:microsoft/resnet-18")
    assert re.fullmatch(r"runs/\d{8}-\d{6}-hf-microsoft-resnet-18", str(asked[0][2]))


def test_people_see_epochs_and_a_table_and_what_to_do_next(run, asked, dataset):
    result = run(dataset.directory, "-o", "out")
    assert "epoch 1/3  train loss 0.5000  validation: loss 0.4000, AUC 0.9000" in result.stderr
    assert "0.8000 to 0.9500" in result.stdout
    assert "bundle: out/bundle (run@0123)" in result.stdout
    assert "next: pneumoscope report out" in result.stdout


def test_machines_get_one_json_object(run, asked, dataset):
    result = run(dataset.directory, "-o", "out", "--json")
    assert json.loads(result.stdout) == {"run": "out", "bundle": "run@0123", "validation": {"auc": ESTIMATE}}
    result = run(dataset.directory, "-o", "out", "--folds", 3, "--json")
    assert json.loads(result.stdout) == {"run": "out", "evaluation": {"estimates": {"auc": ESTIMATE}}}
    assert asked[1][3].count == 3


def test_cross_validation_has_its_own_title(run, asked, dataset):
    assert "cross-validation" in run(dataset.directory, "-o", "out", "--folds", 2).stdout


@pytest.mark.parametrize("text", ["noise", "=3", "Noise=3", "a..b=3", "a b=3"])
def test_an_option_that_is_no_pair_is_refused(run, text):
    with pytest.raises(InputError, match="not KEY=VALUE"):
        run("x", "--set", text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("epochs=3", 3), ("deterministic=true", True), ("optimiser=sgd", "sgd"), ('name="a b"', "a b"),
     ("unfreeze=[{epoch=0,blocks=1}]", [{"epoch": 0, "blocks": 1}])],
)  # fmt: skip
def test_values_of_options_are_toml_or_plain_words(text, value):
    assert command.parse_options([text]) == {text.partition("=")[0]: value}


def test_a_data_set_is_needed(run):
    with pytest.raises(InputError, match="no data set given"):
        run()


def test_missing_libraries_are_named(run, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(MissingExtraError, match=r"needs torch;.*pneumoscope\[train\]"):
        run("x")


def test_a_folder_is_imported_on_the_way(run, asked, dataset):
    run(dataset.root, "-o", "out")
    assert asked[0][0].dataset.hash == dataset.hash
    assert asked[0][0].dataset.directory.parts[0] == "datasets"


def stop_after(monkeypatch, step):
    """End the run like a kill would."""
    real = terminal.Display.step

    def stop(self, done, total, speed):
        real(self, done, total, speed)
        if done == step:
            raise Killed

    monkeypatch.setattr(terminal.Display, "step", stop)


@pytest.mark.usefixtures("quick_exports")
def test_a_stopped_run_goes_on_with_the_split_that_it_had(run, dataset, monkeypatch, tmp_path):
    split = split_dataset(dataset, SplitConfig(seed=3), name="other")
    split.save(split_file(dataset.directory, "other"))
    with monkeypatch.context() as patched:
        stop_after(patched, 4)
        with pytest.raises(Killed):
            run(dataset.directory, *SMALL, "--epochs", 2, "--split-name", "other", "-o", "out")
    result = run("--resume", "out", "--json")
    summary = json.loads(result.stdout)
    assert read_json(tmp_path / "out" / "run.json")["outcome"] == "done"
    bundle = read_json(tmp_path / "out" / "bundle" / "bundle.json")
    assert summary["bundle"] == bundle["id"]
    assert bundle["training"]["split"]["name"] == "other"
    assert bundle["training"]["films"] == sorted(
        s.sha256[:16] for s in split.samples(dataset, "train", "validation")
    )
    assert json.loads(run("--resume", "out", "--json").stdout) == summary, "a finished run is only read"


@pytest.mark.parametrize(
    "extra", [("--epochs", 9), ("--folds", 2), ("-o", "b"), ("films",), ("--set", "seed=1")]
)
def test_resuming_takes_no_other_wishes(run, extra):
    """They would be ignored: a run goes on as it began."""
    with pytest.raises(InputError, match="--resume"):
        run("--resume", "out", *extra)


def test_only_a_training_run_can_be_resumed(run, tmp_path):
    with pytest.raises(InputError, match="not a run directory"):
        run("--resume", tmp_path)
    write_json(tmp_path / "run.json", {"command": "evaluate", "config": {}, "results": {}})
    with pytest.raises(InputError, match="cannot be resumed"):
        run("--resume", tmp_path)


def test_a_split_that_is_not_there_is_an_error_not_a_new_split(run, dataset):
    """Only the default split is made on the way; a mistyped name must not become one."""
    with pytest.raises(InputError, match="no such split"):
        run(dataset.directory, *SMALL, "--split-name", "defualt", "-o", "out")
    assert not split_file(dataset.directory, "defualt").exists()


def test_errors_of_the_configuration_come_before_any_work(run, dataset, tmp_path):
    with pytest.raises(ConfigError, match="unknown key"):
        run(dataset.directory, "--set", "colour=3", "-o", "out")
    assert not (tmp_path / "out").exists()
