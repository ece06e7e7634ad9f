"""Soft targets from networks that never saw the image: cross-fitted teachers.

Whether an image shows pneumonia is labelled well; whether it is bacterial or viral is not, and many images
show no sign of either. A network that is told how clear an image is learns less of that noise. The training
images are split by patient; for each part a teacher is trained on the others, at each of several sizes, and
answers for it. The average of these answers, blended with the label, is what the student learns of the
etiology. Nothing but training images is used, so that a cross-validation of the student stays honest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pneumoscope.data.cache import build_cache
from pneumoscope.data.duplicates import find_duplicates
from pneumoscope.data.splits import assign_parts, hold_out
from pneumoscope.evaluation.scoring import predict_films
from pneumoscope.learning.config import DistillationConfig, TrainConfig

if TYPE_CHECKING:
    from pneumoscope.inference.bundle import Bundle
    from pneumoscope.learning.training import TrainingSet

_VALIDATION_SHARE = 0.1
"""Share of a teacher's images that choose its best epoch and calibrate it, as in cross-validation."""


def cross_fitted_targets(
    films: TrainingSet,
    config: TrainConfig,
    distillation: DistillationConfig,
    directory: Path,
    train: Callable[[TrainingSet, TrainConfig, Path], Bundle],
) -> npt.NDArray[np.float32]:
    """What teachers that did not see an image's patient say of it.

    Args:
        films: their training part is split; the validation part is not looked at.
        config: of the student; a teacher has the same, at its own size.
        distillation: how many parts, and the teachers' sizes.
        directory: for the teachers' run folders; finished ones are not trained again.
        train: trains one teacher.

    Returns:
        (N, K) calibrated class probabilities of the training images, averaged over the sizes.

    Raises:
        DatasetError: too few patients for the parts.

    Source: cross-fitted self-distillation after Furlanello et al., ICML 2018; soft labels against label noise
    after Li et al., ICCV 2017.
    """
    linked = [group.paths for group in find_duplicates(films.dataset)]
    names = [f"part-{number}" for number in range(distillation.folds)]
    parts = assign_parts(films.training, dict.fromkeys(names, 1 / distillation.folds), config.seed, linked)
    position = {sample.path: row for row, sample in enumerate(films.training)}
    targets = np.zeros((len(films.training), len(config.task.classes)), dtype=np.float32)
    for size in distillation.sizes:
        epochs = distillation.epochs or config.epochs
        changes = {"name": f"teacher-{size}", "size": size, "epochs": epochs, "distillation": None}
        teacher = config.model_copy(update=changes)
        for name in names:
            others = tuple(sample for sample in films.training if parts[sample.path] != name)
            left_out = tuple(sample for sample in films.training if parts[sample.path] == name)
            training, validation = hold_out(others, _VALIDATION_SHARE, config.seed, linked)
            facts = {"method": f"teacher without {name}", "seed": config.seed}
            part = replace(films, training=training, validation=validation, split=facts)
            bundle = train(part, teacher, directory / f"{size}-{name}")
            table = predict_films(bundle, build_cache(films.dataset, bundle.preprocessing), left_out)
            rows = [position[sample.path] for sample in left_out]
            targets[rows] += table.probabilities / len(distillation.sizes)
    return targets


def soften_etiology(labels: Tensor, answers: Tensor, share: float) -> Tensor:
    """Blend what teachers say of the etiology into the labels of images with pneumonia.

    Args:
        labels: (N, K) one-hot, the normal class first.
        answers: (N, K) class probabilities of the teachers.
        share: of the teachers, in [0, 1].

    Returns:
        (N, K) probabilities. That of the normal class is the label's: it is 0 or 1.
    """
    ill = 1 - labels[:, :1]
    etiology = answers[:, 1:] / answers[:, 1:].sum(dim=1, keepdim=True)
    softened = labels.clone()
    softened[:, 1:] = labels[:, 1:].lerp(etiology * ill, share)
    return softened
