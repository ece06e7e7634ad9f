"""A search on phantoms: what it writes, how it prunes, stops, goes on, and what its best is worth."""

import csv
import os
import signal

import pytest
from sqlalchemy import create_engine, text

from pneumoscope.core.config import load_config
from pneumoscope.core.errors import ConfigError
from pneumoscope.core.files import read_json
from pneumoscope.learning import search as module
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.loop import EpochReport
from pneumoscope.learning.search import SearchRun, search
from pneumoscope.learning.search_space import SearchConfig, SearchSpace, trial_config
from pneumoscope.learning.search_study import study_address
from pneumoscope.learning.training import train, training_set

from .phantoms import Killed, Listener, small_run

TRIALS = 5


class SearchListener(Listener):
    """Remembers trials and results too; interrupts as Ctrl-C does at a step of a trial, where asked to."""

    def __init__(self, interrupt_at=None, **moments):
        super().__init__(**moments)
        self.interrupt_at = interrupt_at
        self.trials, self.results = [], []

    def trial(self, number, point):
        self.trials.append(number)

    def result(self, row, best):
        self.results.append((row, best))

    def step(self, done, total, images_per_second):
        super().step(done, total, images_per_second)
        if (self.trials[-1], done) == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def films(dataset):
    return training_set(dataset)


def config(**changes):
    """Learning rates from sensible to absurd, so that some trials fall behind at once."""
    space = SearchSpace(
        optimiser=("adamw", "adam"), learning_rate={"low": 1e-3, "high": 30, "log": True},
        batch_size=(16, 24),
        augmentation_strength={"low": 0, "high": 1}, dense_layers=((), (16,)), size=(32,),
        ema_decay=(0.9, 0.0),
    )  # fmt: skip
    base = small_run(network="cnn-small", epochs=2, learning_rate=3e-3)
    return SearchConfig(**{"base": base, "space": space, "startup_trials": 2, **changes})


def history(directory, number):
    with open(directory / "trials" / str(number) / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def found(films, tmp_path_factory):
    directory = tmp_path_factory.mktemp("search")
    listener = SearchListener()
    return directory, search(films, config(), SearchRun(directory, trials=TRIALS), listener), listener


def rows(document, state):
    return [row for row in document["trials"] if row["state"] == state]


def test_trials_are_run_scored_and_written(found):
    directory, document, listener = found
    assert listener.trials == [0, 1, 2, 3, 4]
    assert {k: v for k, v in document.items() if k != "interrupted"} == read_json(directory / "search.json")
    assert document["interrupted"] is False
    complete = rows(document, "complete")
    assert document["best"] == min(complete, key=lambda row: row["value"])["number"]
    assert all(row["value"] == row["log_loss"] > 0 and 0 <= row["auc"] <= 1 for row in complete)
    assert all(row["epochs"] == 2 and len(row["curve"]) == 2 for row in complete)
    with open(directory / "trials.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["state"] for row in table] == [row["state"] for row in document["trials"]]
    assert float(table[0]["learning_rate"]) == 3e-3
    assert [row["number"] for row, _ in listener.results] == listener.trials
    assert listener.results[-1][1]["number"] == document["best"]


def test_trials_that_are_behind_are_ended(found):
    directory, document, _ = found
    pruned = rows(document, "pruned")
    assert pruned
    for row in pruned:
        assert row["value"] is None
        assert row["reason"] in ("behind the others after epoch 1", "diverged in epoch 1")
        assert row["epochs"] <= 1
        assert len(history(directory, row["number"])) == 1


def test_the_first_trial_is_the_base(found):
    directory, document, _ = found
    assert document["base"] == 0
    assert document["trials"][0]["parameters"]["augmentation_strength"] == 1.0
    assert TrainConfig(**read_json(directory / "trials" / "0" / "config.json")) == config().base


def test_heavy_files_do_not_stay(found):
    directory, document, _ = found
    for row in document["trials"]:
        folder = directory / "trials" / str(row["number"])
        assert {path.name for path in folder.iterdir()} == {"config.json", "history.csv"}


def test_the_best_configuration_trains_as_its_trial_did(found, films, tmp_path):
    directory, document, _ = found
    best = load_config(TrainConfig, directory / "best.toml")
    parameters = document["trials"][document["best"]]["parameters"]
    assert best == trial_config(config().base, config().space, parameters)
    train(films, best, tmp_path / "run")
    assert (tmp_path / "run" / "bundle" / "model.onnx").exists()
    with open(tmp_path / "run" / "history.csv", newline="") as stream:
        losses = [row["validation_loss"] for row in csv.DictReader(stream)]
    assert losses == [row["validation_loss"] for row in history(directory, document["best"])]


def test_the_same_search_goes_on(found, films):
    directory, document, _ = found
    listener = SearchListener()
    again = search(films, config(), SearchRun(directory, trials=TRIALS), listener)
    assert listener.trials == []
    assert again["trials"] == document["trials"]
    with pytest.raises(ConfigError, match=r"another objective;|another objective\b"):
        search(films, config(objective="auc"), SearchRun(directory, trials=TRIALS))


def test_an_interrupted_search_goes_on_where_it_was(films, tmp_path):
    # Steps 1 to 3 are the first epoch of trial 0, so its second epoch is interrupted.
    run = SearchRun(tmp_path, trials=1)
    before = signal.getsignal(signal.SIGINT)
    document = search(films, config(), run, SearchListener(interrupt_at=(0, 5)))
    assert signal.getsignal(signal.SIGINT) is before
    assert document["interrupted"] is True
    assert [row["state"] for row in document["trials"]] == ["failed", "waiting"]
    assert document["trials"][1]["parameters"] == document["trials"][0]["parameters"]
    assert (tmp_path / "trials" / "0" / "checkpoints" / "last.ckpt").exists()
    listener = SearchListener()
    document = search(films, config(), run, listener)
    assert [row["state"] for row in document["trials"]] == ["failed", "complete"]
    assert listener.steps[0][0] > 1, "the finished epoch was not trained again"
    assert len(history(tmp_path, 0)) == 2
    assert document["trials"][1]["folder"] == "trials/0"
    assert {path.name for path in (tmp_path / "trials" / "0").iterdir()} == {"config.json", "history.csv"}


def test_a_trial_whose_process_died_goes_on_where_it_was(films, tmp_path):
    """Killed in its second epoch; it is noticed once its last heartbeat is old."""
    run = SearchRun(tmp_path, trials=2)
    with pytest.raises(Killed):
        search(films, config(), run, SearchListener(stop_at_step=5))
    with create_engine(study_address(None, tmp_path)).begin() as database:
        database.execute(text("UPDATE trial_heartbeats SET heartbeat = '2026-01-01 00:00:00'"))
    listener = SearchListener()
    document = search(films, config(), run, listener)
    assert [row["state"] for row in document["trials"]][:2] == ["failed", "complete"]
    assert document["trials"][1]["folder"] == "trials/0"
    assert document["trials"][1]["parameters"] == document["trials"][0]["parameters"]
    assert listener.steps[0][0] > 1, "the finished epoch was not trained again"
    assert len(history(tmp_path, 0)) == 2


def fake(monkeypatch, play):
    """Trials that train nothing: ``play(trial number, listener)`` gives (log loss, AUC) or raises."""

    def fit_network(films, config, folder, watcher):
        return play(watcher.trial.number, watcher)

    def score(self, trial, fitted):
        trial.set_user_attr("log_loss", fitted[0])
        trial.set_user_attr("auc", fitted[1])
        return fitted[0] if self.config.objective == "log-loss" else fitted[1]

    monkeypatch.setattr(module, "fit_network", fit_network)
    monkeypatch.setattr(module._Trials, "_score", score)


def report(epoch, loss, auc=0.5):
    return EpochReport(epoch, "full", 0.1, loss, auc, 0.5, 1e-3, 10.0, 0.0)


def test_one_bad_trial_is_told_and_several_in_a_row_end_the_search(films, tmp_path, monkeypatch):
    def play(number, watcher):
        if number in (1, 3, 4, 5):
            raise RuntimeError(f"out of memory in {number}\nand much more")
        return 0.5, 0.9

    fake(monkeypatch, play)
    listener = SearchListener()
    with pytest.raises(RuntimeError, match="out of memory in 5"):
        search(films, config(), SearchRun(tmp_path, trials=20), listener)
    document = read_json(tmp_path / "search.json")
    assert [row["state"] for row in document["trials"]] == ["complete", "failed", "complete", *["failed"] * 3]
    assert document["trials"][1]["reason"] == "out of memory in 1"
    assert [row["state"] for row, _ in listener.results][:2] == ["complete", "failed"]


def test_failed_trials_do_not_count(films, tmp_path, monkeypatch):
    def play(number, watcher):
        if number % 2:
            raise ConfigError("not this one")
        return 0.5, 0.9

    fake(monkeypatch, play)
    document = search(films, config(), SearchRun(tmp_path, trials=3))
    assert [len(rows(document, state)) for state in ("complete", "failed")] == [3, 2]


def test_a_diverged_trial_is_ended(films, tmp_path, monkeypatch):
    def play(number, watcher):
        watcher.epoch(report(0, float("nan") if number == 1 else 0.7), 3)
        return 0.5, 0.9

    fake(monkeypatch, play)
    document = search(films, config(), SearchRun(tmp_path, trials=2))
    assert [row["state"] for row in document["trials"]] == ["complete", "pruned"]
    assert document["trials"][1]["reason"] == "diverged in epoch 1"
    assert document["trials"][1]["curve"] == []


def test_with_auc_the_highest_is_best_and_the_lowest_are_ended(films, tmp_path, monkeypatch):
    aucs = [0.8, 0.9, 0.6]

    def play(number, watcher):
        watcher.epoch(report(0, 9.0, aucs[number]), 2)
        return 0.5, aucs[number]

    fake(monkeypatch, play)
    document = search(films, config(objective="auc"), SearchRun(tmp_path, trials=3))
    assert [row["state"] for row in document["trials"]] == ["complete", "complete", "pruned"]
    assert (document["best"], document["trials"][1]["value"]) == (1, 0.9)


def test_the_last_epoch_is_never_in_vain(films, tmp_path, monkeypatch):
    def play(number, watcher):
        watcher.epoch(report(0, 0.5 + number), 1)
        return 0.5 + number, 0.9

    fake(monkeypatch, play)
    document = search(films, config(), SearchRun(tmp_path, trials=3))
    assert [row["state"] for row in document["trials"]] == ["complete"] * 3


def test_no_trial_begins_after_its_time(films, tmp_path):
    document = search(films, config(), SearchRun(tmp_path, hours=0))
    assert document["best"] is None
    assert [row["state"] for row in document["trials"]] == ["waiting"]
    assert not (tmp_path / "best.toml").exists()
