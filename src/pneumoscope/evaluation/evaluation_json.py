"""The JSON of a scoring: the truth of which tables, pages and slides are views.

In: an :class:`Evaluation` and the table it came from. Out: plain values that JSON can hold, with everything
that a figure needs (curves, bins, costs), and the way back to the record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.metrics import precision_recall_curve, roc_curve

from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Estimate, Evaluation, OperatingPoint, Task
from pneumoscope.evaluation import metrics
from pneumoscope.evaluation.calibration import reliability
from pneumoscope.evaluation.costs import CostConfig, cost_report
from pneumoscope.evaluation.operating_points import describe_operating_points
from pneumoscope.evaluation.predictions import PredictionTable
from pneumoscope.evaluation.selective import selective_report
from pneumoscope.evaluation.thresholds import threshold_table
from pneumoscope.inference.prediction import pneumonia_log_odds

SCHEMA_VERSION = 1
_CURVE_POINTS = 400  # of a curve in the JSON; more than a figure has pixels for its steps

_BOTH = "needs films with and without pneumonia"
_CAUSES = "needs normal, bacterial and viral films"
_NEEDS = {
    "precision": "no film was called positive",
    "sensitivity": "needs films with pneumonia",
    "false_negative_rate": "needs films with pneumonia",
    "f1": "needs films with pneumonia",
    "specificity": "needs films without pneumonia",
    "roc_auc": _BOTH,
    "average_precision": _BOTH,
    "balanced_accuracy": _BOTH,
    "ppv": f"{_BOTH}, and one that is called positive",
    "npv": f"{_BOTH}, and one that is called negative",
    "three_class_accuracy": _CAUSES,
    "macro_f1": _CAUSES,
    "macro_auc": _CAUSES,
    "bacterial_vs_viral_auc": "needs bacterial and viral films",
    **{f"recall_{name}": f"needs {name} films" for name in Task.THREE_CLASS.classes},
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
        table: the films that were scored.
        costs: of the errors; must be those of the scoring.
        bundle_id: what made the predictions, or None when several did (cross-validation).
        scorings: how often this bundle has been scored on these films, this time included.
        points: the bundle's operating points, to be scored besides.

    Returns:
        Keys: schema_version, task, bundle, protocol, contaminated, scorings, dataset_hash, n, patients,
        prevalence, stated_prevalence, classes, operating_point, estimates (name -> value, low, high, n,
        method), undefined (name -> why), by_subgroup, confusion, decisions (tp, fp, fn, tn at the operating
        point), curves (roc: false_positive_rate, sensitivity; precision_recall: recall, precision; None
        without both classes), reliability (rows: probability, frequency, low, high, n), uncalibrated (the
        same ``reliability`` for the plain softmax of the logits, with its ``ece``, ``brier`` and
        ``log_loss``), selection (what abstention buys, at the operating point, or without a bundle at the
        default one of each film's own: :func:`pneumoscope.evaluation.selective.selective_report`),
        operating_points (each of ``points`` on these films, as
        :func:`pneumoscope.evaluation.operating_points.describe_operating_points` gives it), costs
        (None without both classes; see :func:`pneumoscope.evaluation.costs.cost_report`).
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


def evaluation_from_json(document: Mapping[str, Any]) -> Evaluation:
    """The record of :func:`evaluation_to_json`'s document.

    Raises:
        InputError: another schema version, or a key is missing.
    """
    if document.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"evaluation of schema {document.get('schema_version')!r}",
            expected=f"schema {SCHEMA_VERSION}",
            remedy="score the films again with 'pneumoscope evaluate'",
        )
    try:
        return Evaluation(
            n=document["n"],
            patients=document["patients"],
            prevalence=document["prevalence"],
            classes=tuple(document["classes"]),
            estimates=_estimates_from_json(document["estimates"]),
            by_subgroup=MappingProxyType(
                {name: _estimates_from_json(group) for name, group in document["by_subgroup"].items()}
            ),
            confusion=tuple(tuple(row) for row in document["confusion"]),
            operating_point=OperatingPoint(**document["operating_point"]),
            dataset_hash=document["dataset_hash"],
            protocol=document["protocol"],
            contaminated=document["contaminated"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"not an evaluation ({error!r})", remedy="score the films again with 'pneumoscope evaluate'"
        ) from error


def _estimates_to_json(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in estimates.items()}


def _estimates_from_json(document: Mapping[str, Any]) -> Mapping[str, Estimate]:
    return MappingProxyType({name: Estimate(**values) for name, values in document.items()})


def _undefined(evaluation: Evaluation, task: Task) -> dict[str, str]:
    expected = [name for name in metrics.TITLES if task is Task.THREE_CLASS or name not in _CLASS_METRICS]
    absent = (name for name in expected if name not in evaluation.estimates)
    return {name: _NEEDS.get(name, "too few films for an interval") for name in absent}


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
    """Every operating point with what these films show there."""
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
