"""8-bit quantisation of a bundle: a quarter of the size, twice as fast on a CPU, calibrated anew.

Weights become int8 with one scale an output channel, activations uint8 with one scale a tensor (Jacob et al.,
Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018,
section 2; Krishnamoorthi, Quantizing Deep Convolutional Networks for Efficient Inference, 2018, section 3.1).
Input and outputs stay float32; what reads the logits from the feature map stays float32 altogether, so that a
class-activation map still shows where they came from.

Ranges come from training images; calibration, operating points and gate are fitted again on the validation
images, because a few decisions change when the network is rounded. Images that the bundle does not name as
its own are refused: others would choose its thresholds.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)

from pneumoscope.core.config import Config
from pneumoscope.core.errors import BundleError, ConfigError, DatasetError, InputError
from pneumoscope.core.files import atomic_path, sha256_file, write_json
from pneumoscope.core.records import FloatArray, Progress, Sample
from pneumoscope.core.run_manifest import RunManifest, earlier_run, library_versions
from pneumoscope.data.cache import PixelCache, build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.splits import TRAIN, VALIDATION, Split, split_file
from pneumoscope.evaluation.comparison import Contestant, compare_pairs
from pneumoscope.evaluation.decisions import Choices
from pneumoscope.evaluation.intervals import proportion_estimate
from pneumoscope.evaluation.operating_points import CostConfig
from pneumoscope.evaluation.predictions import (
    PredictionTable,
    concatenate,
    read_predictions,
    write_predictions,
)
from pneumoscope.evaluation.scoring import film_key, predict_films
from pneumoscope.imaging.session import open_session, run_session
from pneumoscope.inference.appearance import join, measure
from pneumoscope.inference.bundle import MODEL, Bundle, load_bundle, write_bundle
from pneumoscope.inference.prediction import BATCH
from pneumoscope.learning.cross_validation import FIXED_POINT, evaluation_of
from pneumoscope.learning.packaging import Scan, fit_answers
from pneumoscope.learning.training import TrainingSet

Batch = npt.NDArray[np.float32]

CALIBRATION_FILMS = 256
"""Training images that show the activations' ranges; 64 are enough too (docs/benchmarks.md)."""

METHOD = "static int8 quantisation"

_SCORED = Path("predictions") / "test.csv"


def own_films(
    bundle: Bundle, dataset: Dataset, *, run: Path | None = None, split: str | None = None
) -> TrainingSet:
    """The training and validation images of ``bundle``, checked against what it says of them.

    Args:
        bundle: whose images.
        dataset: where they are.
        run: folder of the run that trained it; None means the run that the bundle lies in.
        split: name of the data set's split that it was trained with; wins over the run that it lies in.

    Without a run or a split the bundle's own list of validation images is used.

    Raises:
        ConfigError: nothing says which images were training and which validation images.
        DatasetError: these are not the bundle's images, or there is no such split.
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
    """Part of each image of a training run."""
    file = run / "split.csv"
    if not file.is_file():
        raise ConfigError("not a training run (no split.csv)", where=run, expected="the folder of a run")
    with open(file, newline="", encoding="utf-8") as stream:
        return {row["path"]: row["part"] for row in csv.DictReader(stream)}


def _parts_by_hash(bundle: Bundle, dataset: Dataset) -> dict[str, str]:
    training = bundle.document["training"]
    if "validation_films" not in training:
        raise ConfigError(
            "the bundle does not say which of its images were validation images",
            where=bundle.id,
            remedy="name the run that trained it with --run, or the split of the data set with --split",
        )
    known, held = frozenset(training["films"]), frozenset(training["validation_films"])
    keys = {sample.path: film_key(sample.sha256) for sample in dataset.samples}
    return {path: VALIDATION if key in held else TRAIN for path, key in keys.items() if key in known}


def check_films(document: Mapping[str, Any], films: TrainingSet) -> None:
    """Refuse images that are not those that the bundle of ``document`` was trained and validated on.

    Raises:
        DatasetError: an image is missing, is another one, or was in the other part.
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
        f"these are not the images of {document['id']}: {len(named - given)} of its images are missing, "
        f"{len(given - named)} are others, {len(swapped & named & given)} were in the other part",
        where=films.dataset.directory,
        expected=f"its {training['counts']['training']} training and "
        f"{training['counts']['validation']} validation images",
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
        films: its own, as :func:`own_films` finds them; no other images are looked at.
        directory: where the new bundle goes.
        name: of the new bundle; None puts ``-int8`` behind that of the old one.
        progress: called with the number of images that went through a network.

    Raises:
        BundleError: the bundle is quantised already or adapted to a site, or ``directory`` holds something
            else.
        DatasetError: the images are not the bundle's own.
    """
    if bundle.document.get("derived_from", {}).get("method") == METHOD:
        raise BundleError("the bundle is quantised already", where=bundle.id, expected="one in float32")
    bundle.refuse_site("quantised")
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
        scan = partial(_scan, model, cache, count)
        scans = replace(scan(training), films=training), scan(films.validation)
        answers = fit_answers(
            bundle.task, Choices.of(bundle.document), scans, films.validation, films.dataset.hash
        )
        arrays = dict(answers.arrays)
        if "head_weight" in bundle.arrays:
            arrays["head_weight"] = bundle.arrays["head_weight"]
        document = {**bundle.document, **answers.document, "name": name or f"{bundle.document['name']}-int8"}
        del document["created"]
        document.pop("validation_protocol", None)
        document["derived_from"] = {
            "id": bundle.id,
            "method": METHOD,
            "calibration_films": len(shown),
            "versions": library_versions(),
        }
        return write_bundle(directory, model, document, arrays, bundle.preprocessing.segmenter)


class _Counter:
    """Counts the images of batches as they pass."""

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


def _scan(model: Path, cache: PixelCache, count: _Counter, samples: Sequence[Sample]) -> Scan:
    session = open_session(model)
    logits, pooled, seen = [], [], []
    for batch in count.through(cache.batches(samples, BATCH)):
        answers, features = run_session(session, batch)
        logits.append(answers)
        pooled.append(features.mean(axis=(2, 3)))
        seen.append(measure(batch))
    appearance, lungs = join(iter(seen)), cache.lung_shapes(samples)
    return Scan(np.concatenate(logits), np.concatenate(pooled), features.shape[1:], (), appearance, lungs)


def costs_of(document: Mapping[str, Any]) -> CostConfig:
    """What errors cost in the run that trained the bundle."""
    return CostConfig(**document["training"]["config"]["costs"])


def quantise_model(source: Path, films: Iterable[Batch], file: Path, *, keep_head: bool = True) -> None:
    """Write ``source`` in 8-bit integers.

    Ranges are the least and the largest value that the images give. Weights take 7 of their 8 bits, except
    where a convolution has one input channel: processors without VNNI add pairs of 8-bit products in 16
    bits, and full weights overflow there. Measured on two folds of the Guangzhou images with MobileNetV2: on
    such a processor (emulated) full weights change 4 in 100 decisions, these none more than elsewhere;
    clipped ranges (99.99th percentile, entropy) and signed activations are no better; one scale a tensor
    instead of a channel costs 0.05 to 0.12 of AUC. The bytes of ``file`` depend on ``source``, ``films`` and
    the versions of the libraries alone.

    Args:
        source: an ONNX file with input ``image`` and outputs ``logits`` and ``features``.
        films: batches (n, 1, S, S) float32 in [0, 1].
        file: written atomically.
        keep_head: leave the nodes between ``features`` and ``logits`` in float32; for a head that is small.
    """
    with tempfile.TemporaryDirectory() as folder, atomic_path(file) as temporary:
        prepared = Path(folder) / "prepared.onnx"
        # Symbolic shapes are for transformers with free axes; only the batch is free here.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        quantize_static(
            str(prepared),
            str(temporary),
            _Films(films),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_head(graph) if keep_head else [],
            extra_options={"TensorQuantOverrides": _full_range(graph)},
        )


class _Films(CalibrationDataReader):
    """Batches in the form that the quantiser asks for: one dictionary a call, then None."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches: Iterator[Batch] = iter(batches)

    def get_next(self) -> dict[str, Batch] | None:
        """The next batch, or None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def _head(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes behind the feature map, in the graph's (topological) order."""
    reached, names = {"features"}, []
    for node in graph.node:
        if reached & set(node.input):
            reached |= set(node.output)
            names.append(node.name)
    return names


def _full_range(graph: onnx.GraphProto) -> dict[str, list[dict[str, Any]]]:
    """All 8 bits for the weights of depthwise convolutions: no 16-bit sums of pairs there."""
    shapes = {item.name: item.dims for item in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == "Conv" and shapes[node.input[1]][1] == 1 < _groups(node):
            channel = {"quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": False}
            channels = [dict(channel) for _ in range(shapes[node.input[1]][0])]
            channels[0]["axis"] = 0
            found[node.input[1]] = channels
    return found


def _groups(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


class QuantiseConfig(Config):
    """What ``pneumoscope quantise`` is told: the new bundles' name; None: the old one and ``-int8``."""

    name: str | None = None


def quantise_folds(
    source: Path, dataset: Dataset, directory: Path, config: QuantiseConfig, progress: Progress | None = None
) -> dict[str, Any]:
    """Quantise each fold's bundle with the fold's own images, and score it on the fold's held-out images.

    Args:
        source: folder of a cross-validation; folds that are not finished are left out.
        dataset: its images.
        directory: for ``fold-0/bundle`` ..., ``predictions/cross-validation.csv``,
            ``evaluation/cross-validation.json`` and ``evaluation/comparison.json``; called again, finished
            folds are read.
        config: of every fold.
        progress: called with the number of folds done.

    Returns:
        The content of ``comparison.json``: figures of both networks on the same images, paired differences
        of AUC and accuracy with their intervals, and how many decisions changed. Pneumonia is called at the
        probability 0.5, which was set beforehand.

    Raises:
        InputError: ``source`` holds no finished fold.
        ConfigError: ``directory`` holds another run.
        DatasetError: the images are not those of the cross-validation.
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
    """Quantise one fold's bundle and score the images that its original was scored on, or read the scores."""
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
    """The images of ``table``, in its order."""
    there = {(sample.path, sample.sha256): sample for sample in dataset.samples}
    keys = list(zip(table.paths, table.sha256, strict=True))
    missing = [path for path, digest in keys if (path, digest) not in there]
    if missing:
        raise DatasetError(
            f"{len(missing)} images that the fold was scored on are missing, the first is {missing[0]}",
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
    assert changed is not None, "there are images"
    return {
        "films": len(before),
        "operating_point": asdict(FIXED_POINT),
        "estimates": {kind: evaluation["estimates"] for kind, evaluation in evaluations.items()},
        "int8_minus_float32": {"roc_auc": asdict(pair.auc), "accuracy": asdict(pair.accuracy)},
        "changed_decisions": asdict(changed),
    }
