"""The study of a hyper-parameter search: a database that outlives its processes and that several share.

In: the address of a database, the search and what it runs on. Out: an optuna study whose sampling follows
from the seed and the trial's number alone, and whose trials of dead processes are run again.
"""

from __future__ import annotations

import fcntl
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from pneumoscope.core.errors import ConfigError, InputError
from pneumoscope.learning.search_space import SearchConfig, base_parameters

STUDY_NAME = "pneumoscope"
HEARTBEAT = 10
"""Seconds between signs of life; a busy machine delays them by seconds at most."""
GRACE = 120
"""Seconds without a sign of life after which another machine's trial counts as dead, twelve beats."""
MOST_RETRIES = 2
"""Times that a trial whose process died is begun again; one that dies each time needs too much memory."""
DATABASE_PATIENCE = 60
"""Seconds to wait for another process's write to SQLite; a write takes milliseconds."""


def study_address(study: str | None, directory: Path) -> str:
    """The database URL of ``study``: a URL as it is, a file as SQLite; None is ``directory/study.db``."""
    if study and "://" in study:
        return study
    file = Path(study) if study else directory / "study.db"
    file.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{file.resolve()}"


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Wait until no other process of this machine holds ``directory``; the system lets go when one dies."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def open_study(address: str, search: SearchConfig, inputs: Mapping[str, str]) -> Study:
    """The study at ``address``, made when there is none; its first trial is the base configuration.

    Args:
        address: database URL.
        search: what is searched.
        inputs: hashes of data set and split, by name.

    Raises:
        ConfigError: the database holds a search of another kind or on other films.
        InputError: the database cannot be opened.
    """
    try:
        study = optuna.create_study(
            storage=_storage(address),
            study_name=STUDY_NAME,
            direction=search.direction,
            sampler=_NumberedSampler(search.base.seed, search.startup_trials),
            pruner=_pruner(search),
            load_if_exists=True,
        )
    except (SQLAlchemyError, ImportError) as error:
        raise InputError(
            f"the study cannot be opened ({str(error).splitlines()[0]})",
            where=address,
            expected="a new or existing SQLite file, or the URL of a database that SQLAlchemy can reach",
        ) from error
    if "search" in study.user_attrs:
        _check_same(study, search, inputs, address)
    else:
        study.set_user_attr("search", search.model_dump(mode="json"))
        study.set_user_attr("inputs", dict(inputs))
        study.enqueue_trial(base_parameters(search.base, search.space))
    return study


def _storage(address: str) -> RDBStorage:
    engine = {"connect_args": {"timeout": DATABASE_PATIENCE}} if address.startswith("sqlite") else None
    with warnings.catch_warnings():
        # Heartbeats have been experimental for five years and are what a killed trial is noticed by.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(
            address,
            engine,
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=retry,
        )


def _check_same(study: Study, search: SearchConfig, inputs: Mapping[str, str], address: str) -> None:
    stored = study.user_attrs["search"]
    try:
        same = SearchConfig(**stored) == search
    except ValidationError:
        same = False
    if not same:
        wanted = search.model_dump(mode="json")
        changed = [key for key in _flat(wanted) if _flat(stored).get(key) != _flat(wanted)[key]]
        what = f"with another {', '.join(changed)}"
    elif study.user_attrs["inputs"] != dict(inputs):
        what = "on other films or with another split of them"
    else:
        return
    raise ConfigError(
        f"the study holds a search {what}", where=address, remedy="choose another --study or --output"
    )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Two levels of tables as one: ``space.size``, ``base.epochs``."""
    pairs: dict[str, Any] = {}
    for name, value in values.items():
        pairs |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return pairs


def _pruner(search: SearchConfig) -> BasePruner:
    """Ends trials that are behind; not in their first quarter, where warm-up and frozen stages hold back."""
    if search.pruner == "median":
        return MedianPruner(search.startup_trials // 2, n_warmup_steps=search.base.epochs // 4)
    if search.pruner == "halving":
        return SuccessiveHalvingPruner(min_resource=max(1, search.base.epochs // 4), reduction_factor=3)
    return NopPruner()


class _NumberedSampler(BaseSampler):
    """Tree-structured Parzen estimator (Bergstra 2011), seeded anew for each trial with the trial's number.

    So a search that goes on samples as an unbroken one, and processes that share it never draw the same.
    ``multivariate`` models parameters jointly (Falkner 2018); ``constant_liar`` keeps processes from trying
    neighbouring points at the same time.
    """

    def __init__(self, seed: int, startup_trials: int) -> None:
        self.seed = seed
        self.startup_trials = startup_trials
        self.number = -1
        self.sampler = TPESampler()

    def _for(self, trial: FrozenTrial) -> TPESampler:
        if trial.number != self.number:
            self.number = trial.number
            self.sampler = TPESampler(
                n_startup_trials=self.startup_trials,
                multivariate=True,
                constant_liar=True,
                seed=int(np.random.SeedSequence((self.seed, trial.number)).generate_state(1)[0]),
            )
        return self.sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As TPE."""
        return self._for(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE."""
        return self._for(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As TPE."""
        return self._for(trial).sample_independent(study, trial, param_name, param_distribution)


def sign(trial: optuna.Trial) -> None:
    """Say in the study which process runs ``trial``."""
    trial.set_user_attr("process", [socket.gethostname(), os.getpid()])


def count_taken(study: Study) -> int:
    """Trials that are done (complete or pruned) or that a living process runs."""
    trials = study.get_trials(deepcopy=False)
    done = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    return done + sum(trial.state is TrialState.RUNNING and _lives(trial) for trial in trials)


def fail_dead_trials(study: Study) -> None:
    """Fail the trials whose process on this machine is gone, and have them run again.

    Those of other machines are noticed by their heartbeat, when optuna begins the next trial.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if "process" in trial.user_attrs and not _lives(trial):
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (UpdateFinishedTrialError, ValueError):
                continue  # another process was quicker
            retry(study, trial)


def _lives(trial: FrozenTrial) -> bool:
    """Whether the process of a running trial is there; one on another machine is believed to be."""
    if "process" not in trial.user_attrs:
        return False
    host, process = trial.user_attrs["process"]
    if host != socket.gethostname():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def retry(study: Study, trial: FrozenTrial) -> None:
    """Queue a stopped trial, of which ``trial`` is a copy, to be run again with its parameters."""
    trial.user_attrs = {name: value for name, value in trial.user_attrs.items() if name != "process"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        RetryHeartbeatStaleTrialCallback(max_retry=MOST_RETRIES)(study, trial)


def first_number(trial: FrozenTrial) -> int:
    """The number of the trial that this one goes on with, the first of its retries; else its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        earlier = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if earlier is None else earlier
