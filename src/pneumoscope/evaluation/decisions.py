"""From a network's raw outputs to decisions: calibration, operating points, abstention and etiology bounds.

A network is sure where images are like those it learnt from. Thresholds that were chosen there are too
lenient elsewhere, so a bundle can be calibrated on images that its recipe found harder: out of fold, and
from groups of images (acquisition clusters) that were left out of training whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import InputError
from pneumoscope.core.files import read_json
from pneumoscope.core.records import OperatingPoint, Task
from pneumoscope.evaluation.calibration import calibration_interval, choose_calibration
from pneumoscope.evaluation.intervals import proportion_estimate
from pneumoscope.evaluation.metrics import etiology_score
from pneumoscope.evaluation.operating_points import (
    CostConfig,
    choose_operating_points,
    describe_operating_points,
)
from pneumoscope.evaluation.predictions import PredictionTable, read_predictions
from pneumoscope.evaluation.selective import SelectionConfig, fit_etiology, fit_selection
from pneumoscope.inference.prediction import calibrated_probabilities

Floats = npt.NDArray[np.floating]

OUT_OF_FOLD = "out of fold"
"""Name of the view whose images come from the hospital and the devices that the network learnt from."""


@dataclass(frozen=True)
class Choices:
    """What a run was told about its answers."""

    costs: CostConfig
    default_operating_point: str
    false_refusal_rate: float
    selection: SelectionConfig = field(default_factory=SelectionConfig)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Choices:
        """Those of the run that trained a bundle."""
        config = document["training"]["config"]
        return cls(
            CostConfig(**config["costs"]),
            document["default_operating_point"],
            document["gate"]["false_refusal_rate"],
            SelectionConfig(**config.get("selection", {})),
        )


@dataclass(frozen=True)
class View:
    """Raw outputs for images that a network has not seen: logits (N, K), N class indices and patient keys."""

    name: str
    logits: Floats
    targets: npt.NDArray[np.int64]
    patients: tuple[str, ...]

    @property
    def positive(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the reference says pneumonia."""
        return np.asarray(self.targets > 0)


def pool(views: Iterable[View]) -> View:
    """Several views as one; an image that is in two of them counts twice."""
    parts = list(views)
    return View(
        " and ".join(part.name for part in parts),
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.targets for part in parts]),
        tuple(chain.from_iterable(part.patients for part in parts)),
    )


def fit_decisions(task: Task, choices: Choices, view: View) -> dict[str, Any]:
    """Everything of a bundle that turns outputs into answers, fitted to the images of ``view``.

    Returns:
        The keys ``calibration``, ``operating_points``, ``default_operating_point``, ``selection`` and
        ``etiology`` of ``bundle.json``.
    """
    calibration = choose_calibration(view.logits, view.targets, view.patients)
    probabilities = calibrated_probabilities(view.logits, calibration)
    probability = probabilities[:, 1:].sum(axis=1)
    points = choose_operating_points(probability, view.positive, choices.costs)
    default = next(point for point in points if point.name == choices.default_operating_point)
    calibration["interval"] = calibration_interval(probability, view.positive, view.patients)
    etiology: dict[str, Any] = {}
    if task is Task.THREE_CLASS:
        ill = view.positive
        patients = [patient for patient, one in zip(view.patients, ill, strict=True) if one]
        etiology = fit_etiology(
            etiology_score(probabilities[ill]),
            view.targets[ill] == 1,
            patients,
            choices.selection.etiology_error_rate,
        )
    return {
        "calibration": calibration,
        "operating_points": describe_operating_points(points, view.positive, choices.costs.prevalence),
        "default_operating_point": default.name,
        "selection": fit_selection(
            probability, view.positive, view.patients, choices.selection.error_rate, default.threshold
        ),
        "etiology": etiology,
    }


def read_views(
    runs: Sequence[Path], document: Mapping[str, Any]
) -> tuple[list[View], PredictionTable | None]:
    """The out-of-fold predictions of cross-validations of a bundle's recipe.

    Args:
        runs: folders of ``train --folds`` or of ``quantise`` on one. Folds by patient are the view
            ``out of fold``; each fold of a split that leaves clusters out is a view of its own.
        document: of the bundle.

    Returns:
        The views, and the table of the images out of fold by patient; None without such a run.

    Raises:
        InputError: a folder is no finished cross-validation, of another task, recipe or kind of split, or the
            second one by patient.
    """
    task = Task(document["task"])
    views: list[View] = []
    ordinary = None
    for run in runs:
        file = run / "predictions" / "cross-validation.csv"
        folds = sorted(run.glob("fold-*/predictions/test.csv"))
        if not file.is_file() or not folds:
            raise InputError(
                "no predictions of a cross-validation", where=run, expected="a finished 'train --folds' run"
            )
        table = read_predictions(file)
        if table.task is not task:
            raise InputError(f"predictions of another task ({table.task})", where=file, expected=str(task))
        kind = _kind_of_split(run, folds, document)
        if kind == "leave-cluster-out":
            views += [
                _view(f"{run.name}, {fold.parents[1].name} left out", read_predictions(fold))
                for fold in folds
            ]
        elif ordinary is not None:
            raise InputError("a second cross-validation by patient", where=run, expected="one of them")
        else:
            ordinary = table
            views.append(_view(OUT_OF_FOLD, table))
    return views, ordinary


def _view(name: str, table: PredictionTable) -> View:
    table = table.select(table.targets >= 0)
    return View(name, table.logits, table.targets, table.patient_ids)


_FREE = frozenset(
    {
        "name", "init", "seed", "threads", "accelerator", "devices", "strategy", "costs", "selection",
        "default_operating_point",
    }
)  # fmt: skip
"""Settings that do not change what a network learns."""


def _kind_of_split(run: Path, folds: Sequence[Path], document: Mapping[str, Any]) -> str:
    """``by patient`` or ``leave-cluster-out``, as the folds' bundles say, which are of the bundle's recipe.

    Raises:
        InputError: another recipe, or another kind of split.
    """
    own = document["training"]["config"]
    kinds = set()
    for fold in folds:
        training = read_json(fold.parents[1] / "bundle" / "bundle.json")["training"]
        differing = [key for key in own if key not in _FREE and training["config"].get(key) != own[key]]
        if differing:
            raise InputError(
                f"another recipe: {', '.join(differing)}",
                where=fold.parents[1],
                expected="cross-validations with the configuration that the bundle was trained with",
            )
        method = str(training["split"]["method"])
        kinds.add("by patient" if method.endswith("by patient") else method.rpartition("(")[2].rstrip(")"))
    if len(kinds) != 1 or not kinds <= {"by patient", "leave-cluster-out"}:
        raise InputError(
            f"folds of the split {', '.join(sorted(kinds))}",
            where=run,
            expected="folds by patient, or of 'data split --method leave-cluster-out'",
        )
    return kinds.pop()


def choose_decisions(
    task: Task, choices: Choices, views: Sequence[View]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fit decisions to the pool of views that holds the worst left-out group of images.

    Candidates are the images out of fold, those of the groups left out, and both. Each is judged on every
    group left out, by decisions that were fitted without that group and its patients.

    Returns:
        The decisions as :func:`fit_decisions` gives them, and a report: ``chosen`` and ``candidates``, for
        each its ``worst`` balanced accuracy and ``views`` (name, n, sensitivity and specificity at the
        default operating point, with 95 % intervals). Without groups nothing can judge: no candidates, and
        all images are taken.

    Raises:
        InputError: the images lack a class.
    """
    ordinary = [view for view in views if view.name == OUT_OF_FOLD]
    groups = [view for view in views if view.name != OUT_OF_FOLD]
    candidates = {OUT_OF_FOLD: ordinary, "left out": groups, "both": [*ordinary, *groups]}
    report = {}
    for name, some in candidates.items():
        fits = [(view, _without(some, view)) for view in groups]
        if groups and all(_has_all(task, rest) for _, rest in fits):
            judged = [judge_view(view, fit_decisions(task, choices, pool(rest))) for view, rest in fits]
            report[name] = {"worst": min(row["balanced_accuracy"] for row in judged), "views": judged}
    chosen = max(report, key=lambda name: report[name]["worst"]) if report else "both"
    return fit_decisions(task, choices, pool(candidates[chosen])), {"chosen": chosen, "candidates": report}


def _without(views: Sequence[View], group: View) -> list[View]:
    """The views without ``group``, and without the images of its patients in the others."""
    patients = frozenset(group.patients)
    found = []
    for view in views:
        kept = np.array([patient not in patients for patient in view.patients])
        if view is not group and kept.any():
            names = tuple(patient for patient, stays in zip(view.patients, kept, strict=True) if stays)
            found.append(View(view.name, view.logits[kept], view.targets[kept], names))
    return found


def _has_all(task: Task, views: Sequence[View]) -> bool:
    """Whether every class has images."""
    return {target for view in views for target in view.targets.tolist()} == set(range(len(task.classes)))


def judge_view(view: View, decisions: Mapping[str, Any]) -> dict[str, Any]:
    """Sensitivity and specificity of ``decisions`` on a view, at their default operating point."""
    probabilities = calibrated_probabilities(view.logits, decisions["calibration"])
    name = decisions["default_operating_point"]
    threshold = next(one["threshold"] for one in decisions["operating_points"] if one["name"] == name)
    called = probabilities[:, 1:].sum(axis=1) >= threshold
    ill = view.positive
    shares = {
        "sensitivity": proportion_estimate(int(called[ill].sum()), int(ill.sum())),
        "specificity": proportion_estimate(int((~called[~ill]).sum()), int((~ill).sum())),
    }
    known = [one.value for one in shares.values() if one is not None]
    return {
        "name": view.name,
        "n": len(ill),
        "balanced_accuracy": float(np.mean(known)),
        **{key: None if one is None else asdict(one) for key, one in shares.items()},
    }


def point_of(decisions: Mapping[str, Any]) -> OperatingPoint:
    """The default operating point of ``decisions``."""
    row = next(
        one for one in decisions["operating_points"] if one["name"] == decisions["default_operating_point"]
    )
    return OperatingPoint(
        **{key: row[key] for key in ("name", "threshold", "sensitivity", "specificity", "n")}
    )
