"""What 8 bits cost, out of fold: every film is scored by a network in 8 bits that never saw its patient.

In: a cross-validation and its data set. Out: the bundle of each fold in 8 bits, their pooled out-of-fold
predictions and evaluation, and the comparison with the networks in float32 on the same films.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pneumoscope.core.config import Config
from pneumoscope.core.errors import DatasetError, InputError
from pneumoscope.core.files import sha256_file, write_json
from pneumoscope.core.records import Progress, Sample
from pneumoscope.core.run_manifest import RunManifest, earlier_run
from pneumoscope.data.cache import build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.comparison import Contestant, compare_pairs
from pneumoscope.evaluation.intervals import proportion_estimate
from pneumoscope.evaluation.predictions import (
    PredictionTable,
    concatenate,
    read_predictions,
    write_predictions,
)
from pneumoscope.evaluation.scoring import predict_films
from pneumoscope.inference.bundle import load_bundle
from pneumoscope.learning.cross_validation import FIXED_POINT, evaluation_of
from pneumoscope.learning.quantised_bundle import costs_of, own_films, quantise

_SCORED = Path("predictions") / "test.csv"


class QuantiseConfig(Config):
    """What ``pneumoscope quantise`` is told: the new bundles' name; None: the old one and ``-int8``."""

    name: str | None = None


def quantise_folds(
    source: Path, dataset: Dataset, directory: Path, config: QuantiseConfig, progress: Progress | None = None
) -> dict[str, Any]:
    """Quantise the bundle of each fold with the fold's own films, and score it on the fold's held-out films.

    Args:
        source: folder of a cross-validation; folds that are not finished are left out.
        dataset: its films.
        directory: for ``fold-0/bundle`` ..., ``predictions/cross-validation.csv``,
            ``evaluation/cross-validation.json`` and ``evaluation/comparison.json``; called again, finished
            folds are read.
        config: of every fold.
        progress: called with the number of folds done.

    Returns:
        The content of ``comparison.json``: figures of both networks on the same films, the paired differences
        of AUC and accuracy with their intervals, and how many decisions changed. Pneumonia is called at the
        probability 0.5, which was set beforehand.

    Raises:
        InputError: ``source`` holds no finished fold.
        ConfigError: ``directory`` holds another run.
        DatasetError: the films are not those of the cross-validation.
    """
    folds = [file.parent.parent for file in sorted(source.glob(f"fold-*/{_SCORED}"))]
    if not folds:
        raise InputError(
            "no finished fold", where=source, expected="the folder of 'pneumoscope train DATASET --folds 5'"
        )
    inputs = {"dataset": dataset.hash, **{fold.name: sha256_file(fold / _SCORED) for fold in folds}}
    earlier_run(directory, "quantise", config, inputs)
    run = RunManifest(directory, "quantise", config.model_dump(mode="json"))
    for name, digest in inputs.items():
        run.add_input(name, digest)
    run.content["results"]["dataset_directory"] = str(dataset.directory.resolve())
    run.save()
    tables = []
    for number, fold in enumerate(folds):
        with run.stage(fold.name):
            tables.append(_score_fold(fold, dataset, directory / fold.name, config))
        if progress:
            progress(number + 1, len(folds))
    before = concatenate(read_predictions(fold / _SCORED) for fold in folds)
    after = concatenate(tables)
    costs = costs_of(load_bundle(folds[0] / "bundle").document)
    protocol = f"cross-validation by patient, {len(folds)} folds scored"
    evaluations = {
        kind: evaluation_of(table, dataset, costs, f"{protocol}, {kind}", FIXED_POINT)
        for kind, table in (("float32", before), ("int8", after))
    }
    comparison = _compare(before, after, evaluations)
    write_predictions(directory / "predictions" / "cross-validation.csv", after)
    write_json(directory / "evaluation" / "cross-validation.json", evaluations["int8"])
    write_json(directory / "evaluation" / "comparison.json", comparison)
    run.finish(comparison="evaluation/comparison.json")
    return comparison


def _score_fold(fold: Path, dataset: Dataset, directory: Path, config: QuantiseConfig) -> PredictionTable:
    """Quantise one fold's bundle and score the films that its original was scored on, or read the scores."""
    file = directory / _SCORED
    if file.exists():
        return read_predictions(file)
    bundle = load_bundle(fold / "bundle")
    films = own_films(bundle, dataset, run=fold)
    tested = _same_films(read_predictions(fold / _SCORED), dataset)
    twin = quantise(bundle, films, directory / "bundle", config.name)
    table = predict_films(twin, build_cache(dataset, twin.preprocessing), tested)
    protocol = f"test part of {bundle.document['training']['split']['method']}, int8"
    evaluation = evaluation_of(
        table, dataset, costs_of(bundle.document), protocol, twin.default_operating_point
    )
    write_json(directory / "evaluation" / "test.json", evaluation)
    write_predictions(file, table)
    return table


def _same_films(table: PredictionTable, dataset: Dataset) -> list[Sample]:
    """The films of ``table``, in its order."""
    there = {(sample.path, sample.sha256): sample for sample in dataset.samples}
    keys = list(zip(table.paths, table.sha256, strict=True))
    missing = [path for path, digest in keys if (path, digest) not in there]
    if missing:
        raise DatasetError(
            f"{len(missing)} films that the fold was scored on are missing, the first is {missing[0]}",
            where=dataset.directory,
            expected="the data set of the cross-validation",
        )
    return [there[key] for key in keys]


def _compare(
    before: PredictionTable, after: PredictionTable, evaluations: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    kinds = {"int8": after, "float32": before}
    decided = {kind: table.probability >= FIXED_POINT.threshold for kind, table in kinds.items()}
    contestants = [Contestant(kind, table.probability, decided[kind]) for kind, table in kinds.items()]
    (pair,) = compare_pairs(before.positive, contestants, before.patient_ids)
    changed = proportion_estimate(int((decided["int8"] != decided["float32"]).sum()), len(before))
    assert changed is not None, "there are films"
    return {
        "films": len(before),
        "operating_point": asdict(FIXED_POINT),
        "estimates": {kind: evaluation["estimates"] for kind, evaluation in evaluations.items()},
        "int8_minus_float32": {"roc_auc": asdict(pair.auc), "accuracy": asdict(pair.accuracy)},
        "changed_decisions": asdict(changed),
    }
