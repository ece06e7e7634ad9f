"""The page of a ladder, and its tables as files.

In: the content of ``ladder.json``. Out: ``ladder.html`` (one self-contained page), ``ladder.csv`` and
``ladder.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pneumoscope.core.files import write_text
from pneumoscope.evaluation.metrics import TITLES
from pneumoscope.reporting.figures import svg
from pneumoscope.reporting.ladder_figures import curve_panels, forest, significance_matrix
from pneumoscope.reporting.ladder_tables import (
    FIGURES,
    compared_rungs,
    control_rows,
    ladder_csv,
    ladder_markdown,
    oriented_tests,
    places,
    ranking_sentences,
    settings_text,
    started_from,
)
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
