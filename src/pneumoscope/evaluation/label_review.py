"""Label review by confident learning: probable label errors, and hard images whose label is plausible.

Northcutt, Jiang & Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70, 2021: an
image counts as another class when its probability of that class, by a network that did not see the image, is
at least the mean probability of the images that bear that label (equations 1 and 2). It is a probable label
error when that class is not its own (section 3.2), and errors are ranked by normalised margin (section 3.3).
Written here because the authors' library, cleanlab, may not be passed on under this project's licence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import Label, Task
from pneumoscope.evaluation.predictions import PredictionTable

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class ReviewKind(StrEnum):
    """Why an image is shown."""

    LABEL = "probable label error"
    HARD = "hard film"


@dataclass(frozen=True, slots=True)
class ReviewFilm:
    """An image for a reader.

    Attributes:
        path, sha256: of the image; given: its label; suggested: the network's.
        probability: of the given label; suggested_probability: of the suggested one.
        score: normalised margin, from -1 (certainly another label) to 1.
    """

    path: str
    sha256: str
    kind: ReviewKind
    given: Label
    suggested: Label
    probability: float
    suggested_probability: float
    score: float


def review(table: PredictionTable, count: int = 60) -> tuple[ReviewFilm, ...]:
    """The images to look at: at most ``count`` probable label errors, then at most ``count`` hard images.

    Args:
        table: predictions of networks that did not see the images, of every class.
        count: of each kind.
    """
    targets = np.asarray(table.targets, dtype=np.int64)
    known = np.flatnonzero(targets >= 0)
    own, probabilities = targets[known], table.probabilities[known]
    found, margin = confident_classes(probabilities, own), normalised_margin(probabilities, own)
    error = (found >= 0) & (found != own)
    best = np.where(error, found, _likeliest_other(probabilities, own))
    chosen = []
    for kind, rows in ((ReviewKind.LABEL, np.flatnonzero(error)), (ReviewKind.HARD, np.flatnonzero(~error))):
        order = rows[np.argsort(margin[rows], kind="stable")][:count]
        for row in order.tolist():
            film = int(known[row])
            chosen.append(
                ReviewFilm(
                    path=table.paths[film],
                    sha256=table.sha256[film],
                    kind=kind,
                    given=table.labels[film],
                    suggested=_label(table.task, int(best[row])),
                    probability=float(probabilities[row, own[row]]),
                    suggested_probability=float(probabilities[row, best[row]]),
                    score=float(margin[row]),
                )
            )
    return tuple(chosen)


def confident_classes(probabilities: Floats, targets: Ints) -> Ints:
    """The class (N,) that each image confidently counts as, -1 for none: the cells of the confident joint.

    Args:
        probabilities: (N, K).
        targets: (N,) class index of the given labels.
    """
    classes = probabilities.shape[1]
    thresholds = np.array(
        [probabilities[targets == k, k].mean() if (targets == k).any() else np.inf for k in range(classes)]
    )
    above = probabilities >= thresholds
    likeliest = np.where(above, probabilities, -1.0).argmax(axis=1)
    return np.where(above.any(axis=1), likeliest, -1)


def normalised_margin(probabilities: Floats, targets: Ints) -> Floats:
    """Probability (N,) of the given label less that of the likeliest other."""
    rows = np.arange(len(targets))
    others = probabilities[rows, _likeliest_other(probabilities, targets)]
    return np.asarray(probabilities[rows, targets] - others)


def _likeliest_other(probabilities: Floats, targets: Ints) -> Ints:
    others = probabilities.copy()
    others[np.arange(len(targets)), targets] = -1.0
    return np.asarray(others.argmax(axis=1))


def _label(task: Task, index: int) -> Label:
    name = task.classes[index]
    return Label.PNEUMONIA if name == "pneumonia" else Label(name)
