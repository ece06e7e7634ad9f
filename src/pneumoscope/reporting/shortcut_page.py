"""The shortcut audit as a page and as Markdown.

In: the audit's JSON and example films. Out: ``shortcuts.html`` (self-contained), ``shortcuts.md``, the tables
that the documentation shows, and ``contact-sheet.jpg``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pneumoscope.core.files import write_bytes, write_text
from pneumoscope.evaluation.shortcut_examples import ExampleFilm
from pneumoscope.evaluation.shortcut_limits import failed_checks
from pneumoscope.evaluation.stress_scores import FAIL
from pneumoscope.reporting.figures import svg
from pneumoscope.reporting.pages import render
from pneumoscope.reporting.shortcut_figures import auc_chart, contact_sheet, fidelity_chart

VERDICTS = {
    "pass": "PASS: every limit is kept",
    "fail": "FAIL: not to be released",
    "open": "OPEN: the AUC without lungs could not be measured",
}

CHECK_COLUMNS = ("check", "limit", "value", "films", "verdict")
PROBE_COLUMNS = (
    "film",
    "AUC",
    "AUC, pooled",
    "accuracy",
    "change in points",
    "mean p, normal",
    "mean p, pneumonia",
)
GIVEAWAY_COLUMNS = ("classifier", "sees", "AUC", "accuracy", "best single property")
MAP_COLUMNS = ("heat maps", "value", "films")

Row = list[str]


def write_shortcut_page(
    document: Mapping[str, Any], examples: Sequence[ExampleFilm], directory: Path
) -> Path:
    """Write the page, the Markdown and the contact sheet into ``directory``; return the page.

    Args:
        document: what ``pneumoscope audit-shortcuts`` found, the content of ``shortcuts.json``.
        examples: at least one film.
        directory: made when it is missing.
    """
    sheet = contact_sheet(examples)
    maps, kinds = document["maps"], document["giveaways"]["kinds"]
    chart = auc_chart(document["probes"], list(kinds.values()), document["limits"]["max_auc_without_lungs"])
    page = directory / "shortcuts.html"
    html = render(
        "shortcuts.html",
        document=document,
        verdict=VERDICTS[document["verdict"]],
        failed=failed_checks(document["checks"]),
        probes=document["probes"],
        check_columns=CHECK_COLUMNS,
        checks=check_rows(document),
        probe_columns=PROBE_COLUMNS,
        probe_rows=probe_rows(document),
        giveaway_columns=GIVEAWAY_COLUMNS,
        giveaway_rows=giveaway_rows(document),
        map_columns=MAP_COLUMNS,
        map_rows=map_rows(maps) if maps else [],
        chart=svg(chart) if chart else None,
        curves=svg(fidelity_chart(maps["curves"])) if maps else None,
        sheet=sheet,
    )
    write_text(page, html)
    write_text(directory / "shortcuts.md", shortcut_markdown(document))
    write_bytes(directory / "contact-sheet.jpg", sheet)
    return page


def shortcut_markdown(document: Mapping[str, Any]) -> str:
    """The verdict and all tables, and under them what was measured on what, as Markdown."""
    lines = [f"**{VERDICTS[document['verdict']]}.**", ""]
    lines += [*_table(CHECK_COLUMNS, check_rows(document)), *_table(PROBE_COLUMNS, probe_rows(document))]
    if document["giveaways"]["kinds"]:
        lines += _table(GIVEAWAY_COLUMNS, giveaway_rows(document))
    if document["maps"]:
        lines += _table(MAP_COLUMNS, map_rows(document["maps"]))
    return "\n".join([*lines, provenance(document)]) + "\n"


def provenance(document: Mapping[str, Any]) -> str:
    """What was measured on what, in one paragraph."""
    told = (
        f"{document['films']:,} films of {document['patients']:,} patients of {document['dataset']}, "
        f"{document['protocol']}; seed {document['seed']}. Intervals: 95 %, bootstrap over patients "
        f"(accuracy: Wilson). Mean p: mean probability of pneumonia of the films of that class."
    )
    if document["without_lungs"]:
        count = sum(document["without_lungs"].values())
        labels = ", ".join(f"{number} {label}" for label, number in document["without_lungs"].items())
        told += f" Left out, as no pair of lungs was found on them: {count} films ({labels})."
    return told


def check_rows(document: Mapping[str, Any]) -> list[Row]:
    """The checks: title, limit, value with interval, films, verdict."""
    return [
        [
            check["title"],
            f"{check['bound']} {check['limit']:g}",
            _interval(check if check["n"] else None),
            f"{check['n']:,}" if check["n"] else "–",
            {"pass": "pass", FAIL: "**fail**"}.get(check["verdict"], "not measured"),
        ]
        for check in document["checks"]
    ]


def probe_rows(document: Mapping[str, Any]) -> list[Row]:
    """The unchanged films and every probe."""
    rows = []
    for probe in document["probes"]:
        own, change = probe["estimates"], probe["estimates"].get("accuracy_change")
        row = [probe["title"], _interval(own.get("auc_within")), _value(own.get("roc_auc"))]
        row += [_percent(own.get("accuracy")), _interval(change, "+.2f") if change else ""]
        row += [_decimals(probe["means"]["normal"]), _decimals(probe["means"]["pneumonia"])]
        if probe["unmeasured"]:
            row[1:] = [f"not measured: {probe['unmeasured']}", *[""] * (len(row) - 2)]
        rows.append(row)
    return rows


def giveaway_rows(document: Mapping[str, Any]) -> list[Row]:
    """Classifiers that see no film, and always saying the commoner class."""
    found = document["giveaways"]
    rows = [
        [
            kind["title"],
            kind["what"],
            _interval(kind["roc_auc"]),
            _percent(kind["accuracy"]),
            f"{kind['best']['name'].replace('_', ' ')}: {kind['best']['roc_auc']:.3f}",
        ]
        for kind in found["kinds"].values()
    ]
    return [*rows, ["The commoner class", "nothing", "0.500", f"{100 * found['majority']:.1f} %", ""]]


def map_rows(maps: Mapping[str, Any]) -> list[Row]:
    """Every figure about the maps."""
    rows: list[tuple[str, Mapping[str, Any] | None]] = []
    for region, words in (("lungs", "the lungs"), ("wide", "the lungs, wide")):
        energy = maps["energy"][region]
        rows.append((f"Share of the map in {words}", energy["share"]))
        rows.append((f"... over the share of the film that {words} cover", energy["ratio"]))
    for pair, alike in maps["agreement"].items():
        rows.append((f"Rank correlation: {pair}", alike["rank_correlation"]))
        rows.append(("... overlap of the strongest fifth (chance: 0.2)", alike["top_overlap"]))
    for level, alike in maps["randomised"].items():
        rows.append((f"Random weights ({level}): size of the rank correlation", alike["rank_correlation"]))
        rows.append(("... structural similarity", alike["similarity"]))
    for curve in ("deletion", "insertion"):
        fidelity = maps["fidelity"][curve]
        rows.append((f"{curve.capitalize()}: area under the curve", fidelity["area"]))
        rows.append(("... in random order", fidelity["random"]))
        rows.append(("... gain over it", fidelity["gain"]))
    return [[title, _interval(item), f"{item['n']:,}" if item else "–"] for title, item in rows]


def _table(columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _interval(estimate: Mapping[str, Any] | None, form: str = ".3f") -> str:
    if estimate is None:
        return "–"
    return f"{estimate['value']:{form}} ({estimate['low']:{form}} to {estimate['high']:{form}})"


def _value(estimate: Mapping[str, Any] | None) -> str:
    return "–" if estimate is None else _decimals(estimate["value"])


def _decimals(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(estimate: Mapping[str, Any] | None) -> str:
    return "–" if estimate is None else f"{100 * estimate['value']:.1f} %"
