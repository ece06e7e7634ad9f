"""The page of one evaluation, and its figures as separate files.

In: an evaluation as JSON and the table of its predictions. Out: ``evaluation.html`` and ``figures/*.svg`` and
``*.png``. The same figures and rows make the results of a run's report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pneumoscope.core.files import write_bytes, write_text
from pneumoscope.core.records import Label
from pneumoscope.evaluation.metrics import TITLES
from pneumoscope.evaluation.predictions import PredictionTable
from pneumoscope.reporting import evaluation_figures as draw
from pneumoscope.reporting import results
from pneumoscope.reporting.figures import png, svg
from pneumoscope.reporting.pages import render
from pneumoscope.reporting.selective_figures import risk_coverage

_COST_UNIT = "cost per 1,000 children"


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure with its caption and what it shows in words, for those who cannot see it."""

    figure: Figure
    caption: str
    alt: str


def write_evaluation_page(evaluation: Mapping[str, Any], table: PredictionTable, directory: Path) -> Path:
    """Write ``evaluation.html`` and ``figures/<name>.svg`` and ``.png`` into ``directory``; return the page.

    Args:
        evaluation: as :func:`pneumoscope.evaluation.evaluate.evaluation_to_json` gives it.
        table: the predictions that were scored.
        directory: made when it is missing.
    """
    pictures = draw_evaluation(evaluation, table)
    for name, picture in pictures.items():
        write_text(directory / "figures" / f"{name}.svg", svg(picture.figure))
        write_bytes(directory / "figures" / f"{name}.png", png(picture.figure))
    page = directory / "evaluation.html"
    write_text(page, render("evaluation.html", **evaluation_context(evaluation, pictures)))
    return page


def evaluation_context(evaluation: Mapping[str, Any], pictures: Mapping[str, Picture]) -> dict[str, Any]:
    """What the templates of results need: the JSON itself, and its records for reading."""
    estimates = evaluation["estimates"]
    found = results.goals(estimates)
    return {
        "evaluation": evaluation,
        "goals": found,
        "verdict": results.verdict(found),
        "frequencies": results.frequencies(estimates),
        "metric_groups": results.metric_groups(estimates),
        "undefined": [(TITLES.get(name, name), why) for name, why in evaluation["undefined"].items()],
        "subgroups": results.subgroup_rows(evaluation["by_subgroup"]),
        "points": evaluation.get("operating_points") or (),
        "selection": results.selection_rows(evaluation.get("selection")),
        "abstained": results.selection_sentence(evaluation.get("selection")),
        "costs": evaluation["costs"],
        "pictures": {
            name: {"svg": svg(picture.figure), "caption": picture.caption, "alt": picture.alt}
            for name, picture in pictures.items()
        },
    }


def draw_evaluation(evaluation: Mapping[str, Any], table: PredictionTable | None) -> dict[str, Picture]:
    """All figures that these films allow: name -> picture; ``table`` is needed for the scores alone."""
    pictures = {"decisions": _decisions(evaluation)}
    if len(evaluation["classes"]) > 2:
        pictures["confusion"] = _confusion(evaluation)
    if table is not None:
        pictures["scores"] = _scores(evaluation, table)
    if evaluation["curves"]:
        pictures["roc"] = _roc(evaluation)
        pictures["precision_recall"] = _precision_recall(evaluation)
    pictures["reliability"] = _reliability(evaluation)
    if evaluation.get("selection"):
        pictures["risk_coverage"] = _risk_coverage(evaluation["selection"])
    if evaluation["costs"]:
        pictures |= _costs(evaluation["costs"])
    return pictures


def _decisions(evaluation: Mapping[str, Any]) -> Picture:
    cells = evaluation["decisions"]
    point = evaluation["operating_point"]
    return Picture(
        draw.confusion_matrix(
            [[cells["tn"], cells["fp"]], [cells["fn"], cells["tp"]]],
            ["normal", "pneumonia"],
            ["negative", "positive"],
        ),
        f"Answers at the operating point \u201c{point['name']}\u201d (alarm at a probability of "
        f"{point['threshold']:.3f} or more); films, and the share of the row.",
        f"{cells['tp']} pneumonias found, {cells['fn']} missed, {cells['tn']} normal films cleared, "
        f"{cells['fp']} false alarms.",
    )


def _confusion(evaluation: Mapping[str, Any]) -> Picture:
    matrix, classes = evaluation["confusion"], evaluation["classes"]
    right = sum(row[index] for index, row in enumerate(matrix))
    return Picture(
        draw.confusion_matrix(matrix, classes),
        "The likeliest class against the reference; films, and the share of the row.",
        f"{right} of {sum(map(sum, matrix))} films on the diagonal.",
    )


def _scores(evaluation: Mapping[str, Any], table: PredictionTable) -> Picture:
    labels = np.array([str(label) for label in table.labels])
    present = [str(label) for label in Label if str(label) in labels]
    return Picture(
        draw.score_histogram(
            {name: table.probability[labels == name] for name in present},
            threshold=evaluation["operating_point"]["threshold"],
        ),
        "Probability of pneumonia by reference class. What lies on the wrong side of the dashed line is a "
        "mistake. The count axis is logarithmic, so single films can be seen.",
        "Histogram of the probability of pneumonia for each class.",
    )


def _roc(evaluation: Mapping[str, Any]) -> Picture:
    curve, estimates = evaluation["curves"]["roc"], evaluation["estimates"]
    point = draw.MarkedPoint(
        f"operating point \u201c{evaluation['operating_point']['name']}\u201d, 95 % intervals",
        _complement(estimates["specificity"]),
        _interval(estimates["sensitivity"]),
    )
    label = f"AUC {_text(estimates.get('roc_auc'))}"
    return Picture(
        draw.roc_curve(curve["false_positive_rate"], curve["sensitivity"], points=(point,), label=label),
        "How many pneumonias are found as more false alarms are accepted, whole (left) and enlarged (right).",
        f"ROC curve, {label}.",
    )


def _precision_recall(evaluation: Mapping[str, Any]) -> Picture:
    curve, estimates = evaluation["curves"]["precision_recall"], evaluation["estimates"]
    points: tuple[draw.MarkedPoint, ...] = ()
    if "precision" in estimates:
        points = (
            draw.MarkedPoint(
                f"operating point \u201c{evaluation['operating_point']['name']}\u201d, 95 % intervals",
                _interval(estimates["sensitivity"]),
                _interval(estimates["precision"]),
            ),
        )
    label = f"average precision {_text(estimates.get('average_precision'))}"
    return Picture(
        draw.precision_recall(
            curve["recall"],
            curve["precision"],
            prevalence=evaluation["prevalence"],
            points=points,
            label=label,
        ),
        "How many alarms are right as more pneumonias are found. Precision holds for the share of pneumonia "
        "among these films only.",
        f"Precision-recall curve, {label}.",
    )


def _reliability(evaluation: Mapping[str, Any]) -> Picture:
    ece, before = _text(evaluation["estimates"].get("ece")), evaluation.get("uncalibrated")
    words = f", {before['ece']:.3f} before calibration" if before else ""
    return Picture(
        draw.reliability_diagram(
            _bins(evaluation["reliability"]), before=_bins(before["reliability"]) if before else None
        ),
        f"Do the probabilities mean what they say? Expected calibration error {ece}{words}. Each dot holds "
        "about as many films.",
        "Reliability diagram: observed share with pneumonia against predicted probability.",
    )


def _bins(rows: Sequence[Mapping[str, Any]]) -> draw.Reliability:
    keys = ("probability", "frequency", "low", "high", "n")
    return draw.Reliability(*([row[key] for row in rows] for key in keys))


def _risk_coverage(selection: Mapping[str, Any]) -> Picture:
    curve, estimates = selection["curve"], selection["estimates"]
    answered, wrong = estimates["answered"], estimates.get("error_answered")
    point = None
    if wrong is not None:
        point = draw.MarkedPoint(
            "abstention as it is set, 95 % intervals", _interval(answered), _interval(wrong)
        )
    return Picture(
        risk_coverage(curve["coverage"], curve["risk"], point, estimates["error_all"]["value"]),
        "How wrong the answers are when only the surest films are answered; the surest are those farthest "
        f"from the threshold. Area under the curve {_text(estimates.get('aurc'), 4)}.",
        "Risk-coverage curve: error among answered films against their share.",
    )


def _costs(costs: Mapping[str, Any]) -> dict[str, Picture]:
    curve, used = costs["curve"], costs["costs"]
    ratio = used["missed_pneumonia"] / used["false_alarm"]
    marked = [
        draw.MarkedPoint(name, (costs[key]["threshold"],) * 3, (costs[key]["cost_per_1000"],) * 3)
        for name, key in (("operating point", "at_operating_point"), ("cheapest on these films", "cheapest"))
    ]
    pictures = {
        "cost_threshold": Picture(
            draw.cost_over_threshold(curve["threshold"], curve["cost_per_1000"], marked, _COST_UNIT),
            f"Expected cost per {costs['children']:,} children as the threshold moves, a missed pneumonia "
            f"costing {ratio:g} false alarms and {100 * costs['prevalence']:.0f} % of the children having "
            "pneumonia.",
            "Expected cost against the threshold.",
        )
    }
    for key, rows, label, mark in (
        ("cost_ratio", "by_ratio", "cost of a missed pneumonia in false alarms", ratio),
        ("cost_prevalence", "by_prevalence", "share of the children with pneumonia", costs["prevalence"]),
    ):
        pictures[key] = _cost_curves(costs[rows], rows.removeprefix("by_"), label, mark)
    return pictures


def _cost_curves(rows: Sequence[Mapping[str, Any]], key: str, label: str, mark: float) -> Picture:
    lines = {
        "operating point": [row["at_operating_point"]["cost_per_1000"] for row in rows],
        "cheapest threshold": [row["cheapest"]["cost_per_1000"] for row in rows],
        "treat every child": [row["treat_all"] for row in rows],
        "treat no child": [row["treat_none"] for row in rows],
    }
    thresholds = [row["cheapest"]["threshold"] for row in rows]
    return Picture(
        draw.cost_curves([row[key] for row in rows], label, lines, thresholds, mark),
        f"Expected cost per 1,000 children (left) and the cheapest threshold on these films (right) as the "
        f"{label} changes. The dotted line marks what this run was asked for.",
        f"Expected cost and cheapest threshold against the {label}.",
    )


def _interval(estimate: Mapping[str, Any]) -> tuple[float, float, float]:
    return estimate["value"], estimate["low"], estimate["high"]


def _complement(estimate: Mapping[str, Any]) -> tuple[float, float, float]:
    return 1 - estimate["value"], 1 - estimate["high"], 1 - estimate["low"]


def _text(estimate: Mapping[str, Any] | None, digits: int = 3) -> str:
    if estimate is None:
        return "not defined"
    value, low, high = (f"{number:.{digits}f}" for number in _interval(estimate))
    return f"{value} ({low} to {high})"
