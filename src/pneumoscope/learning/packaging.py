"""From a fitted network to a bundle: calibration, operating points, gate and provenance.

Thresholds, calibration and gate come from the validation images and from nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pneumoscope.core.records import OperatingPoint, Sample, Task
from pneumoscope.core.run_manifest import library_versions
from pneumoscope.evaluation.decisions import Choices, View, fit_decisions, point_of
from pneumoscope.evaluation.evaluate import EvaluationConfig, Scoring, evaluate, evaluation_to_json
from pneumoscope.evaluation.predictions import PredictionTable, tabulate
from pneumoscope.evaluation.scoring import film_key, patient_key
from pneumoscope.imaging.preprocessing import described
from pneumoscope.inference.appearance import Appearance, fit_appearance, join, measure
from pneumoscope.inference.bundle import Bundle, write_bundle
from pneumoscope.inference.gate import fit_gate, fit_lung_shapes
from pneumoscope.inference.neighbours import fit_neighbours
from pneumoscope.inference.prediction import calibrated_probabilities
from pneumoscope.inference.selection import bounds_of
from pneumoscope.learning.batches import Films, plain_batches
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.export import export_onnx
from pneumoscope.learning.networks import Network

GATE_TRAINING_FILMS = 2000
"""Training images, the first of the scan, that the gate's Gaussian is fitted to: enough for it."""

LEAST_THUMBNAILS = 8
"""Training images without which nothing is said about how an image looks."""

INTENDED_USE = (
    "Research and decision support on frontal chest radiographs of children, beside a reader who decides. "
    "Not a medical device; not for use without a radiologist or paediatrician."
)
LIMITATIONS = (
    "Trained on films of one hospital; other devices, ages and diseases may shift its answers.",
    "The films came without clinical histories, and etiology labels are noisy.",
    "It tells pneumonia from normal films only; it does not look for any other finding.",
)


@dataclass(frozen=True)
class Scan:
    """A network's raw answers: logits (N, K) and globally pooled features (N, C), float32.

    ``films`` are those of the rows; a scan of training images that names them gives the bundle nearest cases.
    ``appearance`` is what the images look like, ``lungs`` the shapes of their lungs (N, F); with them the
    gate looks at pictures and lungs, too.
    """

    logits: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]
    feature_shape: tuple[int, int, int]
    films: Sequence[Sample] = ()
    appearance: Appearance | None = None
    lungs: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Provenance:
    """What the bundle says of its training.

    Attributes:
        training, validation: the images, in the order of their scans.
        dataset: name, hash and split, as the bundle keeps them.
        initial_weights: what the network started from, in words.
    """

    training: Sequence[Sample]
    validation: Sequence[Sample]
    dataset: Mapping[str, Any]
    initial_weights: str


@dataclass(frozen=True)
class Answers:
    """What validation images make of a network's outputs.

    Attributes:
        document: the keys of ``bundle.json`` that follow from them: calibration, operating_points,
            default_operating_point, selection, etiology, gate, validation.
        arrays: the gate's.
        table: the calibrated predictions of the validation images; evaluation: of these, as JSON values.
    """

    document: dict[str, Any]
    arrays: dict[str, npt.NDArray[np.float32]]
    table: PredictionTable
    evaluation: dict[str, Any]


def fit_answers(
    task: Task, choices: Choices, scans: tuple[Scan, Scan], validation: Sequence[Sample], dataset_hash: str
) -> Answers:
    """Calibration, operating points, abstention and gate of a network, and their validation figures.

    Args:
        task: what the network tells apart.
        choices: costs, default operating point, rates of the gate and of abstention.
        scans: of training images in random order and of all validation images.
        validation: the validation images, in the order of their scan.
        dataset_hash: of the data set that they come from.
    """
    training_scan, validation_scan = scans
    targets = np.array([task.target(sample.label) for sample in validation])
    patients = tuple(sample.patient_id for sample in validation)
    logits = validation_scan.logits
    gate, arrays = _gate(training_scan, validation_scan, choices.false_refusal_rate)
    decisions = fit_decisions(task, choices, View("validation", logits, targets, patients))
    document = {**decisions, "gate": gate}
    probabilities = calibrated_probabilities(logits, decisions["calibration"])
    table = tabulate(validation, task, logits, probabilities, bounds_of(document))
    evaluation = _evaluate(table, point_of(decisions), choices, validation, dataset_hash)
    document["validation"] = evaluation["estimates"]
    if training_scan.films:
        document["neighbours"], codes = _neighbours(task, training_scan)
        arrays.update(codes)
    return Answers(document, arrays, table, evaluation)


def _gate(
    training: Scan, validation: Scan, rate: float
) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    gate, arrays = fit_gate(training.features[:GATE_TRAINING_FILMS], validation.features, rate)
    if training.appearance and validation.appearance and len(training.logits) >= LEAST_THUMBNAILS:
        gate["appearance"], thumbnails = fit_appearance(training.appearance, validation.appearance, rate)
        arrays.update(thumbnails)
    if training.lungs is not None and validation.lungs is not None and training.lungs.size:
        gate["lungs"], shapes = fit_lung_shapes(training.lungs, validation.lungs, rate)
        arrays.update(shapes)
    return gate, arrays


def _neighbours(task: Task, training: Scan) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    targets = [task.target(sample.label) for sample in training.films]
    keys = [film_key(sample.sha256) for sample in training.films]
    return fit_neighbours(training.features, keys, [target for target in targets if target is not None])


def scan(network: Network, films: Films, batch_size: int = 64) -> Scan:
    """Run ``network`` over ``films`` without augmentation."""
    network.eval()
    logits, pooled, seen = [], [], []
    shape = (0, 0, 0)
    with torch.inference_mode():
        for batch in plain_batches(films, batch_size):
            answers, features = network(batch)
            logits.append(answers.float())
            pooled.append(features.float().mean(dim=(2, 3)))
            shape = tuple(features.shape[1:])
            seen.append(measure(batch.numpy()))
    appearance = join(iter(seen))
    return Scan(torch.cat(logits).numpy(), torch.cat(pooled).numpy(), shape, (), appearance, films.lungs)


def package(
    network: Network,
    config: TrainConfig,
    scans: tuple[Scan, Scan],
    provenance: Provenance,
    directory: Path,
) -> tuple[Bundle, PredictionTable, dict[str, Any]]:
    """Write the bundle of a fitted network.

    Args:
        network: the network, in evaluation mode.
        config: the run's configuration.
        scans: of training images in random order and of all validation images.
        provenance: images and data set.
        directory: where the bundle goes.

    Returns:
        The bundle, the calibrated predictions of the validation images and their evaluation as JSON values.
    """
    task = config.task
    choices = Choices(
        config.costs, config.default_operating_point, config.false_refusal_rate, config.selection
    )
    dataset_hash = str(provenance.dataset["dataset_hash"])
    answers = fit_answers(task, choices, scans, provenance.validation, dataset_hash)
    arrays = answers.arrays
    weight = network.head_weight()
    if weight is not None:
        arrays = {**arrays, "head_weight": weight.float().numpy()}
    document = {
        "name": config.name,
        "task": task.value,
        "classes": list(task.classes),
        "network": {
            "name": config.network,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "feature_shape": list(scans[1].feature_shape),
        },
        "preprocessing": described(config.preprocessing),
        **answers.document,
        **({} if config.usual_ages is None else {"population": {"age_years": list(config.usual_ages)}}),
        "explanation": {"method": "occlusion" if weight is None else config.heat_map},
        "training": _training(config, provenance),
        "intended_use": INTENDED_USE,
        "limitations": list(LIMITATIONS),
    }
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        export_onnx(network, config.size, model)
        bundle = write_bundle(directory, model, document, arrays)
    return bundle, answers.table, answers.evaluation


def _evaluate(
    table: PredictionTable,
    default: OperatingPoint,
    choices: Choices,
    validation: Sequence[Sample],
    dataset_hash: str,
) -> dict[str, Any]:
    protocol = "validation images of the run, which also chose its calibration and operating points"
    evaluation = evaluate(
        table,
        default,
        samples=validation,
        scoring=Scoring(dataset_hash, protocol),
        config=EvaluationConfig(costs=choices.costs),
    )
    return evaluation_to_json(evaluation, table, costs=choices.costs)


def _training(config: TrainConfig, provenance: Provenance) -> dict[str, Any]:
    samples = [*provenance.training, *provenance.validation]
    return {
        **provenance.dataset,
        "films": sorted(film_key(sample.sha256) for sample in samples),
        "patients": sorted({patient_key(sample.patient_id) for sample in samples}),
        "validation_films": sorted(film_key(sample.sha256) for sample in provenance.validation),
        "initial_weights": provenance.initial_weights,
        "versions": library_versions(),
        "seeds": {"training": config.seed},
        # A bundle travels: it names what it started from, not where that lay on one machine.
        "config": {**config.model_dump(mode="json"), "init": Path(config.init).name},
    }
