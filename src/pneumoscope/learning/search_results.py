"""What a hyper-parameter search has found, as files: the JSON of all trials, a table, the best configuration.

In: a study and what it searched. Out: ``search.json`` (the truth, of which pages are views), ``trials.csv``
and ``best.toml``, which ``pneumoscope train --config`` takes as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import optuna
import tomli_w
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from pneumoscope.core.files import write_json, write_table, write_text
from pneumoscope.core.run_manifest import library_versions
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.search_space import SearchConfig, base_parameters, trial_config
from pneumoscope.learning.search_study import first_number
from pneumoscope.learning.training import TrainingSet

FEWEST_FOR_IMPORTANCE = 8
"""Complete trials below which the best quarter is a single one or two, and their importance is chance."""

BEST_SHARE = 0.25
"""Share of complete trials that count as good ones. The paper's tenth (Watanabe, Bansal and Hutter 2023,
section 4) would be two or three of the tens of trials that a CPU can train."""

_FIGURES = ("log_loss", "auc")
_COLUMNS = ("number", "state", "value", *_FIGURES, "epochs", "seconds", "reason")


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
    trials = study.get_trials()
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
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
        "best": study.best_trial.number if complete else None,
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
        write_text(directory / "best.toml", f"{note} on validation films.\n{to_toml(run)}")


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
