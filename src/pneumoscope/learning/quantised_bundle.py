"""From a bundle to its 8-bit twin: smaller, faster, and calibrated anew.

In: a bundle (or all bundles of a cross-validation) and the films that it was trained and validated on. Out: a
bundle whose network is quantised; ranges come from training films, calibration, operating points and gate are
fitted again to its own outputs on the validation films, because a few films change sides when the network is
rounded. Films that the bundle does not name as its own are refused: others would choose its thresholds.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pneumoscope.core.errors import BundleError, ConfigError, DatasetError
from pneumoscope.core.records import FloatArray, Progress
from pneumoscope.core.run_manifest import library_versions
from pneumoscope.data.cache import build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.splits import TRAIN, VALIDATION, Split, split_file
from pneumoscope.evaluation.operating_points import CostConfig
from pneumoscope.evaluation.scoring import film_key
from pneumoscope.evaluation.selective import SelectionConfig
from pneumoscope.inference.appearance import join, measure
from pneumoscope.inference.bundle import MODEL, Bundle, write_bundle
from pneumoscope.inference.prediction import BATCH
from pneumoscope.inference.session import open_session, run_session
from pneumoscope.learning.packaging import Choices, Scan, fit_answers
from pneumoscope.learning.quantisation import quantise_model
from pneumoscope.learning.training import TrainingSet

CALIBRATION_FILMS = 256
"""Training films that show the activations' ranges; 64 are enough too (docs/benchmarks.md)."""

METHOD = "static int8 quantisation"


def own_films(
    bundle: Bundle, dataset: Dataset, *, run: Path | None = None, split: str | None = None
) -> TrainingSet:
    """The training and validation films of ``bundle``, checked against what it says of them.

    Args:
        bundle: whose films.
        dataset: where they are.
        run: folder of the run that trained it; None means the run that the bundle lies in.
        split: name of the data set's split that it was trained with; wins over the run that it lies in.

    Without a run or a split the bundle's own list of validation films is used.

    Raises:
        ConfigError: nothing says which films were training and which validation films.
        DatasetError: these are not the bundle's films, or there is no such split.
    """
    inside = bundle.directory.parent
    if split is not None:
        parts: Mapping[str, str] = Split.load(split_file(dataset.directory, split)).parts
    elif run is not None or (inside / "split.csv").is_file():
        parts = _read_parts(run or inside)
    else:
        parts = _parts_by_hash(bundle, dataset)
    usable = [sample for sample in dataset.samples if bundle.task.target(sample.label) is not None]
    films = TrainingSet(
        dataset,
        tuple(sample for sample in usable if parts.get(sample.path) == TRAIN),
        tuple(sample for sample in usable if parts.get(sample.path) == VALIDATION),
        bundle.document["training"]["split"],
    )
    check_films(bundle.document, films)
    return films


def _read_parts(run: Path) -> dict[str, str]:
    """Part of each film of a training run."""
    file = run / "split.csv"
    if not file.is_file():
        raise ConfigError("not a training run (no split.csv)", where=run, expected="the folder of a run")
    with open(file, newline="", encoding="utf-8") as stream:
        return {row["path"]: row["part"] for row in csv.DictReader(stream)}


def _parts_by_hash(bundle: Bundle, dataset: Dataset) -> dict[str, str]:
    training = bundle.document["training"]
    if "validation_films" not in training:
        raise ConfigError(
            "the bundle does not say which of its films were validation films",
            where=bundle.id,
            remedy="name the run that trained it with --run, or the split of the data set with --split",
        )
    known, held = frozenset(training["films"]), frozenset(training["validation_films"])
    keys = {sample.path: film_key(sample.sha256) for sample in dataset.samples}
    return {path: VALIDATION if key in held else TRAIN for path, key in keys.items() if key in known}


def check_films(document: Mapping[str, Any], films: TrainingSet) -> None:
    """Refuse films that are not those that the bundle of ``document`` was trained and validated on.

    Raises:
        DatasetError: a film is missing, is another one, or was in the other part.
    """
    training = document["training"]
    named = set(training["films"])
    given = {film_key(sample.sha256) for sample in (*films.training, *films.validation)}
    held = {film_key(sample.sha256) for sample in films.validation}
    counts = {"training": len(films.training), "validation": len(films.validation)}
    swapped = held ^ set(training.get("validation_films", held))
    if given == named and counts == training["counts"] and not swapped:
        return
    raise DatasetError(
        f"these are not the films of {document['id']}: {len(named - given)} of its films are missing, "
        f"{len(given - named)} are others, {len(swapped & named & given)} were in the other part",
        where=films.dataset.directory,
        expected=f"its {training['counts']['training']} training and "
        f"{training['counts']['validation']} validation films",
        remedy="give the data set that it was trained on, and its run with --run or its split with --split",
    )


def quantise(
    bundle: Bundle,
    films: TrainingSet,
    directory: Path,
    name: str | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Write the 8-bit twin of ``bundle``.

    Args:
        bundle: in float32.
        films: its own, as :func:`own_films` finds them; no other films are looked at.
        directory: where the new bundle goes.
        name: of the new bundle; None puts ``-int8`` behind that of the old one.
        progress: called with the number of films that went through a network.

    Raises:
        BundleError: the bundle is quantised already, or ``directory`` holds something else.
        DatasetError: the films are not the bundle's own.
    """
    if bundle.document.get("derived_from", {}).get("method") == METHOD:
        raise BundleError("the bundle is quantised already", where=bundle.id, expected="one in float32")
    check_films(bundle.document, films)
    cache = build_cache(films.dataset, bundle.preprocessing)
    # Drawn anew with a fixed seed: the data set's order has the classes one after the other.
    order = np.random.default_rng(0).permutation(len(films.training))
    training = [films.training[position] for position in order]
    shown = training[:CALIBRATION_FILMS]
    count = _Counter(progress, len(shown) + len(training) + len(films.validation))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / MODEL
        quantise_model(
            bundle.directory / MODEL,
            count.through(cache.batches(shown, BATCH)),
            model,
            keep_head="head_weight" in bundle.arrays,
        )
        scans = (
            replace(_scan(model, count.through(cache.batches(training, BATCH))), films=training),
            _scan(model, count.through(cache.batches(films.validation, BATCH))),
        )
        answers = fit_answers(
            bundle.task, _choices(bundle.document), scans, films.validation, films.dataset.hash
        )
        arrays = dict(answers.arrays)
        if "head_weight" in bundle.arrays:
            arrays["head_weight"] = bundle.arrays["head_weight"]
        document = {**bundle.document, **answers.document, "name": name or f"{bundle.document['name']}-int8"}
        del document["created"]
        document["derived_from"] = {
            "id": bundle.id,
            "method": METHOD,
            "calibration_films": len(shown),
            "versions": library_versions(),
        }
        return write_bundle(directory, model, document, arrays)


class _Counter:
    """Counts the films of batches as they pass."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress = progress
        self.total = total
        self.done = 0

    def through(self, batches: Iterator[FloatArray]) -> Iterator[FloatArray]:
        """The batches, unchanged."""
        for batch in batches:
            yield batch
            self.done += len(batch)
            if self.progress:
                self.progress(self.done, self.total)


def _scan(model: Path, batches: Iterator[FloatArray]) -> Scan:
    session = open_session(model)
    logits, pooled, seen = [], [], []
    for batch in batches:
        answers, features = run_session(session, batch)
        logits.append(answers)
        pooled.append(features.mean(axis=(2, 3)))
        seen.append(measure(batch))
    return Scan(
        np.concatenate(logits), np.concatenate(pooled), features.shape[1:], appearance=join(iter(seen))
    )


def costs_of(document: Mapping[str, Any]) -> CostConfig:
    """What errors cost in the run that trained the bundle."""
    return CostConfig(**document["training"]["config"]["costs"])


def _choices(document: Mapping[str, Any]) -> Choices:
    return Choices(
        costs_of(document),
        document["default_operating_point"],
        document["gate"]["false_refusal_rate"],
        SelectionConfig(**document["training"]["config"].get("selection", {})),
    )
