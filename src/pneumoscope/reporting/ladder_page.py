"""Comparison of model families: ``ladder.html``, ``ladder.csv`` and ``ladder.md`` from ``ladder.json``."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pneumoscope.core.files import write_text
from pneumoscope.core.format import estimate, markdown_table
from pneumoscope.evaluation.metrics import TITLES
from pneumoscope.reporting.figures import PALETTE, SOFT, new_figure, styled, svg
from pneumoscope.reporting.pages import render

_SHORT = {
    "roc_auc": "AUC",
    "sensitivity": "Recall",
    "false_negative_rate": "FNR",
    "ece": "ECE",
    "three_class_accuracy": "3-class accuracy",
}
_FOREST = ("roc_auc", "accuracy")


def write_ladder(result: Mapping[str, Any], directory: Path) -> Path:
    """Write ``ladder.html``, ``ladder.csv`` and ``ladder.md`` into ``directory``; return the page.

    Args:
        result: the content of ``ladder.json``.
        directory: made when it is missing.
    """
    write_text(directory / "ladder.csv", ladder_csv(result))
    write_text(directory / "ladder.md", ladder_markdown(result))
    page = directory / "ladder.html"
    write_text(page, render("ladder.html", **_context(result)))
    return page


def _context(result: Mapping[str, Any]) -> dict[str, Any]:
    rungs = compared_rungs(result)
    return {
        "result": result,
        "protocol": result["protocol"],
        "rungs": rungs,
        "groups": {
            group: [rung for rung in rungs if rung["group"] == group]
            for group in dict.fromkeys(rung["group"] for rung in rungs)
        },
        "place": places(result),
        "columns": [(key, _SHORT.get(key, TITLES[key]), TITLES[key]) for key in FIGURES],
        "rankings": [(TITLES[key], ranking_sentences(result, key)) for key in result["ranking"]],
        "controls": control_rows(result),
        "settings": {rung["name"]: settings_text(rung["changes"]) for rung in result["rungs"]},
        "started": {rung["name"]: started_from(rung) for rung in result["rungs"]},
        "base": settings_text(result["base"]),
        "forest": _forest(result),
        "matrix": _matrix(result) if result["pairs"] else None,
        "curves": svg(curve_panels({rung["name"]: rung["history"] for rung in rungs})),
    }


def _forest(result: Mapping[str, Any]) -> str:
    by_name = {rung["name"]: rung["estimates"] for rung in compared_rungs(result)}
    ordered = sorted(by_name, key=lambda name: -by_name[name]["roc_auc"]["value"])
    best = {key: result["ranking"][key][0] for key in _FOREST}
    titles = {key: TITLES[key] for key in _FOREST}
    return svg(forest({name: by_name[name] for name in ordered}, best, titles))


def _matrix(result: Mapping[str, Any]) -> str:
    names = [name for place in result["ranking"]["roc_auc"] for name in place]
    significance = result["protocol"]["significance"]
    better: dict[tuple[str, str], tuple[int, int]] = {}
    for first in names:
        for second in names:
            tests = oriented_tests(result, first, second)
            if tests:
                by_auc, by_accuracy = (_sign(test, significance) for test in tests)
                better[first, second] = by_auc, by_accuracy
    return svg(significance_matrix(names, better))


def _sign(test: Mapping[str, Any], significance: float) -> int:
    if test["p_corrected"] >= significance:
        return 0
    return 1 if test["difference"] > 0 else -1


FIGURES = (
    "roc_auc",
    "accuracy",
    "precision",
    "sensitivity",
    "specificity",
    "f1",
    "false_negative_rate",
    "ece",
    "three_class_accuracy",
)
"""The figures of a rung, in the order of the table."""

_TESTS = ("auc", "accuracy")
_MEGABYTE = 1e6
_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")

Result = Mapping[str, Any]


def compared_rungs(result: Result) -> list[Mapping[str, Any]]:
    """The rungs that have figures, in the ladder's order."""
    return [rung for rung in result["rungs"] if rung["estimates"]]


def places(result: Result, key: str = "roc_auc") -> dict[str, str]:
    """Place of each compared rung in the ranking by ``key``; ``2=`` where it shares it."""
    return {
        name: f"{number}{'=' if len(place) > 1 else ''}"
        for number, place in enumerate(result["ranking"][key], start=1)
        for name in place
    }


def ranking_sentences(result: Result, key: str = "roc_auc") -> list[str]:
    """One sentence for each place of the ranking by ``key``, which says who is tied there."""
    values = {rung["name"]: rung["estimates"][key]["value"] for rung in compared_rungs(result)}
    named = {name: f"{name} ({value:.4f})" for name, value in values.items()}
    sentences = []
    for number, (best, *tied) in enumerate(result["ranking"][key], start=1):
        text = f"Place {number}: {named[best]}"
        if tied:
            text += f"; tied with it, as the test cannot tell them apart: {', '.join(named[n] for n in tied)}"
        sentences.append(text + ".")
    return sentences


def oriented_tests(
    result: Result, first: str, second: str
) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The AUC's and the accuracy's test of ``first`` minus ``second``, whichever way they are stored."""
    for pair in result["pairs"]:
        if (pair["first"], pair["second"]) == (first, second):
            return pair["auc"], pair["accuracy"]
        if (pair["first"], pair["second"]) == (second, first):
            return _turned(pair["auc"]), _turned(pair["accuracy"])
    return None


def control_rows(result: Result) -> list[dict[str, Any]]:
    """Each rung beside the one that it differs from in one thing: name, control, says, and a cell a test.

    A cell holds the difference with its interval, the corrected p value and ``better``, ``worse`` or ``not
    told apart``.
    """
    says = {rung["name"]: rung["says"] for rung in result["rungs"]}
    return [
        {
            "name": pair["first"],
            "control": pair["second"],
            "says": says[pair["first"]],
            **{name: _cell(pair[name], result) for name in _TESTS},
        }
        for pair in result["controls"]
    ]


def settings_text(changes: Mapping[str, Any]) -> str:
    """What a rung sets beyond the base, as ``key value, key value``; a key of a table has a dot."""
    return ", ".join(f"{key} {_plain(value)}" for key, value in _flat(changes)) or "nothing"


def started_from(rung: Mapping[str, Any]) -> str:
    """The weights that a rung started from, a hash cut to twelve digits; ``not run`` without any."""
    return _HASH.sub(r"\1…", rung.get("initial_weights", "not run"))


def ladder_csv(result: Result) -> str:
    """One row a rung, also for those without figures, whose cells are empty."""
    by_auc, by_accuracy = places(result), places(result, "accuracy")
    rows = []
    for rung in result["rungs"]:
        row = {key: rung[key] for key in ("name", "says", "group", "network", "task")}
        row["settings"] = settings_text(rung["changes"])
        row["folds"] = " ".join(str(number + 1) for number in rung["folds"])
        row["place_by_auc"] = by_auc.get(rung["name"], "")
        row["place_by_accuracy"] = by_accuracy.get(rung["name"], "")
        for key in FIGURES:
            item = (rung["estimates"] or {}).get(key, {})
            row |= {f"{key}{end}": item.get(part, "") for end, part in _COLUMNS}
        row |= {key: rung.get(key, "") for key in _COSTS}
        row["failure"] = rung["failure"] or ""
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_COLUMNS = (("", "value"), ("_low", "low"), ("_high", "high"), ("_n", "n"))
_COSTS = ("parameters", "training_seconds", "milliseconds_per_film", "bundle_bytes", "initial_weights")


def ladder_markdown(result: Result) -> str:
    """The ladder as a page of a repository: protocol, ranking, table, comparisons, costs and what was cut."""
    protocol = result["protocol"]
    folds = ", ".join(map(str, protocol["shared_folds"]))
    parts = [
        "# The ladder",
        f"{len(compared_rungs(result))} networks under one protocol on {protocol['films']:,} images of "
        f"{protocol['patients']:,} patients: fold{'s' if len(protocol['shared_folds']) > 1 else ''} {folds} "
        f"of {protocol['folds']}, split by patient, the same for all. Every image is scored by a network "
        f"that never saw its patient, at the operating point \u201c{protocol['operating_point']}\u201d that "
        "was chosen on other images. 95 % intervals in brackets.",
        "## What was cut",
        _bullets(result["cut"] or ["Nothing."]),
        "## Ranking by ROC AUC",
        _bullets(ranking_sentences(result)),
        "## Ranking by accuracy",
        _bullets(ranking_sentences(result, "accuracy")),
        "Two rungs are told apart when the paired test (DeLong for AUC, McNemar for accuracy), corrected "
        f"for all pairs after Holm, gives p < {protocol['significance']}.",
        "## Figures",
        markdown_table(["rung", "place", *(TITLES[key] for key in FIGURES)], _figure_rows(result)),
        "## One thing changed",
        "Each rung minus the rung that it differs from in one thing; p values are corrected for these "
        "comparisons, which were planned beforehand.",
        markdown_table(["rung", "against", "AUC", "", "accuracy", ""], _control_cells(result)),
        "## What each rung is",
        markdown_table(
            ["rung", "what it is", "settings beyond the base", "started from"], _setting_rows(result)
        ),
        f"The base: {settings_text(result['base'])}.",
        "## Costs",
        markdown_table(
            ["rung", "parameters", "training, s a fold", "ms an image", "bundle, MB"], _cost_rows(result)
        ),
        "Milliseconds are those of the network's pass over one image in ONNX Runtime on "
        f"{protocol['speed_threads']} thread of the CPU; training times are those of the machine that "
        "trained, busy or not.",
    ]
    return "\n\n".join(parts) + "\n"


def _figure_rows(result: Result) -> Iterator[list[str]]:
    place = places(result)
    for rung in compared_rungs(result):
        cells = [estimate(rung["estimates"].get(key)) for key in FIGURES]
        yield [rung["name"], place[rung["name"]], *cells]


def _control_cells(result: Result) -> Iterator[list[str]]:
    for row in control_rows(result):
        cells = [text for key in _TESTS for text in (row[key]["difference"], row[key]["verdict"])]
        yield [row["name"], row["control"], *cells]


def _setting_rows(result: Result) -> Iterator[list[str]]:
    for rung in result["rungs"]:
        yield [rung["name"], rung["says"], settings_text(rung["changes"]), started_from(rung)]


def _cost_rows(result: Result) -> Iterator[list[str]]:
    for rung in compared_rungs(result):
        yield [
            rung["name"],
            f"{rung['parameters']:,}",
            f"{rung['training_seconds']:.0f}",
            f"{rung['milliseconds_per_film']:.2f}",
            f"{rung['bundle_bytes'] / _MEGABYTE:.1f}",
        ]


def _cell(test: Mapping[str, Any], result: Result) -> dict[str, Any]:
    verdict = "not told apart"
    if test["p_corrected"] < result["protocol"]["significance"]:
        verdict = "better" if test["difference"] > 0 else "worse"
    p = "p < 0.001" if test["p_corrected"] < 0.001 else f"p = {test['p_corrected']:.3f}"
    return {
        "difference": estimate({**test, "value": test["difference"]}, "+.4f"),
        "verdict": f"{verdict}, {p}",
        "kind": verdict,
    }


def _turned(test: Mapping[str, Any]) -> dict[str, Any]:
    """The test of the second minus the first."""
    return {**test, "difference": -test["difference"], "low": -test["high"], "high": -test["low"]}


def _flat(changes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in changes.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " / ".join(map(_plain, value))
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_plain(one)}" for key, one in value.items())
    return (
        f"{value:g}"
        if isinstance(value, float)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


_WORSE, _TIED, _BETTER = PALETTE[1], "#e9edf1", PALETTE[0]
_SMALL = 9.0
_PANELS_A_ROW = 4
_LEGEND_WIDTH = 6.0  # inches that the three entries below the matrix need


@styled
def forest(
    estimates: Mapping[str, Mapping[str, Mapping[str, float]]],
    best: Mapping[str, Sequence[str]],
    titles: Mapping[str, str],
) -> Figure:
    """A panel a figure, a row a rung: value and 95 % interval; what shares the first place is coloured.

    Args:
        estimates: rung -> figure -> {value, low, high}; the first is drawn on top.
        best: figure -> rungs of the first place.
        titles: figure -> title of its panel, one panel each.
    """
    names = list(estimates)
    figure = new_figure(10.5, 1.3 + 0.31 * len(names))
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        for row, name in enumerate(names):
            item = estimates[name][key]
            color = PALETTE[0] if name in best[key] else SOFT
            axes.plot([item["low"], item["high"]], [row, row], color=color, linewidth=2.0)
            axes.plot(item["value"], row, "o", color=color, markersize=6)
        axes.set(title=title)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_yticks(range(len(names)), names, fontsize=10)
        axes.set_ylim(len(names) - 0.5, -0.5)
    return figure


@styled
def significance_matrix(names: Sequence[str], better: Mapping[tuple[str, str], tuple[int, int]]) -> Figure:
    """Who is told apart from whom: by AUC above the diagonal, by accuracy below it.

    Args:
        names: rungs, in the order of rows and columns.
        better: (row, column) -> by AUC and by accuracy: 1 when the row is better, -1 when it is worse, 0 when
            the test cannot tell.
    """
    count = len(names)
    cells = np.full((count, count), np.nan)
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            if i != j:
                cells[i, j] = better[first, second][0 if j > i else 1]
    side = 2.4 + 0.3 * count
    figure = new_figure(max(side + 1.2, _LEGEND_WIDTH), side)
    axes = figure.subplots()
    axes.imshow(cells, cmap=ListedColormap([_WORSE, _TIED, _BETTER]), vmin=-1.5, vmax=1.5)
    axes.set_xticks(range(count), names, rotation=90, fontsize=_SMALL)
    axes.set_yticks(range(count), names, fontsize=_SMALL)
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.plot([-0.5, count - 0.5], [-0.5, count - 0.5], color=SOFT, linewidth=1)
    words = ((_BETTER, "row better than column"), (_TIED, "not told apart"), (_WORSE, "row worse"))
    figure.legend(
        handles=[Patch(color=color, label=label) for color, label in words],
        loc="outside lower center",
        ncols=3,
    )
    return figure


@styled
def curve_panels(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Training and validation loss against epochs, a small panel a rung, all on one loss axis.

    Args:
        histories: rung -> columns ``epoch`` (from 0; drawn from 1), ``train_loss``, ``validation_loss``.
    """
    rows = math.ceil(len(histories) / _PANELS_A_ROW)
    columns = min(len(histories), _PANELS_A_ROW)
    figure = new_figure(10.5, 0.8 + 1.9 * rows)
    panels: list[Axes] = list(figure.subplots(rows, columns, sharey=True, squeeze=False).ravel())
    for axes, (name, history) in zip(panels, histories.items(), strict=False):
        epochs = np.asarray(history["epoch"]) + 1
        for column, label, color in (
            ("train_loss", "training", PALETTE[0]),
            ("validation_loss", "validation", PALETTE[1]),
        ):
            axes.plot(epochs, history[column], "o-", color=color, label=label, markersize=3.5, linewidth=1.6)
        axes.set_title(name, fontsize=10.5, pad=4)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        axes.tick_params(labelsize=_SMALL)
    for axes in panels[len(histories) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2)
    figure.supxlabel("epoch", fontsize=11)
    figure.supylabel("cross-entropy", fontsize=11)
    return figure
