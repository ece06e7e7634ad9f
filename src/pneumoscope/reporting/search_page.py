"""The page of a hyper-parameter search: what was found, what mattered, and what it can be trusted for.

In: the content of ``search.json``. Out: one self-contained HTML file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pneumoscope.core.files import write_text
from pneumoscope.reporting import search_figures
from pneumoscope.reporting.figures import svg
from pneumoscope.reporting.pages import render

_ROWS_SHOWN = 10
_STATES = ("complete", "pruned", "failed", "running", "waiting")


def write_search_page(document: Mapping[str, Any], file: Path) -> None:
    """Write the page of ``document`` to ``file``; before the first complete trial it says so."""
    rows, search, best = document["trials"], document["search"], document["best"]
    found = best is not None
    shares = {
        name: share
        for name, share in document["importances"].items()
        if search_figures.varies(search["space"][name])
    }
    write_text(
        file,
        render(
            "search.html",
            document=document,
            search=search,
            objective=search_figures.OBJECTIVES[search["objective"]],
            counts={state: sum(row["state"] == state for row in rows) for state in _STATES},
            seconds=sum(row["seconds"] or 0 for row in rows),
            best=rows[best] if found else None,
            base=_base(document),
            history=svg(search_figures.history(rows, search["objective"])) if found else None,
            importances=svg(search_figures.importances(shares)) if shares else None,
            slices=svg(search_figures.slices(rows, search, best)) if found else None,
            curves=svg(search_figures.curves(rows, search["objective"], best)) if found else None,
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
        [name.replace("_", " "), *(_value(row["parameters"][name]) for row in shown)]
        for name in document["searched"]
    ]
    return ["Trial", *(str(row["number"]) for row in shown)], figures + parameters


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _choices(kind: Any) -> str:
    """A part of the space in words."""
    if isinstance(kind, Mapping):
        return f"{kind['low']:g} to {kind['high']:g}{', logarithmic' if kind['log'] else ''}"
    return ", ".join(search_figures.choice_word(choice) for choice in kind)
