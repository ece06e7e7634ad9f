"""Evaluation report: ``evaluation.html``, and its figures as ``figures/*.svg`` and ``*.png``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from pneumoscope.core.files import write_bytes, write_text
from pneumoscope.core.records import Label
from pneumoscope.evaluation.metrics import TITLES
from pneumoscope.evaluation.predictions import PredictionTable
from pneumoscope.reporting import results
from pneumoscope.reporting.figures import INK, PALETTE, SOFT, class_color, new_figure, png, styled, svg
from pneumoscope.reporting.pages import render

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
    """All figures that these images allow: name -> picture; ``table`` is needed for the scores alone."""
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
        confusion_matrix(
            [[cells["tn"], cells["fp"]], [cells["fn"], cells["tp"]]],
            ["normal", "pneumonia"],
            ["negative", "positive"],
        ),
        f"Answers at the operating point \u201c{point['name']}\u201d (alarm at a probability of "
        f"{point['threshold']:.3f} or more); images, and the share of the row.",
        f"{cells['tp']} pneumonias found, {cells['fn']} missed, {cells['tn']} normal images cleared, "
        f"{cells['fp']} false alarms.",
    )


def _confusion(evaluation: Mapping[str, Any]) -> Picture:
    matrix, classes = evaluation["confusion"], evaluation["classes"]
    right = sum(row[index] for index, row in enumerate(matrix))
    return Picture(
        confusion_matrix(matrix, classes),
        "The likeliest class against the reference; images, and the share of the row.",
        f"{right} of {sum(map(sum, matrix))} images on the diagonal.",
    )


def _scores(evaluation: Mapping[str, Any], table: PredictionTable) -> Picture:
    labels = np.array([str(label) for label in table.labels])
    present = [str(label) for label in Label if str(label) in labels]
    return Picture(
        score_histogram(
            {name: table.probability[labels == name] for name in present},
            threshold=evaluation["operating_point"]["threshold"],
        ),
        "Probability of pneumonia by reference class. What lies on the wrong side of the dashed line is a "
        "mistake. The count axis is logarithmic, so single images can be seen.",
        "Histogram of the probability of pneumonia for each class.",
    )


def _roc(evaluation: Mapping[str, Any]) -> Picture:
    curve, estimates = evaluation["curves"]["roc"], evaluation["estimates"]
    point = MarkedPoint(
        f"operating point \u201c{evaluation['operating_point']['name']}\u201d, 95 % intervals",
        _complement(estimates["specificity"]),
        _interval(estimates["sensitivity"]),
    )
    label = f"AUC {_text(estimates.get('roc_auc'))}"
    return Picture(
        roc_curve(curve["false_positive_rate"], curve["sensitivity"], points=(point,), label=label),
        "How many pneumonias are found as more false alarms are accepted, whole (left) and enlarged (right).",
        f"ROC curve, {label}.",
    )


def _precision_recall(evaluation: Mapping[str, Any]) -> Picture:
    curve, estimates = evaluation["curves"]["precision_recall"], evaluation["estimates"]
    points: tuple[MarkedPoint, ...] = ()
    if "precision" in estimates:
        points = (
            MarkedPoint(
                f"operating point \u201c{evaluation['operating_point']['name']}\u201d, 95 % intervals",
                _interval(estimates["sensitivity"]),
                _interval(estimates["precision"]),
            ),
        )
    label = f"average precision {_text(estimates.get('average_precision'))}"
    return Picture(
        precision_recall(
            curve["recall"],
            curve["precision"],
            prevalence=evaluation["prevalence"],
            points=points,
            label=label,
        ),
        "How many alarms are right as more pneumonias are found. Precision holds for the share of pneumonia "
        "among these images only.",
        f"Precision-recall curve, {label}.",
    )


def _reliability(evaluation: Mapping[str, Any]) -> Picture:
    ece, before = _text(evaluation["estimates"].get("ece")), evaluation.get("uncalibrated")
    words = f", {before['ece']:.3f} before calibration" if before else ""
    return Picture(
        reliability_diagram(
            _bins(evaluation["reliability"]), before=_bins(before["reliability"]) if before else None
        ),
        f"Do the probabilities mean what they say? Expected calibration error {ece}{words}. Each dot holds "
        "about as many images.",
        "Reliability diagram: observed share with pneumonia against predicted probability.",
    )


def _bins(rows: Sequence[Mapping[str, Any]]) -> Reliability:
    keys = ("probability", "frequency", "low", "high", "n")
    return Reliability(*([row[key] for row in rows] for key in keys))


def _risk_coverage(selection: Mapping[str, Any]) -> Picture:
    curve, estimates = selection["curve"], selection["estimates"]
    answered, wrong = estimates["answered"], estimates.get("error_answered")
    point = None
    if wrong is not None:
        point = MarkedPoint("abstention as it is set, 95 % intervals", _interval(answered), _interval(wrong))
    return Picture(
        risk_coverage(curve["coverage"], curve["risk"], point, estimates["error_all"]["value"]),
        "How wrong the answers are when only the surest images are answered; the surest are those farthest "
        f"from the threshold. Area under the curve {_text(estimates.get('aurc'), 4)}.",
        "Risk-coverage curve: error among answered images against their share.",
    )


def _costs(costs: Mapping[str, Any]) -> dict[str, Picture]:
    curve, used = costs["curve"], costs["costs"]
    ratio = used["missed_pneumonia"] / used["false_alarm"]
    marked = [
        MarkedPoint(name, (costs[key]["threshold"],) * 3, (costs[key]["cost_per_1000"],) * 3)
        for name, key in (("operating point", "at_operating_point"), ("cheapest on these images", "cheapest"))
    ]
    pictures = {
        "cost_threshold": Picture(
            cost_over_threshold(curve["threshold"], curve["cost_per_1000"], marked, _COST_UNIT),
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
        cost_curves([row[key] for row in rows], label, lines, thresholds, mark),
        f"Expected cost per 1,000 children (left) and the cheapest threshold on these images (right) as the "
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


Array = npt.ArrayLike


@dataclass(frozen=True, slots=True)
class MarkedPoint:
    """A point drawn on a curve; ``x`` and ``y`` are (value, low, high), all three alike for no interval."""

    name: str
    x: tuple[float, float, float]
    y: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Bins of a reliability diagram: mean predicted probability, observed share with its interval, count."""

    predicted: Array
    observed: Array
    low: Array
    high: Array
    count: Array


@styled
def confusion_matrix(
    counts: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str] | None = None
) -> Figure:
    """Counts with the share of their row; rows are the reference, columns the decision."""
    columns = rows if columns is None else columns
    table = np.asarray(counts, dtype=float)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure = new_figure(2.2 + 1.45 * len(columns), 1.5 + 1.15 * len(rows))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        color = "white" if share > 0.6 else INK
        axes.text(
            column,
            row - 0.08,
            f"{table[row, column]:,.0f}",
            ha="center",
            va="center",
            color=color,
            fontsize=15,
            fontweight="bold",
        )
        axes.text(
            column, row + 0.24, f"{100 * share:.1f} %", ha="center", va="center", color=color, fontsize=10.5
        )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="answer of the network", ylabel="reference")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@styled
def roc_curve(
    false_positive_rate: Array,
    sensitivity: Array,
    *,
    points: Sequence[MarkedPoint] = (),
    label: str = "ROC",
) -> Figure:
    """Sensitivity against false-positive rate, whole and, when the curve is steep, its corner enlarged.

    Args:
        points: operating points (x = 1 - specificity, y = sensitivity).
        label: legend of the curve, for example the AUC with its interval.
    """
    figure = new_figure(10.0, 4.9)
    whole, corner = figure.subplots(1, 2)
    for axes in (whole, corner):
        axes.plot(false_positive_rate, sensitivity, color=PALETTE[0], label=label, drawstyle="steps-post")
        _mark(axes, points)
        axes.set_xlabel("false alarms: 1 − specificity")
    whole.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=":", label="chance")
    whole.set(
        ylabel="pneumonia found: sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title="ROC curve"
    )
    corner.set(xlim=(-0.005, 0.255), ylim=(0.745, 1.005), title="Upper left corner, enlarged")
    whole.legend(loc="lower right")
    return figure


@styled
def precision_recall(
    recall: Array,
    precision: Array,
    *,
    prevalence: float,
    points: Sequence[MarkedPoint] = (),
    label: str = "precision-recall",
) -> Figure:
    """Precision against recall, the line of chance (the prevalence) and points at (recall, precision)."""
    figure = new_figure(6.4, 4.9)
    axes = figure.subplots()
    axes.plot(recall, precision, color=PALETTE[0], label=label)
    axes.axhline(
        prevalence,
        color=SOFT,
        linewidth=1,
        linestyle=":",
        label=f"chance ({100 * prevalence:.0f} % with pneumonia)",
    )
    _mark(axes, points)
    bottom = min(prevalence, float(np.min(precision))) - 0.04
    axes.set(xlabel="recall: pneumonia found", ylabel="precision: alarms that are right", xlim=(-0.02, 1.02))
    axes.set_ylim(max(bottom, -0.02), 1.01)
    axes.legend(loc="lower left")
    return figure


def _mark(axes: Axes, points: Sequence[MarkedPoint]) -> None:
    for marker, color, point in zip("osD^vP", PALETTE[1:], points, strict=False):
        (x, left, right), (y, low, high) = point.x, point.y
        axes.errorbar(
            x,
            y,
            xerr=[[max(x - left, 0)], [max(right - x, 0)]],
            yerr=[[max(y - low, 0)], [max(high - y, 0)]],
            fmt=marker,
            color=color,
            markersize=8,
            markeredgecolor="white",
            elinewidth=1.6,
            label=point.name,
            zorder=4,
        )


def _plain_numbers(axes: Axes) -> None:
    """Counts on a logarithmic axis as 1, 10, 100."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


@styled
def reliability_diagram(bins: Reliability, label: str = "", before: Reliability | None = None) -> Figure:
    """Observed share against predicted probability, with intervals, over the number of images in each bin.

    ``before`` is drawn behind it: the same images without calibration.
    """
    figure = new_figure(6.4, 5.6)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    predicted, observed = np.asarray(bins.predicted), np.asarray(bins.observed)
    errors = np.maximum(np.stack([observed - np.asarray(bins.low), np.asarray(bins.high) - observed]), 0)
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=":", label="perfect")
    if before is not None:
        axes.plot(
            np.asarray(before.predicted), np.asarray(before.observed), "s--", color=PALETTE[1], markersize=5,
            linewidth=1.4, label="before calibration",
        )  # fmt: skip
    axes.errorbar(
        predicted,
        observed,
        errors,
        fmt="o-",
        color=PALETTE[0],
        capsize=3,
        elinewidth=1.4,
        label=label or "images, 95 % interval",
    )
    axes.set(ylabel="share that has pneumonia", xlim=(-0.02, 1.02), ylim=(-0.03, 1.03))
    axes.legend(loc="upper left")
    below.bar(predicted, np.asarray(bins.count), width=0.035, color=PALETTE[5])
    below.set(xlabel="calibrated probability of pneumonia", ylabel="images", yscale="log", ylim=(0.7, None))
    _plain_numbers(below)
    return figure


@styled
def score_histogram(scores: Mapping[str, Array], *, threshold: float | None = None, bins: int = 40) -> Figure:
    """Number of images per probability of pneumonia, by reference class, on a logarithmic count axis."""
    figure = new_figure(8.0, 4.0)
    axes = figure.subplots()
    edges = np.linspace(0, 1, bins + 1).tolist()
    for name, values in scores.items():
        sample = np.asarray(values, dtype=float)
        axes.hist(
            sample,
            edges,
            histtype="step",
            linewidth=2,
            color=class_color(name),
            label=f"{name} ({sample.size:,})",
        )
        axes.hist(sample, edges, alpha=0.15, color=class_color(name))
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.4, linestyle="--", label=f"threshold {threshold:.3f}")
    axes.set(xlabel="calibrated probability of pneumonia", ylabel="images", yscale="log", xlim=(-0.01, 1.01))
    axes.set_ylim(bottom=0.7)
    _plain_numbers(axes)
    figure.legend(loc="outside upper left", ncols=4)
    return figure


@styled
def cost_over_threshold(thresholds: Array, cost: Array, points: Sequence[MarkedPoint], unit: str) -> Figure:
    """Expected cost against the threshold, both axes chosen so that the low end can be read.

    Args:
        thresholds: (T,) on the probability of pneumonia, strictly between 0 and 1.
        cost: (T,) expected cost.
        points: (threshold, cost) of the operating point and of the cheapest threshold.
        unit: what the cost counts.
    """
    figure = new_figure(8.0, 4.2)
    axes = figure.subplots()
    axes.plot(thresholds, cost, color=PALETTE[0], drawstyle="steps-mid", label="these images")
    _mark(axes, points)
    axes.set(xlabel="threshold on the probability of pneumonia (log-odds scale)", ylabel=unit)
    axes.set(xscale="logit")
    axes.set_yscale("symlog", linthresh=_LINEAR_BELOW)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(FixedLocator(_THRESHOLD_TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = min(0.009, *(point.x[0] for point in points)), max(0.991, *(point.x[0] for point in points))
    axes.set_xlim(low / 1.3, 1 - (1 - high) / 1.3)
    _plain_numbers(axes)
    axes.legend()
    return figure


_LINEAR_BELOW = 10.0
"""Costs are drawn on a logarithmic axis above this and on a linear one below, so that a cost of 0 is seen."""

_THRESHOLD_TICKS = (0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999, 0.9999)


@styled
def cost_curves(x: Array, xlabel: str, costs: Mapping[str, Array], thresholds: Array, mark: float) -> Figure:
    """How expected cost and the cheapest threshold move with the cost ratio or the prevalence.

    Args:
        x: (M,) above zero, rising.
        xlabel: what ``x`` is.
        costs: strategy -> (M,) expected cost per 1,000 children.
        thresholds: (M,) the cheapest threshold at each ``x``.
        mark: the value of ``x`` that the run was asked for.
    """
    figure = new_figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    for (name, values), color, dash in zip(costs.items(), PALETTE, ("-", "--", ":", "-."), strict=False):
        left.plot(x, values, dash, color=color, label=name)
    left.set(xlabel=xlabel, ylabel="cost per 1,000 children", xscale="log", ylim=(0, None))
    left.set_yscale("symlog", linthresh=_LINEAR_BELOW)
    left.legend()
    right.plot(x, thresholds, "o-", color=PALETTE[1])
    right.set(xlabel=xlabel, ylabel="cheapest threshold", xscale="log", ylim=(-0.02, 1.02))
    for axes in (left, right):
        axes.axvline(mark, color=SOFT, linewidth=1, linestyle=":")
        axes.xaxis.set_major_locator(FixedLocator(_thinned(x)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    _plain_numbers(left)
    return figure


def _thinned(x: Array) -> list[float]:
    """Values of ``x`` far enough apart, on a logarithmic axis, that their labels do not touch."""
    kept: list[float] = []
    for value in np.asarray(x, dtype=float).tolist():
        if not kept or value >= kept[-1] * 10**0.22:
            kept.append(value)
    return kept


@styled
def risk_coverage(
    coverage: npt.ArrayLike, risk: npt.ArrayLike, achieved: MarkedPoint | None, everyone: float
) -> Figure:
    """Error among the answered images against the share that is answered, the surest images first.

    Args:
        coverage: (M,) rising, in (0, 1].
        risk: (M,) error among these images, in [0, 1].
        achieved: what a bundle's own abstention does (x is the share answered, y the error among them).
        everyone: error when every image is answered.
    """
    figure = new_figure(8.0, 4.2)
    axes = figure.subplots()
    axes.plot(coverage, 100 * np.asarray(risk), color=PALETTE[0], label="surest images first")
    axes.axhline(
        100 * everyone, color=SOFT, linewidth=1, linestyle=":", label=f"all answered: {100 * everyone:.2f} %"
    )
    if achieved is not None:
        (x, left, right), (y, low, high) = achieved.x, (100 * value for value in achieved.y)
        axes.errorbar(
            x,
            y,
            xerr=[[x - left], [right - x]],
            yerr=[[y - low], [high - y]],
            fmt="o",
            color=PALETTE[1],
            markersize=8,
            markeredgecolor="white",
            elinewidth=1.6,
            label=achieved.name,
            zorder=4,
        )
    axes.set(xlabel="share of the images that are answered", ylabel="wrong among them, in %", xlim=(0, 1.02))
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left")
    return figure
