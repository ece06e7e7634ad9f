"""Hyper-parameter search report: best trials, history, importances and slices as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from pneumoscope.core.files import write_text
from pneumoscope.core.format import short
from pneumoscope.reporting.figures import PALETTE, SOFT, new_figure, styled, svg
from pneumoscope.reporting.pages import render

_ROWS_SHOWN = 10
_STATES = ("complete", "pruned", "failed", "running", "waiting")


def write_search_page(document: Mapping[str, Any], file: Path) -> None:
    """Write the page of ``document`` to ``file``; before the first complete trial it says so."""
    rows, search, best = document["trials"], document["search"], document["best"]
    found = best is not None
    shares = {name: share for name, share in document["importances"].items() if varies(search["space"][name])}
    write_text(
        file,
        render(
            "search.html",
            document=document,
            search=search,
            objective=OBJECTIVES[search["objective"]],
            counts={state: sum(row["state"] == state for row in rows) for state in _STATES},
            seconds=sum(row["seconds"] or 0 for row in rows),
            best=rows[best] if found else None,
            base=_base(document),
            history=svg(history(rows, search["objective"])) if found else None,
            importances=svg(importances(shares)) if shares else None,
            slices=svg(slices(rows, search, best)) if found else None,
            curves=svg(curves(rows, search["objective"], best)) if found else None,
            best_table=_best_table(document),
            space_rows=[
                (name.replace("_", " "), _choices(search["space"][name])) for name in document["searched"]
            ],
            failures=[
                (str(row["number"]), row["reason"] or "stopped") for row in rows if row["state"] == "failed"
            ],
        ),
    )


def _base(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The trial of the base configuration; None when it lies outside the space or is not complete."""
    if document["base"] is None:
        return None
    row: Mapping[str, Any] = document["trials"][document["base"]]
    return row if row["state"] == "complete" else None


def _best_table(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The best complete trials, a column each: the heads, and rows of figures and parameters."""
    complete = [row for row in document["trials"] if row["state"] == "complete"]
    complete.sort(key=lambda row: row["value"], reverse=document["direction"] == "maximize")
    shown = complete[:_ROWS_SHOWN]
    figures = [
        ["log loss", *(f"{row['log_loss']:.4f}" for row in shown)],
        ["ROC AUC", *(f"{row['auc']:.4f}" for row in shown)],
        ["epochs", *(str(row["epochs"]) for row in shown)],
        ["seconds", *(f"{row['seconds']:,.0f}" for row in shown)],
    ]
    parameters = [
        [name.replace("_", " "), *(short(row["parameters"][name]) for row in shown)]
        for name in document["searched"]
    ]
    return ["Trial", *(str(row["number"]) for row in shown)], figures + parameters


def _choices(kind: Any) -> str:
    """A part of the space in words."""
    if isinstance(kind, Mapping):
        return f"{kind['low']:g} to {kind['high']:g}{', logarithmic' if kind['log'] else ''}"
    return ", ".join(choice_word(choice) for choice in kind)


Row = Mapping[str, Any]

OBJECTIVES = {"log-loss": "log loss", "auc": "ROC AUC"}
_BLUE, _ORANGE, _GREEN = PALETTE[:3]
_PANEL_COLUMNS = 3
_LONGEST_WORD = 10


@styled
def history(rows: Sequence[Row], objective: str) -> Figure:
    """Value of each complete trial against its number, the best so far, and marks for pruned trials.

    Args:
        rows: trials; at least one is complete.
        objective: ``log-loss`` (low is good) or ``auc``.
    """
    figure = new_figure(10.0, 4.0)
    axes = figure.subplots()
    complete = [row for row in rows if row["state"] == "complete"]
    numbers = np.array([row["number"] for row in complete])
    values = np.array([row["value"] for row in complete])
    best = (np.minimum if objective == "log-loss" else np.maximum).accumulate(values)
    axes.plot(numbers, values, "o", color=_BLUE, markersize=6, label="complete trial")
    axes.step(numbers, best, where="post", color=_ORANGE, label="best so far")
    pruned = [row["number"] for row in rows if row["state"] == "pruned"]
    if pruned:
        top = axes.get_xaxis_transform()
        axes.plot(pruned, np.full(len(pruned), 0.02), "|", color=SOFT, transform=top, label="pruned trial")
    axes.set(xlabel="trial", ylabel=OBJECTIVES[objective])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper left", ncols=3)
    return figure


@styled
def importances(shares: Mapping[str, float]) -> Figure:
    """Horizontal bars: the share of each parameter, in %, the largest on top."""
    figure = new_figure(10.0, 1.1 + 0.34 * len(shares))
    axes = figure.subplots()
    ordered = sorted(shares.items(), key=lambda item: item[1])
    bars = axes.barh(
        [_title(name) for name, _ in ordered], [100 * share for _, share in ordered], color=_BLUE
    )
    axes.bar_label(bars, [f"{100 * share:.0f}" for _, share in ordered], padding=4)
    axes.set_xlabel("importance in %")
    axes.grid(axis="y", visible=False)
    return figure


@styled
def slices(rows: Sequence[Row], search: Mapping[str, Any], best: int) -> Figure:
    """One panel a parameter that varies: the value of each complete trial against it; the best is marked.

    Args:
        rows: trials.
        search: the search's configuration; its space says which axes are logarithmic.
        best: number of the best trial.
    """
    complete = [row for row in rows if row["state"] == "complete"]
    names = [name for name in complete[0]["parameters"] if varies(search["space"][name])]
    height = math.ceil(len(names) / _PANEL_COLUMNS)
    figure = new_figure(10.5, 2.7 * height)
    panels = figure.subplots(height, _PANEL_COLUMNS, squeeze=False, sharey=True)
    for axes in panels.ravel()[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels.ravel(), names, strict=False):
        kind = search["space"][name]
        places = _places(axes, name, kind, complete)
        values = [row["value"] for row in complete]
        axes.scatter(places, values, s=32, color=_BLUE, alpha=0.7, linewidths=0)
        chosen = [row["number"] for row in complete].index(best)
        axes.scatter(places[chosen], values[chosen], s=90, facecolor="none", edgecolor=_ORANGE, linewidths=2)
        axes.set_title(_title(name), fontsize=11)
        axes.tick_params(labelsize=9.5)
    for row in panels:
        row[0].set_ylabel(OBJECTIVES[search["objective"]], fontsize=11)
    return figure


def _places(axes: Axes, name: str, kind: Any, rows: Sequence[Row]) -> list[float]:
    """Where each trial stands on the axis, which is labelled: numbers as they are, choices side by side."""
    values = [row["parameters"][name] for row in rows]
    if isinstance(kind, Mapping):
        low, high = kind["low"], kind["high"]
        if kind["log"]:
            axes.set_xscale("log")
            # Both ends and their middle; powers of ten alone may be one, or none.
            axes.set_xticks(ends := [low, math.sqrt(low * high), high], [f"{end:.2g}" for end in ends])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlim(low * (low / high) ** 0.05, high * (high / low) ** 0.05)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        return [float(value) for value in values]
    choices = [choice_word(choice) for choice in kind]
    axes.set_xticks(range(len(choices)), [_broken(choice) for choice in choices])
    axes.set_xlim(-0.6, len(choices) - 0.4)
    # Trials of one choice stand beside each other, in the order in which they ran.
    steps = np.linspace(-0.25, 0.25, len(rows))
    return [choices.index(choice_word(value)) + step for value, step in zip(values, steps, strict=True)]


@styled
def curves(rows: Sequence[Row], objective: str, best: int) -> Figure:
    """The figure of each trial after each epoch: complete ones, pruned ones, and the best."""
    figure = new_figure(10.0, 4.0)
    axes = figure.subplots()
    looks = {"pruned": (SOFT, ":", "pruned"), "complete": (_BLUE, "-", "complete")}
    for state, (color, line, name) in looks.items():
        for index, row in enumerate(r for r in rows if r["state"] == state and r["curve"]):
            label = name if index == 0 else None
            epochs = range(1, len(row["curve"]) + 1)
            marker = "x" if state == "pruned" else "."
            axes.plot(epochs, row["curve"], line, color=color, linewidth=1.1, alpha=0.6, label=label)
            axes.plot(epochs[-1], row["curve"][-1], marker, color=color, markersize=7)
    curve = rows[best]["curve"]
    axes.plot(
        range(1, len(curve) + 1), curve, "o-", color=_ORANGE, markersize=5, label=f"trial {best}, the best"
    )
    axes.set(xlabel="epoch", ylabel=f"{OBJECTIVES[objective]} before calibration")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def _title(name: str) -> str:
    return name.replace("_", " ")


def varies(kind: Any) -> bool:
    """Whether a part of the space, a table of a range or a list of choices, holds more than one value."""
    return bool(kind["low"] < kind["high"]) if isinstance(kind, Mapping) else len(kind) > 1


def choice_word(choice: object) -> str:
    """A choice of a space as people read it; dense layers as ``512-128`` or ``none``."""
    if isinstance(choice, list):
        return "-".join(map(str, choice)) or "none"
    return f"{choice:g}" if isinstance(choice, float) else str(choice)


def _broken(word: str) -> str:
    """A long word over two lines, so that it does not run into its neighbour."""
    return word if len(word) <= _LONGEST_WORD else "-\n".join(word.rsplit("-", 1))
