"""The stress test as a page and as a Markdown table.

In: the stress test's JSON and one film under every stress. Out: ``stress.html`` (self-contained) and
``stress.md``, the table that the documentation shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pneumoscope.core.files import write_text
from pneumoscope.core.records import FloatArray
from pneumoscope.evaluation.stress_scores import FAIL, failures
from pneumoscope.imaging.stress import StressKind
from pneumoscope.reporting.figures import svg
from pneumoscope.reporting.pages import render
from pneumoscope.reporting.stress_figures import change_chart, stressed_films

_COLUMNS = (
    "stress", "accuracy", "change in points", "sensitivity", "specificity", "AUC", "flipped", "mean shift",
    "warned", "refused", "verdict",
)  # fmt: skip


def write_stress_page(document: Mapping[str, Any], films: Mapping[str, FloatArray], directory: Path) -> Path:
    """Write ``stress.html`` and ``stress.md`` into ``directory``; return the page.

    Args:
        document: what ``pneumoscope stress`` found, the content of ``stress.json``.
        films: one film, unchanged and under every stress, by title.
        directory: made when it is missing.
    """
    everyday = [row for row in document["stresses"] if row["kind"] not in (None, StressKind.PROBE)]
    unchanged = document["stresses"][0]
    page = directory / "stress.html"
    write_text(
        page,
        render(
            "stress.html",
            document=document,
            unchanged=unchanged["estimates"],
            failed=failures(document),
            judged=sum(row["verdict"] is not None for row in document["stresses"]),
            worst=min(everyday, key=lambda row: row["estimates"]["accuracy_change"]["value"]),
            probes=[row for row in document["stresses"] if row["kind"] == StressKind.PROBE],
            chart=svg(change_chart(everyday, document["limit"])),
            picture=stressed_films(films),
            columns=_COLUMNS,
            rows=_rows(document["stresses"]),
        ),
    )
    write_text(directory / "stress.md", stress_markdown(document))
    return page


def stress_markdown(document: Mapping[str, Any]) -> str:
    """The table of all stresses, and under it what was measured on what, as Markdown."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in _rows(document["stresses"])]
    lines += [
        "",
        f"{document['films']:,} films of {document['patients']:,} patients of {document['dataset']}, "
        f"{document['protocol']}; operating point {document['operating_point']}; seed {document['seed']}.",
    ]
    return "\n".join(lines) + "\n"


def _rows(stresses: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [_row(stress) for stress in stresses]


def _row(stress: Mapping[str, Any]) -> list[str]:
    estimates = stress["estimates"]
    area = estimates.get("roc_auc")
    changed = "accuracy_change" in estimates
    return [
        stress["title"],
        _percent(estimates["accuracy"]),
        _points(estimates["accuracy_change"]) if changed else "",
        _percent(estimates.get("sensitivity")),
        _percent(estimates.get("specificity")),
        "–" if area is None else f"{area['value']:.4f} ({area['low']:.4f} to {area['high']:.4f})",
        _percent(estimates["flipped"]) if changed else "",
        f"{stress['mean_shift']:.3f}" if changed else "",
        _percent(estimates["warned"]),
        _percent(estimates["refused"]),
        _verdict(stress),
    ]


def _percent(estimate: Mapping[str, float] | None) -> str:
    return "–" if estimate is None else f"{100 * estimate['value']:.1f} %"


def _points(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:+.2f} ({estimate['low']:+.2f} to {estimate['high']:+.2f})"


def _verdict(stress: Mapping[str, Any]) -> str:
    if stress["kind"] is None:
        return ""
    if stress["verdict"] is None:
        return "not judged"
    return "**fail**" if stress["verdict"] == FAIL else "pass"
