"""What a climbed ladder shows: figures of every rung on the same films, paired tests, ranking, what was cut.

In: the folder of a ladder, with one cross-validation a rung. Out: the content of ``ladder.json``, of which
tables and pages are views. Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pneumoscope.core.errors import InputError
from pneumoscope.core.files import read_json
from pneumoscope.core.run_manifest import library_versions
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.comparison import SIGNIFICANCE, Bools, Contestant, Pair, compare_pairs, ranking
from pneumoscope.evaluation.evaluate import EvaluationConfig, estimate_figures
from pneumoscope.evaluation.predictions import PredictionTable, concatenate, read_predictions
from pneumoscope.learning.ladder_config import LadderConfig, Rung
from pneumoscope.learning.ladder_costs import (
    SPEED_THREADS,
    bundle_costs,
    film_milliseconds,
    read_history,
    training_seconds,
)

SCHEMA_VERSION = 1

RANKED = ("roc_auc", "accuracy")
"""Figures that have a paired test, and so a ranking."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a climb ended: its budget in hours, or None; and why rungs failed, by name."""

    hours: float | None
    failures: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Answers:
    """The pooled answers of one rung, and the threshold of each fold."""

    table: PredictionTable
    decided: Bools
    thresholds: tuple[float, ...]


def fold_directory(directory: Path, rung: Rung, number: int) -> Path:
    """Where fold ``number`` (from 0) of a rung lies in a ladder's folder."""
    return directory / "rungs" / rung.name / f"fold-{number}"


def scored_folds(directory: Path, rung: Rung, ladder: LadderConfig) -> tuple[int, ...]:
    """Numbers of the folds of a rung whose films have been scored."""
    return tuple(
        number
        for number in range(ladder.folds)
        if (fold_directory(directory, rung, number) / "predictions" / "test.csv").is_file()
    )


def ladder_result(
    dataset: Dataset, ladder: LadderConfig, rungs: Sequence[Rung], directory: Path, outcome: Outcome
) -> dict[str, Any]:
    """The content of ``ladder.json``.

    Rungs are compared on the films of the folds that all of them have scored, decided at the operating points
    that each fold chose on its own validation films. Rungs without the first fold are listed, not compared.

    Raises:
        InputError: no rung has scored a fold.
    """
    scored = {rung.name: scored_folds(directory, rung, ladder) for rung in rungs}
    compared = [rung for rung in rungs if 0 in scored[rung.name]]
    if not compared:
        reasons = "; ".join(f"{name}: {why}" for name, why in outcome.failures.items())
        raise InputError(
            f"no rung has results yet{f' ({reasons})' if reasons else ''}",
            where=directory,
            remedy="give the ladder more time (--hours)",
        )
    shared = sorted(set.intersection(*(set(scored[rung.name]) for rung in compared)))
    answers = _on_common_films({rung.name: _answers(directory, rung, shared) for rung in compared})
    first = answers[compared[0].name].table
    estimates = {
        name: {key: asdict(value) for key, value in estimate_figures(one.table, one.decided).items()}
        for name, one in answers.items()
    }
    contestants = [Contestant(name, one.table.probability, one.decided) for name, one in answers.items()]
    pairs = compare_pairs(first.positive, contestants, first.patient_ids)
    planned = [(rung.name, rung.control) for rung in compared if rung.control in answers]
    controls = compare_pairs(first.positive, contestants, first.patient_ids, planned)
    rows = [
        {
            **_described(rung),
            "folds": list(scored[rung.name]),
            "failure": outcome.failures.get(rung.name),
            "estimates": estimates.get(rung.name),
            **(_measured(directory, rung, shared, answers[rung.name]) if rung in compared else {}),
        }
        for rung in rungs
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": {"name": dataset.name, "hash": dataset.hash, "films": len(dataset.samples)},
        "protocol": _protocol(ladder, rungs[0], shared, first),
        "base": dict(ladder.base),
        "rungs": rows,
        "pairs": [asdict(pair) for pair in pairs],
        "controls": [asdict(pair) for pair in controls],
        "ranking": {key: _places(key, estimates, pairs) for key in RANKED},
        "cut": [*_cut(ladder, scored, shared, outcome), *_from_scratch(rows)],
        "versions": library_versions(),
    }


def _answers(directory: Path, rung: Rung, folds: Sequence[int]) -> _Answers:
    """Out-of-fold answers of ``folds``, each decided at its own operating point."""
    tables, decided, thresholds = [], [], []
    for number in folds:
        fold = fold_directory(directory, rung, number)
        table = read_predictions(fold / "predictions" / "test.csv")
        threshold = read_json(fold / "evaluation" / "test.json")["operating_point"]["threshold"]
        tables.append(table)
        decided.append(table.probability >= threshold)
        thresholds.append(threshold)
    return _Answers(concatenate(tables), np.concatenate(decided), tuple(thresholds))


def _on_common_films(answers: Mapping[str, _Answers]) -> dict[str, _Answers]:
    """The same with the films that all rungs answered, in one order; a task may leave out coarse labels."""
    common = sorted(set.intersection(*(set(one.table.paths) for one in answers.values())))
    found = {}
    for name, one in answers.items():
        row_of = {path: row for row, path in enumerate(one.table.paths)}
        rows = np.array([row_of[path] for path in common], dtype=np.int64)
        found[name] = _Answers(one.table.select(rows), one.decided[rows], one.thresholds)
    return found


def _described(rung: Rung) -> dict[str, Any]:
    return {
        "name": rung.name,
        "says": rung.says,
        "group": rung.group,
        "control": rung.control,
        "network": rung.config.network,
        "task": rung.config.task.value,
        "changes": dict(rung.changes),
        "epochs": rung.config.epochs,
    }


def _measured(directory: Path, rung: Rung, folds: Sequence[int], answers: _Answers) -> dict[str, Any]:
    """Costs of a rung, from its first fold; its training time is the mean over ``folds``."""
    first = fold_directory(directory, rung, folds[0])
    seconds = [training_seconds(fold_directory(directory, rung, number)) for number in folds]
    return {
        **bundle_costs(first / "bundle"),
        "training_seconds": float(np.mean(seconds)),
        "milliseconds_per_film": film_milliseconds(first / "bundle"),
        "thresholds": list(answers.thresholds),
        "history": read_history(first),
    }


def _protocol(
    ladder: LadderConfig, rung: Rung, shared: Sequence[int], table: PredictionTable
) -> dict[str, Any]:
    return {
        "folds": ladder.folds,
        "shared_folds": [number + 1 for number in shared],
        "seed": rung.config.seed,
        "films": len(table),
        "patients": len(set(table.patient_ids)),
        "prevalence": float(table.positive.mean()),
        "operating_point": rung.config.default_operating_point,
        "significance": SIGNIFICANCE,
        "resamples": EvaluationConfig().resamples,
        "speed_threads": SPEED_THREADS,
    }


def _places(
    key: str, estimates: Mapping[str, Mapping[str, Mapping[str, Any]]], pairs: Sequence[Pair]
) -> list[list[str]]:
    """Names by place, best first; told apart by the corrected p value of the figure's own test."""
    names = list(estimates)
    index = {name: number for number, name in enumerate(names)}
    different = np.zeros((len(names), len(names)), dtype=bool)
    for pair in pairs:
        test = pair.auc if key == "roc_auc" else pair.accuracy
        i, j = index[pair.first], index[pair.second]
        different[i, j] = different[j, i] = test.p_corrected < SIGNIFICANCE
    values = [estimates[name][key]["value"] for name in names]
    return [[names[number] for number in place] for place in ranking(values, different)]


def _cut(
    ladder: LadderConfig, scored: Mapping[str, Sequence[int]], shared: Sequence[int], outcome: Outcome
) -> list[str]:
    """What was not run, and what was run but could not be compared, as sentences."""
    sentences = []
    wanted = range(ladder.run_folds)
    if ladder.run_folds < ladder.folds:
        were = "was" if ladder.run_folds == 1 else "were"
        sentences.append(f"{ladder.run_folds} of {ladder.folds} folds {were} asked for.")
    budget = f" (budget: {outcome.hours:g} h)" if outcome.hours is not None else ""
    for number in wanted:
        missing = [
            name for name, folds in scored.items() if number not in folds and name not in outcome.failures
        ]
        if missing:
            which = "all rungs" if len(missing) == len(scored) else ", ".join(missing)
            sentences.append(f"Fold {number + 1} was not run for {which}{budget}.")
    for name, why in outcome.failures.items():
        sentences.append(f"{name} could not be run: {why}.")
    unused = sorted({n for folds in scored.values() if 0 in folds for n in folds} - set(shared))
    for number in unused:
        sentences.append(f"Fold {number + 1} was run for some rungs only and is not in the figures.")
    return sentences


def _from_scratch(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rungs that were to start from published weights and could not, as sentences."""
    return [
        f"{row['name']} was trained from scratch, its initial weights are {row['initial_weights']}."
        for row in rows
        if row.get("initial_weights", "").startswith("random (")
    ]
