"""A training run: from the images of a data set to a bundle, in one folder that is enough to repeat it.

The run directory holds ``run.json``, ``config.json``, ``split.csv``, ``history.csv``, ``checkpoints/``,
``tensorboard/``, ``predictions/``, ``evaluation/``, ``environment.txt`` and ``bundle/``. Called again on the
folder of a killed run, it goes on.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.files import sha256_bytes, write_json, write_text
from pneumoscope.core.records import Sample, Task
from pneumoscope.core.run_manifest import RunManifest, earlier_run
from pneumoscope.data.cache import build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.duplicates import find_duplicates
from pneumoscope.data.splits import TRAIN, VALIDATION, Split, SplitConfig, split_dataset, split_file
from pneumoscope.evaluation.predictions import write_predictions
from pneumoscope.inference.bundle import Bundle, load_bundle
from pneumoscope.learning.batches import (
    BatchOrder,
    FeatureBatches,
    FilmBatches,
    Films,
    InOrder,
    Loader,
    plain_batches,
)
from pneumoscope.learning.config import AugmentationConfig, TrainConfig
from pneumoscope.learning.distillation import cross_fitted_targets, soften_etiology
from pneumoscope.learning.loop import TrainingData, TrainingListener, fit, keep_large_buffers
from pneumoscope.learning.networks import Network
from pneumoscope.learning.packaging import Provenance, package, scan
from pneumoscope.learning.pretrained import build_network
from pneumoscope.learning.staging import compute_features

SCAN_BATCH = 64
"""Images in one pass when a network only looks; memory, not speed, depends on it."""


@dataclass(frozen=True)
class TrainingSet:
    """What a run learns from: images of one data set, and how they were chosen (kept in the bundle)."""

    dataset: Dataset
    training: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    split: Mapping[str, Any]

    def usable(self, task: Task) -> TrainingSet:
        """Without the images whose label is too coarse for ``task``.

        Raises:
            DatasetError: a class has no image in the training or the validation part.
        """
        parts = {}
        for name, samples in (("training", self.training), ("validation", self.validation)):
            parts[name] = tuple(sample for sample in samples if task.target(sample.label) is not None)
            found = Counter(task.target(sample.label) for sample in parts[name])
            missing = [label for number, label in enumerate(task.classes) if not found[number]]
            if missing:
                raise DatasetError(
                    f"the {name} part has no image of class {', '.join(missing)}",
                    where=self.dataset.directory,
                    expected=f"images of {', '.join(task.classes)}",
                    remedy="use --task binary, another split, or more images",
                )
        return replace(self, training=parts["training"], validation=parts["validation"])


def training_set(dataset: Dataset, split_name: str = "default", seed: int = 0) -> TrainingSet:
    """The train and validation parts of a split of ``dataset``.

    A missing default split is made: the publisher's own when all images carry one with a test part, else
    fractions by patient. It is saved with the data set, so that ``evaluate --split test`` finds it.

    Raises:
        DatasetError: there is no such split, it does not fit the data set, or the images cannot be split.
    """
    file = split_file(dataset.directory, split_name)
    if split_name == "default" and not file.exists():
        published = {sample.publisher_split for sample in dataset.samples}
        method = "publisher" if published - {"val"} == {"train", "test"} else "fractions"
        config = SplitConfig(method=method, seed=seed)
        split_dataset(dataset, config, find_duplicates(dataset), name=split_name).save(file)
    split = Split.load(file)
    return TrainingSet(
        dataset,
        split.samples(dataset, TRAIN),
        split.samples(dataset, VALIDATION),
        {"name": split.name, "method": split.method, "seed": split.seed},
    )


def train(
    films: TrainingSet, config: TrainConfig, directory: Path, listener: TrainingListener | None = None
) -> Bundle:
    """Train a network and write its bundle.

    Args:
        films: what to learn from.
        config: how.
        directory: run folder; new, or that of a run with the same configuration that was stopped.
        listener: told of stages, steps and epochs.

    Raises:
        ConfigError: ``directory`` holds a run with another configuration or on other images.
        DatasetError: a class has no images.
        DownloadError: ``init = "hub"`` and the weights cannot be had.
    """
    films = films.usable(config.task)
    table = _split_table(films)
    inputs = {"dataset": films.dataset.hash, "split": sha256_bytes(table.encode())}
    earlier = earlier_run(directory, "train", config, inputs)
    if earlier and earlier["outcome"] == "done":
        return load_bundle(directory / "bundle")
    run = _open_run(films, config, directory, inputs)
    write_text(directory / "split.csv", table)
    fitted = fit_network(films, config, directory, listener, run.stage)
    with run.stage("package"):
        _tell(listener, "writing the bundle")
        provenance = Provenance(films.training, films.validation, _facts(films), fitted.initial_weights)
        bundle = _package(fitted.network, config, fitted.films, provenance, directory)
    run.finish(bundle=bundle.id, initial_weights=fitted.initial_weights)
    return bundle


@dataclass(frozen=True)
class Fitted:
    """A network with its best weights, in evaluation mode, and its training and validation images."""

    network: Network
    initial_weights: str
    films: tuple[Films, Films]


def fit_network(
    films: TrainingSet,
    config: TrainConfig,
    directory: Path,
    listener: TrainingListener | None = None,
    stage: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Fitted:
    """Train a network as :func:`train` does, without a bundle.

    Args:
        films: what to learn from; every image's label must fit the task (``TrainingSet.usable``).
        config: how.
        directory: for ``history.csv``, checkpoints and log; training goes on from checkpoints that it holds.
        listener: told of stages, steps and epochs.
        stage: entered with the name of each stage, to time it.
    """
    keep_large_buffers()
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        with stage("cache"):
            cache = build_cache(films.dataset, config.preprocessing)
            training, validation = (
                Films(
                    cache.pixels,
                    cache.rows(part),
                    _targets(part, config.task),
                    config.size,
                    cache.lung_shapes(part),
                )
                for part in (films.training, films.validation)
            )
        with stage("network"):
            _tell(listener, f"building {config.network}")
            network, initial_weights = build_network(config, lambda message: _tell(listener, message))
        with stage("teachers"):
            soft = _soft_targets(films, config, training.targets, directory, listener)
        with stage("fit"):
            _tell(listener, f"training on {len(training)} images, validating on {len(validation)}")
            data = _training_data(network, config, (training, validation), soft)
            fit(network, config, data, directory, listener)
    return Fitted(network, initial_weights, (training, validation))


def _split_table(films: TrainingSet) -> str:
    rows = [(s.path, TRAIN) for s in films.training] + [(s.path, VALIDATION) for s in films.validation]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("path", "part"), *rows])
    return text.getvalue()


def _open_run(
    films: TrainingSet, config: TrainConfig, directory: Path, inputs: Mapping[str, str]
) -> RunManifest:
    values = config.model_dump(mode="json")
    run = RunManifest(directory, "train", values, {"training": config.seed})
    for name, digest in inputs.items():
        run.add_input(name, digest)
    run.content["results"]["dataset_directory"] = str(films.dataset.directory.resolve())
    if "name" in films.split:
        run.content["results"]["split_name"] = films.split["name"]
    run.save()
    write_json(directory / "config.json", values)
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions()})
    write_text(directory / "environment.txt", "\n".join([*packages, ""]))
    return run


def _targets(samples: tuple[Sample, ...], task: Task) -> Any:
    return np.array([task.target(sample.label) for sample in samples], dtype=np.int64)


def _class_weights(targets: Any, config: TrainConfig) -> Tensor | None:
    """(K,) weights that make all classes count the same in the loss, N / (K n_k); None without."""
    if config.imbalance != "weighted-loss":
        return None
    counts = np.bincount(targets, minlength=len(config.task.classes))
    return torch.from_numpy(len(targets) / (len(counts) * counts)).float()


def _soft_targets(
    films: TrainingSet, config: TrainConfig, targets: Any, directory: Path, listener: TrainingListener | None
) -> Tensor | None:
    """(N, K) class probabilities to learn from, where images are mixed or have teachers."""
    if not (config.distillation or config.mixing.enabled):
        return None
    labels = F.one_hot(torch.from_numpy(targets), len(config.task.classes)).float()
    if config.distillation is None:
        return labels

    def teach(part: TrainingSet, teacher: TrainConfig, folder: Path) -> Bundle:
        _tell(listener, f"teacher {folder.name}")
        return train(part, teacher, folder, listener)

    answers = cross_fitted_targets(films, config, config.distillation, directory / "teachers", teach)
    return soften_etiology(labels, torch.from_numpy(answers), config.distillation.share)


def _training_data(
    network: Network, config: TrainConfig, films: tuple[Films, Films], soft_targets: Tensor | None
) -> TrainingData:
    """Batches of images; with stage ``frozen`` of features that the frozen body computes once."""
    training, validation = films
    batches: list[FilmBatches | FeatureBatches]
    if config.stage == "frozen":
        batches = [
            FeatureBatches(compute_features(network, plain_batches(part, SCAN_BATCH)), part.targets)
            for part in films
        ]
    else:
        plain = AugmentationConfig(enabled=False)
        batches = [
            FilmBatches(training, config.augmentation, soft_targets, config.mixing),
            FilmBatches(validation, plain),
        ]
    order = BatchOrder(
        training.targets, config.batch_size, config.seed, balanced=config.imbalance == "sampler"
    )
    return TrainingData(
        Loader(batches[0], order),
        Loader(batches[1], InOrder(len(validation))),
        _class_weights(training.targets, config),
    )


def _package(
    network: Network,
    config: TrainConfig,
    films: tuple[Films, Films],
    provenance: Provenance,
    directory: Path,
) -> Bundle:
    training, validation = films
    # The data set's order has the classes one after the other; the gate takes the first images of the scan.
    order = np.random.default_rng(config.seed).permutation(len(training))
    samples = [provenance.training[position] for position in order]
    scans = replace(scan(network, training.reordered(order)), films=samples), scan(network, validation)
    bundle, table, evaluation = package(network, config, scans, provenance, directory / "bundle")
    write_predictions(directory / "predictions" / "validation.csv", table)
    write_json(directory / "evaluation" / "validation.json", evaluation)
    return bundle


def _facts(films: TrainingSet) -> dict[str, Any]:
    return {
        "dataset_name": films.dataset.name,
        "dataset_hash": films.dataset.hash,
        "split": dict(films.split),
        "counts": {"training": len(films.training), "validation": len(films.validation)},
    }


def _tell(listener: TrainingListener | None, message: str) -> None:
    if listener:
        listener.stage(message)
