"""Cross-validation by patient: every image is scored once, by a network that never saw its patient.

The folder holds one run directory a fold, the pooled out-of-fold predictions and their evaluation. Stopped at
any moment, it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pneumoscope.core.errors import ConfigError
from pneumoscope.core.files import write_json
from pneumoscope.core.records import OperatingPoint, Sample
from pneumoscope.core.run_manifest import RunManifest, earlier_run
from pneumoscope.data.cache import build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.duplicates import find_duplicates
from pneumoscope.data.splits import Split, SplitConfig, hold_out, split_dataset, split_file
from pneumoscope.evaluation.evaluate import EvaluationConfig, Scoring, evaluate, evaluation_to_json
from pneumoscope.evaluation.operating_points import CostConfig
from pneumoscope.evaluation.predictions import (
    PredictionTable,
    concatenate,
    read_predictions,
    write_predictions,
)
from pneumoscope.evaluation.scoring import predict_films
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.loop import TrainingListener
from pneumoscope.learning.training import TrainingSet, train

VALIDATION_SHARE = 0.1
"""Share of each fold's training images that is held out, by patient, for stopping and calibration."""

FIXED_POINT = OperatingPoint("fixed", 0.5)
"""The threshold of the pooled figures: set beforehand, so that no fold's images choose it."""


@dataclass(frozen=True, slots=True)
class Folds:
    """Into how many parts the images are split, and which of them (from 0) are scored; None: all.

    Attributes:
        split: whose ``count`` parts are the folds; None makes parts by patient, stratified by class.
    """

    count: int = 5
    chosen: tuple[int, ...] | None = None
    split: Split | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The folds to score, rising."""
        return tuple(range(self.count)) if self.chosen is None else tuple(sorted(set(self.chosen)))

    @property
    def protocol(self) -> str:
        """What was done, in words."""
        how = f"over the split '{self.split.name}' ({self.split.method})" if self.split else "by patient"
        if len(self.numbers) == self.count:
            return f"{self.count}-fold cross-validation {how}"
        which = ", ".join(str(number + 1) for number in self.numbers)
        return f"fold{'s' if len(self.numbers) > 1 else ''} {which} of {self.count} {how}"


def cross_validate(
    dataset: Dataset,
    config: TrainConfig,
    directory: Path,
    folds: int | Folds = 5,
    listener: TrainingListener | None = None,
) -> dict[str, Any]:
    """Train and score a network a fold and evaluate their pooled out-of-fold predictions.

    Args:
        dataset: all images.
        config: of every fold.
        directory: for ``fold-0`` ..., ``split.csv``, ``predictions/cross-validation.csv`` and
            ``evaluation/cross-validation.json``.
        folds: their number, at least 2, or also which of them are wanted now and of which split; a later call
            with more of them trains what is missing.
        listener: told of stages, steps and epochs.

    Returns:
        The evaluation as JSON values. Its operating point is the probability 0.5, set beforehand; each fold's
        own operating points are in the fold's ``evaluation/test.json``.

    Raises:
        ConfigError: ``directory`` holds another run.
    """
    folds = folds if isinstance(folds, Folds) else Folds(folds)
    earlier = earlier_run(directory, "cross-validate", config, {"dataset": dataset.hash})
    if earlier:
        _check_same_folds(earlier["results"], folds, directory)
    run = RunManifest(directory, "cross-validate", config.model_dump(mode="json"), {"split": config.seed})
    run.add_input("dataset", dataset.hash)
    run.content["results"] = {
        "dataset_directory": str(dataset.directory.resolve()),
        "folds": folds.count,
        "split_name": folds.split.name if folds.split else "default",
    }
    run.save()
    with run.stage("split"):
        duplicates = find_duplicates(dataset)
        split = folds.split or split_dataset(
            dataset,
            SplitConfig(method="k-fold", folds=folds.count, seed=config.seed),
            duplicates,
            name="cross-validation",
        )
        split.save(directory / "split.csv")
    linked = [group.paths for group in duplicates]
    tables = []
    for number in folds.numbers:
        part = split.folds[number]
        others = split.samples(dataset, *(name for name in split.folds if name != part))
        training, validation = hold_out(others, VALIDATION_SHARE, config.seed, linked)
        facts = {"method": replace(folds, chosen=(number,)).protocol, "seed": config.seed}
        films = TrainingSet(dataset, training, validation, facts)
        if listener:
            listener.stage(f"fold {number + 1} of {folds.count}")
        with run.stage(part):
            tested = tuple(s for s in split.samples(dataset, part) if config.task.target(s.label) is not None)
            tables.append(_score_fold(films, tested, config, directory / part, listener))
    pooled = concatenate(tables)
    write_predictions(directory / "predictions" / "cross-validation.csv", pooled)
    evaluation = evaluation_of(pooled, dataset, config.costs, folds.protocol, FIXED_POINT)
    write_json(directory / "evaluation" / "cross-validation.json", evaluation)
    run.finish(evaluation="evaluation/cross-validation.json")
    return evaluation


def split_folds(dataset: Dataset, count: int, split_name: str = "default") -> Folds:
    """``count`` new folds by patient, or, for another name than ``default``, the parts of that split.

    Raises:
        DatasetError: there is no such split.
        ConfigError: it does not have ``count`` folds.
    """
    if split_name == "default":
        return Folds(count)
    split = Split.load(split_file(dataset.directory, split_name))
    if len(split.folds) != count:
        raise ConfigError(
            f"the split '{split_name}' has the parts {', '.join(split.names)}",
            expected=f"{count} folds",
            remedy=f"make it with 'pneumoscope data split --folds {count}', by k-fold or leave-cluster-out",
        )
    return Folds(count, split=split)


def _check_same_folds(earlier: Mapping[str, Any], folds: Folds, directory: Path) -> None:
    """Refuse to go on in ``directory`` with other folds than it was begun with."""
    found = earlier["folds"], earlier.get("split_name", "default")
    if found != (folds.count, folds.split.name if folds.split else "default"):
        what = f"of {found[0]} folds" + ("" if found[1] == "default" else f" over the split '{found[1]}'")
    elif folds.split and Split.load(directory / "split.csv").parts != folds.split.parts:
        what = f"over an earlier split '{folds.split.name}'"
    else:
        return
    raise ConfigError(
        f"the folder holds a cross-validation {what}", where=directory, remedy="choose another folder"
    )


def _score_fold(
    films: TrainingSet,
    tested: tuple[Sample, ...],
    config: TrainConfig,
    directory: Path,
    listener: TrainingListener | None,
) -> PredictionTable:
    """Train one fold and score its test images, or read what was scored before."""
    file = directory / "predictions" / "test.csv"
    if file.exists():
        return read_predictions(file)
    bundle = train(films, config, directory, listener)
    table = predict_films(bundle, build_cache(films.dataset, bundle.preprocessing), tested)
    point = bundle.default_operating_point
    protocol = f"test part of {films.split['method']}"
    evaluation = evaluation_of(table, films.dataset, config.costs, protocol, point)
    write_json(directory / "evaluation" / "test.json", evaluation)
    write_predictions(file, table)
    return table


def evaluation_of(
    table: PredictionTable, dataset: Dataset, costs: CostConfig, protocol: str, point: OperatingPoint
) -> dict[str, Any]:
    """The evaluation of ``table`` at ``point`` as JSON values.

    Args:
        table: predictions of images of ``dataset``.
        dataset: gives their subgroups.
        costs: of the errors.
        protocol: how the images were chosen, in words.
        point: where an image becomes positive.
    """
    evaluation = evaluate(
        table,
        point,
        samples=dataset.samples,
        scoring=Scoring(dataset.hash, protocol),
        config=EvaluationConfig(costs=costs),
    )
    return evaluation_to_json(evaluation, table, costs=costs)
