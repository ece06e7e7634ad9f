"""Cross-validation by patient: every film is scored once, by a network that never saw its patient.

In: a data set, a configuration, the number of folds. Out: a folder with one run directory a fold, the pooled
out-of-fold predictions and their evaluation. Stopped at any moment, it goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pneumoscope.core.errors import ConfigError
from pneumoscope.core.files import write_json
from pneumoscope.core.records import OperatingPoint, Sample
from pneumoscope.core.run_manifest import RunManifest, earlier_run
from pneumoscope.data.cache import build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.duplicates import find_duplicates
from pneumoscope.data.splits import SplitConfig, hold_out, split_dataset
from pneumoscope.evaluation.evaluate import EvaluationConfig, Scoring, evaluate, evaluation_to_json
from pneumoscope.evaluation.predictions import (
    PredictionTable,
    concatenate,
    read_predictions,
    write_predictions,
)
from pneumoscope.evaluation.scoring import predict_films
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.fitting import TrainingListener
from pneumoscope.learning.training import TrainingSet, train

__all__ = ["cross_validate"]

VALIDATION_SHARE = 0.1
"""Share of each fold's training films that is held out, by patient, for stopping and calibration."""

FIXED_POINT = OperatingPoint("fixed", 0.5)
"""The threshold of the pooled figures: set beforehand, so that no fold's films choose it."""


def cross_validate(
    dataset: Dataset,
    config: TrainConfig,
    directory: Path,
    folds: int = 5,
    listener: TrainingListener | None = None,
) -> dict[str, Any]:
    """Train and score ``folds`` networks and evaluate their pooled out-of-fold predictions.

    Args:
        dataset: all films.
        config: of every fold.
        directory: for ``fold-0`` ..., ``split.csv``, ``predictions/cross-validation.csv`` and
            ``evaluation/cross-validation.json``.
        folds: at least 2.
        listener: told of stages, steps and epochs.

    Returns:
        The evaluation as JSON values. Its operating point is the probability 0.5, set beforehand; each fold's
        own operating points are in the fold's ``evaluation/test.json``.

    Raises:
        ConfigError: ``directory`` holds another run.
    """
    earlier = earlier_run(directory, "cross-validate", config, {"dataset": dataset.hash})
    if earlier and earlier["results"]["folds"] != folds:
        raise ConfigError(
            f"the folder holds a cross-validation of {earlier['results']['folds']} folds",
            where=directory,
            remedy="choose another folder",
        )
    run = RunManifest(directory, "cross-validate", config.model_dump(mode="json"), {"split": config.seed})
    run.add_input("dataset", dataset.hash)
    run.content["results"] = {"dataset_directory": str(dataset.directory.resolve()), "folds": folds}
    run.save()
    with run.stage("split"):
        duplicates = find_duplicates(dataset)
        split = split_dataset(
            dataset,
            SplitConfig(method="k-fold", folds=folds, seed=config.seed),
            duplicates,
            name="cross-validation",
        )
        split.save(directory / "split.csv")
    linked = [group.paths for group in duplicates]
    tables = []
    for number, part in enumerate(split.names):
        others = split.samples(dataset, *(name for name in split.names if name != part))
        training, validation = hold_out(others, VALIDATION_SHARE, config.seed, linked)
        facts = {"method": f"fold {number + 1} of {folds} by patient", "seed": config.seed}
        films = TrainingSet(dataset, training, validation, facts)
        if listener:
            listener.stage(f"fold {number + 1} of {folds}")
        with run.stage(part):
            tested = tuple(s for s in split.samples(dataset, part) if config.task.target(s.label) is not None)
            tables.append(_score_fold(films, tested, config, directory / part, listener))
    pooled = concatenate(tables)
    write_predictions(directory / "predictions" / "cross-validation.csv", pooled)
    evaluation = _evaluate(pooled, dataset, config, f"{folds}-fold cross-validation by patient", FIXED_POINT)
    write_json(directory / "evaluation" / "cross-validation.json", evaluation)
    run.finish(evaluation="evaluation/cross-validation.json")
    return evaluation


def _score_fold(
    films: TrainingSet,
    tested: tuple[Sample, ...],
    config: TrainConfig,
    directory: Path,
    listener: TrainingListener | None,
) -> PredictionTable:
    """Train one fold and score its test films, or read what was scored before."""
    file = directory / "predictions" / "test.csv"
    if file.exists():
        return read_predictions(file)
    bundle = train(films, config, directory, listener)
    table = predict_films(bundle, build_cache(films.dataset, bundle.preprocessing), tested)
    point = bundle.default_operating_point
    evaluation = _evaluate(table, films.dataset, config, f"test part of {films.split['method']}", point)
    write_json(directory / "evaluation" / "test.json", evaluation)
    write_predictions(file, table)
    return table


def _evaluate(
    table: PredictionTable, dataset: Dataset, config: TrainConfig, protocol: str, point: OperatingPoint
) -> dict[str, Any]:
    evaluation = evaluate(
        table,
        point,
        samples=dataset.samples,
        scoring=Scoring(dataset.hash, protocol),
        config=EvaluationConfig(costs=config.costs),
    )
    return evaluation_to_json(evaluation, table, costs=config.costs)
