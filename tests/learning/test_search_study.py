"""The study: who may go on with it, what it samples, and what becomes of trials whose process died."""

import datetime
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from sqlalchemy import create_engine, text

from pneumoscope.core.errors import ConfigError, InputError
from pneumoscope.learning import search_study
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.search_space import SearchConfig, SearchSpace
from pneumoscope.learning.search_study import (
    MOST_RETRIES,
    count_done,
    first_number,
    open_study,
    retry,
    study_address,
)

# The tests ask and tell by themselves, without the loop that sends heartbeats.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Heartbeat of storage", "ignore:.*fail_stale_trials is experimental"
)

INPUTS = {"dataset": "ab", "split": "cd"}
SEARCH = SearchConfig(startup_trials=3)
SPACE = {"x": FloatDistribution(0, 1), "kind": CategoricalDistribution(("a", "b", "c"))}


@pytest.fixture
def address(tmp_path):
    return study_address(None, tmp_path)


@pytest.fixture
def study(address):
    """A study without its first trial, that of the base."""
    study = open_study(address, SEARCH, INPUTS)
    study.tell(study.ask(), 1.0)
    return study


def silence(study, address, trial, seconds=search_study.GRACE + 60):
    """Let ``trial`` look as if its process had died so many seconds ago, after one heartbeat."""
    study._storage.record_heartbeat(trial._trial_id)
    then = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    then -= datetime.timedelta(seconds=seconds)
    with create_engine(address).begin() as database:
        statement = "UPDATE trial_heartbeats SET heartbeat = :then WHERE trial_id = :trial"
        database.execute(text(statement), {"then": then, "trial": trial._trial_id})


def test_addresses(tmp_path):
    assert study_address(None, tmp_path) == f"sqlite:///{tmp_path}/study.db"
    assert study_address(str(tmp_path / "new/s.db"), tmp_path) == f"sqlite:///{tmp_path}/new/s.db"
    assert (tmp_path / "new").is_dir()
    assert study_address("postgresql://host/db", tmp_path) == "postgresql://host/db"


def test_the_first_trial_is_the_base(address):
    trial = open_study(address, SEARCH, INPUTS).ask()
    assert trial.suggest_float("learning_rate", 5e-5, 3e-3, log=True) == SEARCH.base.learning_rate
    assert trial.suggest_categorical("size", (112, 160, 224)) == SEARCH.base.size


def test_a_study_goes_on_with_its_own_search_only(address):
    first = open_study(address, SEARCH, INPUTS)
    assert len(open_study(address, SEARCH, INPUTS).trials) == len(first.trials) == 1
    others = [
        (SEARCH.model_copy(update={"base": TrainConfig(epochs=3)}), INPUTS, "another base.epochs;"),
        (SEARCH.model_copy(update={"space": SearchSpace(size=(64,))}), INPUTS, "another space.size;"),
        (SEARCH.model_copy(update={"objective": "auc"}), INPUTS, "another objective;"),
        (SEARCH, {**INPUTS, "split": "ef"}, "another split of them"),
    ]
    for search, inputs, message in others:
        with pytest.raises(ConfigError, match=message):
            open_study(address, search, inputs)


@pytest.mark.parametrize("kind", ["text", "folder", "driver"])
def test_what_is_no_database_is_refused(tmp_path, kind):
    file = tmp_path / "study.db"
    if kind == "text":
        file.write_text("not a database, but long enough to be looked at " * 30)
    elif kind == "folder":
        file.mkdir()
    address = "nosuch+driver://host/db" if kind == "driver" else study_address(str(file), tmp_path)
    with pytest.raises(InputError, match="the study cannot be opened"):
        open_study(address, SEARCH, INPUTS)


def drawn(study, count):
    points = []
    for _ in range(count):
        trial = study.ask(SPACE)
        study.tell(trial, trial.params["x"])
        points.append(tuple(trial.params.values()))
    return points


def test_a_study_that_goes_on_samples_as_an_unbroken_one(tmp_path):
    whole = study_address(str(tmp_path / "whole.db"), tmp_path)
    parts = study_address(str(tmp_path / "parts.db"), tmp_path)
    unbroken = drawn(open_study(whole, SEARCH, INPUTS), 7)
    broken = drawn(open_study(parts, SEARCH, INPUTS), 4) + drawn(open_study(parts, SEARCH, INPUTS), 3)
    assert broken == unbroken
    assert len(set(unbroken)) == 7
    other = SEARCH.model_copy(update={"base": TrainConfig(seed=1)})
    assert drawn(open_study(study_address(str(tmp_path / "o.db"), tmp_path), other, INPUTS), 7) != unbroken


def test_trials_at_the_same_time_draw_different_points(study, address):
    other = open_study(address, SEARCH, INPUTS)
    assert study.ask(SPACE).params != other.ask(SPACE).params


def begin(study):
    """Run a trial as the search does, which looks for dead ones first; what it was."""
    begun = []

    def objective(trial):
        for name, distribution in SPACE.items():
            trial._suggest(name, distribution)
        begun.append(trial)
        return 1.0

    study.optimize(objective, n_trials=1)
    return study.trials[begun[0].number]


def test_a_trial_without_heartbeats_is_failed_and_run_again(study, address):
    trial = study.ask(SPACE)
    silence(study, address, trial)
    assert count_done(study) == 1
    again = begin(study)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert again.params == trial.params
    assert first_number(again) == trial.number
    assert count_done(study) == 2, "failed trials do not count"


def test_a_trial_that_kills_its_process_each_time_is_given_up(study, address):
    trial = study.ask(SPACE)
    for _ in range(MOST_RETRIES):
        silence(study, address, trial)
        optuna.storages.fail_stale_trials(study)
        trial = study.ask(SPACE)
        assert first_number(study.trials[trial.number]) == 1
    silence(study, address, trial)
    assert first_number(begin(study)) == len(study.trials) - 1, "a new point"
    states = [t.state for t in study.trials]
    assert states.count(TrialState.FAIL) == 1 + MOST_RETRIES
    assert TrialState.WAITING not in states


def test_a_trial_with_heartbeats_is_left_alone(study, address):
    trial = study.ask(SPACE)
    silence(study, address, trial, seconds=0)
    begin(study)
    assert study.trials[trial.number].state is TrialState.RUNNING


def test_a_retried_trial_keeps_its_parameters_and_its_history(study):
    trial = study.ask(SPACE)
    study.tell(trial, state=TrialState.FAIL)
    retry(study, study.trials[trial.number])
    again = study.ask(SPACE)
    assert again.params == trial.params
    assert first_number(study.trials[again.number]) == trial.number
    assert first_number(study.trials[0]) == 0


@pytest.mark.parametrize(
    ("pruner", "kind"),
    [("median", optuna.pruners.MedianPruner), ("halving", optuna.pruners.SuccessiveHalvingPruner),
     ("none", optuna.pruners.NopPruner)],
)  # fmt: skip
def test_pruners(pruner, kind):
    assert type(search_study._pruner(SearchConfig(pruner=pruner))) is kind


def test_results_are_of_one_moment(study, monkeypatch):
    """A trial that another process completes while they are read is in the next results, best or not."""
    running = study.ask()
    earlier = study.get_trials()
    study.tell(running, 0.1)
    monkeypatch.setattr(study, "get_trials", lambda **_: earlier)
    films = SimpleNamespace(dataset=SimpleNamespace(name="phantoms"), split={}, training=(), validation=())
    document = search_study.results(study, SEARCH, films)
    assert document["best"] == 0
    assert [row["state"] for row in document["trials"]] == ["complete", "running"]
