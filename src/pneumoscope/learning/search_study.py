"""The study of a hyper-parameter search: a database that several processes share, and its results as files.

Sampling follows from the seed and the trial's number alone, so that a search that goes on samples as an
unbroken one. A trial whose process died is noticed by its missing heartbeat and begun again; both are
Optuna's own.
"""

from __future__ import annotations

import fcntl
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import tomli_w
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from pneumoscope.core.errors import ConfigError, InputError
from pneumoscope.core.files import write_json, write_table, write_text
from pneumoscope.core.run_manifest import library_versions
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.search_space import SearchConfig, base_parameters, trial_config
from pneumoscope.learning.training import TrainingSet

STUDY_NAME = "pneumoscope"
HEARTBEAT = 10
"""Seconds between heartbeats; a busy machine delays them by seconds at most."""
GRACE = 60
"""Seconds without a heartbeat after which a trial counts as dead and is begun again."""
MOST_RETRIES = 2
"""Times that a trial whose process died is begun again; one that dies each time needs too much memory."""
DATABASE_PATIENCE = 60
"""Seconds to wait for another process's write to SQLite; a write takes milliseconds."""

FEWEST_FOR_IMPORTANCE = 8
"""Complete trials below which the best quarter is a single one or two, and their importance is chance."""

BEST_SHARE = 0.25
"""Share of complete trials that count as good ones. The paper's tenth (Watanabe, Bansal and Hutter 2023,
section 4) would be two or three of the tens of trials that a CPU can train."""

_FIGURES = ("log_loss", "auc")
_COLUMNS = ("number", "state", "value", *_FIGURES, "epochs", "seconds", "reason")


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
        ConfigError: the database holds a search of another kind or on other images.
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
    with _experimental():
        return RDBStorage(
            address,
            engine,
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=MOST_RETRIES),
        )


@contextmanager
def _experimental() -> Iterator[None]:
    """Heartbeats have been experimental in Optuna for five years."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


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
        what = "on other images or with another split of them"
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


def count_done(study: Study) -> int:
    """Trials that are complete or pruned."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def retry(study: Study, trial: FrozenTrial) -> None:
    """Queue a trial that the user interrupted, to be run again with its parameters."""
    with _experimental():
        RetryHeartbeatStaleTrialCallback(max_retry=MOST_RETRIES)(study, trial)


def first_number(trial: FrozenTrial) -> int:
    """The number of the trial that this one goes on with, the first of its retries; else its own."""
    with _experimental():
        earlier = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if earlier is None else earlier


def results(study: optuna.Study, config: SearchConfig, films: TrainingSet) -> dict[str, Any]:
    """The content of ``search.json``.

    Returns:
        ``search`` (the configuration), ``searched`` (its parameters), ``films``, ``inputs``, ``versions``,
        ``direction``, ``base`` (number of the trial of the base configuration, None when that lies outside
        the space), ``best`` (number of a trial, or None), ``importances`` (parameter -> share, by PED-ANOVA;
        empty with too few trials) and ``trials``: for each number, state (``complete``,
        ``pruned``, ``failed``, ``running``, ``waiting``), value, log_loss, auc, epochs, seconds, reason,
        folder, parameters and curve (value after each epoch, from the first).
    """
    trials = study.get_trials()  # once: other processes complete trials meanwhile
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    sign = 1 if study.direction is StudyDirection.MINIMIZE else -1
    best = min(complete, key=lambda trial: sign * (trial.value or 0), default=None)
    return {
        "search": config.model_dump(mode="json"),
        "searched": list(config.space.searched()),
        "films": {
            "dataset": films.dataset.name,
            "split": str(films.split.get("name", films.split.get("method", ""))),
            "training": len(films.training),
            "validation": len(films.validation),
            "validation_patients": len({sample.patient_id for sample in films.validation}),
            "validation_classes": dict(Counter(sample.label.value for sample in films.validation)),
        },
        "inputs": study.user_attrs["inputs"],
        "versions": {**library_versions(), "optuna": metadata.version("optuna")},
        "direction": config.direction,
        "base": 0
        if set(base_parameters(config.base, config.space)) == set(config.space.searched())
        else None,
        "best": None if best is None else best.number,
        "importances": _importances(study) if len(complete) >= FEWEST_FOR_IMPORTANCE else {},
        "trials": [_row(trial) for trial in trials],
    }


def folder_name(trial: FrozenTrial) -> str:
    """The folder of a trial; one that is run again goes on in the folder that it began in."""
    return f"trials/{first_number(trial)}"


def write_results(document: Mapping[str, Any], config: SearchConfig, directory: Path) -> None:
    """Write ``search.json``, ``trials.csv`` and, once a trial is complete, ``best.toml`` to ``directory``."""
    write_json(directory / "search.json", document)
    rows = [
        {name: row[name] for name in _COLUMNS}
        | {name: row["parameters"].get(name) for name in document["searched"]}
        for row in document["trials"]
    ]
    write_table(directory / "trials.csv", rows)
    if document["best"] is not None:
        best = document["trials"][document["best"]]
        run = trial_config(config.base, config.space, best["parameters"])
        note = (
            f"# Trial {best['number']} of {len(document['trials'])}: {config.objective} {best['value']:.5f}"
        )
        write_text(directory / "best.toml", f"{note} on validation images.\n{to_toml(run)}")


def to_toml(config: TrainConfig) -> str:
    """``config`` as TOML; keys that are None are left out, for TOML has no word for it."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    return value


def _row(trial: FrozenTrial) -> dict[str, Any]:
    seconds = trial.duration.total_seconds() if trial.duration else None
    curve = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
    return {
        "number": trial.number,
        "state": "failed" if trial.state is TrialState.FAIL else trial.state.name.lower(),
        "value": trial.value if trial.state is TrialState.COMPLETE else None,
        **{name: trial.user_attrs.get(name) for name in _FIGURES},
        "epochs": max(trial.intermediate_values, default=0),
        "seconds": None if seconds is None else round(seconds, 1),
        "reason": trial.user_attrs.get("reason"),
        "folder": folder_name(trial),
        "parameters": trial.params,
        "curve": curve,
    }


def _importances(study: optuna.Study) -> dict[str, float]:
    evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)
