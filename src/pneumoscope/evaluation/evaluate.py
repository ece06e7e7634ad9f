"""Evaluation of a table of predictions: metrics with 95 % intervals, and the JSON document of them.

Thresholds and calibration come from validation images; nothing is chosen here. Tables, pages and slides are
views of the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.special import expit
from sklearn.metrics import precision_recall_curve, roc_curve

from pneumoscope.core.config import Config
from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Estimate, Evaluation, OperatingPoint, Sample, Task
from pneumoscope.evaluation import metrics
from pneumoscope.evaluation.calibration import reliability
from pneumoscope.evaluation.intervals import (
    RESAMPLES,
    bootstrap,
    bootstrap_estimate,
    predictive_value_estimates,
    proportion_estimate,
)
from pneumoscope.evaluation.operating_points import (
    CostConfig,
    cost_report,
    describe_operating_points,
    threshold_table,
)
from pneumoscope.evaluation.predictions import PredictionTable
from pneumoscope.evaluation.selective import selective_report
from pneumoscope.inference.prediction import pneumonia_log_odds

AGE_BANDS = ((2.0, "<2"), (12.0, "2-11"), (18.0, "12-17"), (65.0, "18-64"), (float("inf"), "65+"))
"""Upper limit in years and name: the age classes of ICH E11 (children) and ICH E7 (from 65)."""

Bools = npt.NDArray[np.bool_]


class EvaluationConfig(Config):
    """How to score: resamples and seed of the bootstrap, and what errors cost at which prevalence."""

    resamples: int = Field(default=RESAMPLES, ge=100, le=100_000)
    seed: int = Field(default=0, ge=0)
    costs: CostConfig = CostConfig()


@dataclass(frozen=True, slots=True)
class Scoring:
    """What was scored: hash of the manifest, how the images were chosen, and whether they leaked."""

    dataset_hash: str = ""
    protocol: str = ""
    contaminated: bool = False


@dataclass(frozen=True, slots=True)
class _Score:
    """A figure that needs the bootstrap: its value on the images, and its twin on their weights."""

    value: float | None
    statistic: metrics.Statistic
    classes: tuple[
        Bools, ...
    ]  # images (N,) of each class that it tells apart; the images it counts, together
    centred: bool = False


def evaluate(
    table: PredictionTable,
    operating_point: OperatingPoint,
    *,
    samples: Sequence[Sample] = (),
    scoring: Scoring | None = None,
    config: EvaluationConfig | None = None,
) -> Evaluation:
    """Score ``table`` at ``operating_point``.

    Args:
        table: at least one image.
        operating_point: an image is called positive when its probability is at least the threshold.
        samples: rows of the manifest, for subgroups: none, or one for every image of the table.
        scoring: provenance, kept in the result.
        config: bootstrap and costs. PPV and NPV are at ``config.costs.prevalence``, or that of the images.

    Returns:
        Estimates by name (:data:`metrics.TITLES`); a figure that these images do not define is absent. The
        confusion matrix is between classes by largest probability (three-class) or at the threshold (binary).

    Raises:
        InputError: no images, or an image that ``samples`` lack.
    """
    if not len(table):
        raise InputError("no images to score", expected="at least one image", remedy="choose another split")
    config, scoring = config or EvaluationConfig(), scoring or Scoring()
    decided = table.probability >= operating_point.threshold
    by_subgroup = {
        name: MappingProxyType(_pneumonia_estimates(table.select(rows), decided[rows], config))
        for name, rows in subgroups(table, samples).items()
    }
    return Evaluation(
        n=len(table),
        patients=len(set(table.patient_ids)),
        prevalence=float(table.positive.mean()),
        classes=table.task.classes,
        estimates=MappingProxyType(estimate_figures(table, decided, config)),
        by_subgroup=MappingProxyType(by_subgroup),
        confusion=tuple(map(tuple, _confusion(table, operating_point).tolist())),
        operating_point=operating_point,
        dataset_hash=scoring.dataset_hash,
        protocol=scoring.protocol,
        contaminated=scoring.contaminated,
    )


def estimate_figures(
    table: PredictionTable, decided: Bools, config: EvaluationConfig | None = None
) -> dict[str, Estimate]:
    """The figures of ``table`` where each image was decided by itself: pooled folds have a threshold each.

    Args:
        table: at least one image.
        decided: (N,) whether pneumonia was called.
        config: bootstrap and costs.

    Returns:
        Estimates by name, in the order of :data:`metrics.TITLES`; an undefined figure is absent.
    """
    config = config or EvaluationConfig()
    estimates = _pneumonia_estimates(table, decided, config)
    if table.task is Task.THREE_CLASS:
        estimates |= _class_estimates(table, config)
    return {name: estimates[name] for name in metrics.TITLES if name in estimates}


def subgroups(table: PredictionTable, samples: Sequence[Sample]) -> dict[str, Bools]:
    """Rows (N,) of each subgroup by ``sex=F``, ``age=2-11``, ``view=PA``, ``site=...``.

    An attribute is used when the images differ in it; images that lack it are then ``<attribute>=unknown``.

    Raises:
        InputError: ``samples`` are given and an image of the table is not among them.
    """
    if not samples:
        return {}
    by_path = {sample.path: sample for sample in samples}
    absent = [path for path in table.paths if path not in by_path]
    if absent:
        raise InputError(
            f"image is not in the manifest ({len(absent)} such images)",
            where=absent[0],
            expected="one row an image",
        )
    rows = [by_path[path] for path in table.paths]
    found: dict[str, Bools] = {}
    for attribute, values in (
        ("age", [_age_band(row.age_years) for row in rows]),
        ("sex", [row.sex for row in rows]),
        ("view", [row.view for row in rows]),
        ("site", [row.site for row in rows]),
    ):
        named = np.array([value or "unknown" for value in values])
        names = np.unique(named).tolist()
        if len(names) > 1:
            found |= {f"{attribute}={name}": named == name for name in sorted(names, key=_reading_order)}
    return found


def _age_band(years: float | None) -> str | None:
    return None if years is None else next(name for limit, name in AGE_BANDS if years < limit)


def _reading_order(name: str) -> tuple[int, str]:
    bands = [band for _, band in AGE_BANDS]
    return (bands.index(name), name) if name in bands else (len(bands) + (name == "unknown"), name)


def _confusion(table: PredictionTable, point: OperatingPoint) -> npt.NDArray[np.int64]:
    binary = table.task is Task.BINARY
    predicted = table.probability >= point.threshold if binary else table.probabilities.argmax(axis=1)
    return metrics.class_confusion(table.targets, predicted.astype(np.int64), len(table.task.classes))


def _pneumonia_estimates(
    table: PredictionTable, decided: Bools, config: EvaluationConfig
) -> dict[str, Estimate]:
    """Figures of the question *is there pneumonia?*"""
    positive, probability = table.positive, table.probability
    counts = metrics.decision_counts(positive, decided)
    shares = metrics.proportions(counts)
    sensitivity, specificity = shares["sensitivity"], shares["specificity"]
    found = _proportion_estimates(shares)
    if sensitivity[1] and specificity[1]:
        prevalence = config.costs.prevalence or float(positive.mean())
        found |= predictive_value_estimates(sensitivity, specificity, prevalence)
    both, everyone = (positive, ~positive), (np.ones(len(table), dtype=bool),)
    errors, losses = (probability - positive) ** 2, metrics.film_log_losses(positive, probability)
    scores = {
        "roc_auc": _Score(
            metrics.roc_auc(positive, probability), metrics.roc_auc_statistic(positive, probability), both
        ),
        "average_precision": _Score(
            metrics.average_precision(positive, probability),
            metrics.average_precision_statistic(positive, probability),
            both,
        ),
        "balanced_accuracy": _Score(
            counts.balanced_accuracy, metrics.balanced_accuracy_statistic(positive, decided), both
        ),
        "f1": _Score(counts.f1, metrics.f1_statistic(positive, decided), both),
        "brier": _Score(metrics.brier(positive, probability), metrics.mean_statistic(errors), everyone),
        "log_loss": _Score(metrics.log_loss(positive, probability), metrics.mean_statistic(losses), everyone),
        "ece": _Score(
            metrics.expected_calibration_error(positive, probability),
            metrics.ece_statistic(positive, probability),
            everyone,
            centred=True,
        ),
    }
    return found | _score_estimates(table, scores, config)


def _class_estimates(table: PredictionTable, config: EvaluationConfig) -> dict[str, Estimate]:
    """Figures of the question *normal, bacterial or viral?*, on the images whose cause is known."""
    targets, probabilities, classes = table.targets, table.probabilities, table.task.classes
    predicted = probabilities.argmax(axis=1)
    confusion = metrics.class_confusion(targets, predicted, len(classes))
    per_class = tuple(targets == k for k in range(len(classes)))
    scores = {
        "macro_f1": _Score(
            metrics.macro_f1(confusion),
            metrics.macro_f1_statistic(targets, predicted, len(classes)),
            per_class,
        ),
        "macro_auc": _Score(
            metrics.macro_auc(targets, probabilities),
            metrics.macro_auc_statistic(targets, probabilities),
            per_class,
        ),
        "bacterial_vs_viral_auc": _Score(
            metrics.etiology_auc(targets, probabilities),
            metrics.etiology_auc_statistic(targets, probabilities),
            per_class[1:],
        ),
    }
    found = _proportion_estimates(metrics.class_proportions(confusion, classes))
    return found | _score_estimates(table, scores, config)


def _proportion_estimates(shares: dict[str, tuple[int, int]]) -> dict[str, Estimate]:
    estimates = {name: proportion_estimate(*share) for name, share in shares.items()}
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}


def _score_estimates(
    table: PredictionTable, scores: dict[str, _Score], config: EvaluationConfig
) -> dict[str, Estimate]:
    """Estimates of the scores that these images define, all from the same draws of patients."""
    values = {name: score.value for name, score in scores.items() if score.value is not None}
    draws = bootstrap(
        {name: scores[name].statistic for name in values},
        table.patient_ids,
        resamples=config.resamples,
        rng=np.random.default_rng(config.seed),
    )
    patients = np.array(table.patient_ids)
    found: dict[str, Estimate] = {}
    for name, value in values.items():
        score = scores[name]
        estimate = bootstrap_estimate(
            value,
            draws[name],
            n=int(np.logical_or.reduce(score.classes).sum()),
            smaller_class=min(len(np.unique(patients[rows])) for rows in score.classes if rows.any()),
            centred=score.centred,
        )
        if estimate is not None:
            found[name] = estimate
    return found


SCHEMA_VERSION = 1
_CURVE_POINTS = 400  # of a curve in the JSON; more than a figure has pixels for its steps

_BOTH = "needs images with and without pneumonia"
_CAUSES = "needs normal, bacterial and viral images"
_NEEDS = {
    "precision": "no image was called positive",
    "sensitivity": "needs images with pneumonia",
    "false_negative_rate": "needs images with pneumonia",
    "f1": "needs images with pneumonia",
    "specificity": "needs images without pneumonia",
    "roc_auc": _BOTH,
    "average_precision": _BOTH,
    "balanced_accuracy": _BOTH,
    "ppv": f"{_BOTH}, and one that is called positive",
    "npv": f"{_BOTH}, and one that is called negative",
    "three_class_accuracy": _CAUSES,
    "macro_f1": _CAUSES,
    "macro_auc": _CAUSES,
    "bacterial_vs_viral_auc": "needs bacterial and viral images",
    **{f"recall_{name}": f"needs {name} images" for name in Task.THREE_CLASS.classes},
    **{f"precision_{name}": f"{_CAUSES}, and one called {name}" for name in Task.THREE_CLASS.classes},
}
_CLASS_METRICS = {"three_class_accuracy", "macro_f1", "macro_auc", "bacterial_vs_viral_auc"} | {
    f"{kind}_{name}" for kind in ("precision", "recall") for name in Task.THREE_CLASS.classes
}


def evaluation_to_json(
    evaluation: Evaluation,
    table: PredictionTable,
    *,
    costs: CostConfig | None = None,
    bundle_id: str | None = None,
    scorings: int = 1,
    points: Sequence[OperatingPoint] = (),
) -> dict[str, Any]:
    """The record as plain values, with curves, reliability bins and costs of ``table``.

    Args:
        evaluation: of ``table``.
        table: the images that were scored.
        costs: of the errors; must be those of the scoring.
        bundle_id: what made the predictions, or None when several did (cross-validation).
        scorings: how often this bundle has been scored on these images, this time included.
        points: the bundle's operating points, to be scored besides.

    Returns:
        Keys: schema_version, task, bundle, protocol, contaminated, scorings, dataset_hash, n, patients,
        prevalence, stated_prevalence, classes, operating_point, estimates (name -> value, low, high, n,
        method), undefined (name -> why), by_subgroup, confusion, decisions (tp, fp, fn, tn at the operating
        point), curves (roc: false_positive_rate, sensitivity; precision_recall: recall, precision; None
        without both classes), reliability (rows: probability, frequency, low, high, n), uncalibrated (the
        same ``reliability`` for the plain softmax of the logits, with its ``ece``, ``brier`` and
        ``log_loss``), selection (what abstention buys, at the operating point, or without a bundle at the
        default one of each image's own: :func:`pneumoscope.evaluation.selective.selective_report`),
        operating_points (each of ``points`` on these images, as
        :func:`pneumoscope.evaluation.operating_points.describe_operating_points` gives it), costs
        (None without both classes; see :func:`pneumoscope.evaluation.operating_points.cost_report`).
    """
    costs = costs or CostConfig()
    positive, probability = table.positive, table.probability
    decisions = metrics.decision_counts(positive, probability >= evaluation.operating_point.threshold)
    both = bool(positive.any() and not positive.all())
    return {
        "schema_version": SCHEMA_VERSION,
        "task": str(table.task),
        "bundle": bundle_id,
        "protocol": evaluation.protocol,
        "contaminated": evaluation.contaminated,
        "scorings": scorings,
        "dataset_hash": evaluation.dataset_hash,
        "n": evaluation.n,
        "patients": evaluation.patients,
        "prevalence": evaluation.prevalence,
        "stated_prevalence": costs.prevalence if costs.prevalence is not None else evaluation.prevalence,
        "classes": list(evaluation.classes),
        "operating_point": asdict(evaluation.operating_point),
        "estimates": _estimates_to_json(evaluation.estimates),
        "undefined": _undefined(evaluation, table.task),
        "by_subgroup": {name: _estimates_to_json(group) for name, group in evaluation.by_subgroup.items()},
        "confusion": [list(row) for row in evaluation.confusion],
        "decisions": asdict(decisions),
        "curves": _curves(positive, probability) if both else None,
        "reliability": [asdict(one) for one in reliability(positive, probability)],
        "uncalibrated": _uncalibrated(table),
        "selection": selective_report(
            table, None if bundle_id is None else evaluation.operating_point.threshold
        ),
        "operating_points": _points(table, points, costs) if both else [],
        "costs": _costs(evaluation, table, decisions, costs) if both else None,
    }


def _estimates_to_json(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in estimates.items()}


def _undefined(evaluation: Evaluation, task: Task) -> dict[str, str]:
    expected = [name for name in metrics.TITLES if task is Task.THREE_CLASS or name not in _CLASS_METRICS]
    absent = (name for name in expected if name not in evaluation.estimates)
    return {name: _NEEDS.get(name, "too few images for an interval") for name in absent}


def _curves(positive: npt.NDArray[np.bool_], probability: npt.NDArray[np.float64]) -> dict[str, Any]:
    false_alarms, found, _ = roc_curve(positive, probability)
    precision, recall, _ = precision_recall_curve(positive, probability, drop_intermediate=True)
    roc, pr = _thin(len(found)), _thin(len(recall))
    return {
        "roc": {"false_positive_rate": false_alarms[roc].tolist(), "sensitivity": found[roc].tolist()},
        "precision_recall": {"recall": recall[pr].tolist(), "precision": precision[pr].tolist()},
    }


def _thin(n: int) -> npt.NDArray[np.int64]:
    """At most :data:`_CURVE_POINTS` of n rows, evenly, with both ends."""
    return np.unique(np.linspace(0, n - 1, min(n, _CURVE_POINTS)).round().astype(np.int64))


def _points(
    table: PredictionTable, points: Sequence[OperatingPoint], costs: CostConfig
) -> list[dict[str, Any]]:
    """Every operating point with what these images show there."""
    found = []
    for point in points:
        counts = metrics.decision_counts(table.positive, table.probability >= point.threshold)
        found.append(_achieved(point, counts))
    return describe_operating_points(found, table.positive, costs.prevalence)


def _achieved(point: OperatingPoint, counts: metrics.Counts) -> OperatingPoint:
    return replace(
        point,
        sensitivity=counts.tp / (counts.tp + counts.fn),
        specificity=counts.tn / (counts.tn + counts.fp),
        n=counts.tp + counts.fp + counts.fn + counts.tn,
    )


def _uncalibrated(table: PredictionTable) -> dict[str, Any]:
    """What the network's logits would say of pneumonia without calibration."""
    positive, probability = table.positive, np.asarray(expit(pneumonia_log_odds(table.logits)))
    return {
        "reliability": [asdict(one) for one in reliability(positive, probability)],
        "ece": metrics.expected_calibration_error(positive, probability),
        "brier": metrics.brier(positive, probability),
        "log_loss": metrics.log_loss(positive, probability),
    }


def _costs(
    evaluation: Evaluation, table: PredictionTable, decisions: metrics.Counts, costs: CostConfig
) -> dict[str, Any]:
    achieved = _achieved(evaluation.operating_point, decisions)
    thresholds = threshold_table(table.positive, table.probability)
    return cost_report(thresholds, achieved, costs, evaluation.prevalence)
