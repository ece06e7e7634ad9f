"""Run folders as ``train`` leaves them, without training: grey images and the tiny bundle's own answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pneumoscope.core.files import sha256_file, write_json, write_text
from pneumoscope.core.records import Label, Sample, Task
from pneumoscope.core.run_manifest import RunManifest
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.evaluate import EvaluationConfig, Scoring, evaluate, evaluation_to_json
from pneumoscope.evaluation.operating_points import CostConfig
from pneumoscope.evaluation.predictions import PredictionTable, tabulate, write_predictions
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.prediction import calibrated_probabilities, run_network
from tests.tiny_bundle import write_tiny_bundle

MEANS = {Label.NORMAL: 0.42, Label.BACTERIAL: 0.66, Label.VIRAL: 0.6}
HISTORY = """epoch,stage,train_loss,validation_loss,validation_auc,validation_accuracy,learning_rate
0,full,0.9,0.8,0.9,0.7,0.0005
1,full,0.5,0.45,0.95,0.8,0.0004
2,full,0.3,0.4,0.96,0.82,0.0001
"""


@dataclass(frozen=True)
class RunOptions:
    """What a run folder holds."""

    task: Task = Task.THREE_CLASS
    scoring: str = "test"
    outcome: str = "done"


def write_dataset(directory: Path, count: int = 60, seed: int = 0) -> Dataset:
    """Grey images, brighter with pneumonia, two a patient; bacterial, viral and normal in turn."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        label = (Label.NORMAL, Label.BACTERIAL, Label.VIRAL)[number // 2 % 3]
        level = rng.normal(MEANS[label], 0.08)
        pixels = np.clip(level + rng.normal(0, 0.1, (80, 96)), 0, 1)
        path = f"{label}/film-{number:03d}.png"
        file = directory / "films" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * pixels).astype(np.uint8)).save(file)
        patient = f"patient-{number // 2}"
        samples.append(
            Sample(path, sha256_file(file), patient, patient, label, sex="FM"[number // 2 % 2], height=80)
        )
    dataset = Dataset(directory, directory / "films", "grey", "folders", tuple(samples))
    dataset.save()
    return dataset


def predict(bundle: Bundle, dataset: Dataset, samples: tuple[Sample, ...]) -> PredictionTable:
    """The bundle's own answers about ``samples``."""
    films = [read_radiograph(dataset.file(sample)) for sample in samples]
    inputs = np.stack([to_model_input(film, bundle.preprocessing).array for film in films])
    logits, _ = run_network(bundle, inputs)
    probabilities = calibrated_probabilities(logits, bundle.document["calibration"])
    return tabulate(samples, bundle.task, logits, probabilities)


def write_evaluation(
    directory: Path, name: str, table: PredictionTable, dataset: Dataset, bundle: Bundle
) -> dict:
    """``predictions/<name>.csv`` and ``evaluation/<name>.json``."""
    costs = CostConfig()
    evaluation = evaluate(
        table,
        bundle.default_operating_point,
        samples=dataset.samples,
        scoring=Scoring(dataset.hash, f"{name} part, re-split by patient"),
        config=EvaluationConfig(resamples=100, costs=costs),
    )
    document = evaluation_to_json(evaluation, table, costs=costs, bundle_id=bundle.id)
    write_predictions(directory / "predictions" / f"{name}.csv", table)
    write_json(directory / "evaluation" / f"{name}.json", document)
    return document


def write_run(directory: Path, dataset: Dataset, options: RunOptions = RunOptions()) -> Path:
    """A training run on ``dataset`` whose second half of images is scored."""
    bundle = write_tiny_bundle(directory / "bundle", options.task)
    half = len(dataset.samples) // 2
    table = predict(bundle, dataset, dataset.samples[half:])
    write_evaluation(directory, options.scoring, table, dataset, bundle)
    lines = [f"{s.path},{'train' if i < half else options.scoring}" for i, s in enumerate(dataset.samples)]
    write_text(directory / "split.csv", "\n".join(["path,part", *lines, ""]))
    write_text(directory / "history.csv", HISTORY)
    _write_manifest(directory, dataset, options, bundle=bundle.id)
    return directory


def write_cross_validation(directory: Path, dataset: Dataset) -> Path:
    """Two folds and their pooled results."""
    half = len(dataset.samples) // 2
    parts = dataset.samples[:half], dataset.samples[half:]
    tables = []
    for number, part in enumerate(parts):
        fold = directory / f"fold-{number}"
        bundle = write_tiny_bundle(fold / "bundle")
        tables.append(predict(bundle, dataset, part))
        write_evaluation(fold, "test", tables[-1], dataset, bundle)
        others = "\n".join(f"{s.path},train" for s in parts[1 - number])
        write_text(fold / "split.csv", f"path,part\n{others}\n")
        write_text(fold / "history.csv", HISTORY)
        _write_manifest(fold, dataset, RunOptions(), bundle=bundle.id)
    pooled = predict(bundle, dataset, dataset.samples)
    write_evaluation(directory, "cross-validation", pooled, dataset, bundle)
    lines = [f"{s.path},fold-{int(i >= half)}" for i, s in enumerate(dataset.samples)]
    write_text(directory / "split.csv", "\n".join(['# {"method": "k-fold"}', "path,part", *lines, ""]))
    _write_manifest(directory, dataset, RunOptions())
    return directory


def _write_manifest(directory: Path, dataset: Dataset, options: RunOptions, **results: str) -> None:
    config = {
        "name": "grey-run",
        "network": "tiny",
        "task": options.task.value,
        "epochs": 3,
        "ema_decay": None,
    }
    run = RunManifest(directory, "train", config, {"training": 7})
    run.add_input("dataset", dataset.hash)
    with run.stage("fit"):
        pass
    run.finish(dataset_directory=str(dataset.directory), **results)
    run.content["outcome"] = options.outcome
    run.save()
