"""Commissioning report of a site: ``commissioning.html`` (two sides of A4, to sign) and ``.md``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pneumoscope.core.files import write_text
from pneumoscope.core.format import short
from pneumoscope.reporting.pages import render

_NAMES = {
    "roc_auc": "ROC AUC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV at the stated prevalence",
    "npv": "NPV at the stated prevalence",
}


def write_commissioning_page(document: Mapping[str, Any], directory: Path) -> Path:
    """Write ``commissioning.html`` and ``commissioning.md`` into ``directory``; return the page."""
    page = directory / "commissioning.html"
    text = render(
        "commissioning.html", document=document, figures=_figure_rows(document), checks=check_rows(document)
    )
    write_text(page, text)
    write_text(directory / "commissioning.md", commissioning_markdown(document))
    return page


def check_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Title, what was found, limit and verdict of every check."""
    return [
        (check["title"], short(check["value"]), short(check["limit"]), check["verdict"])
        for check in document["checks"]
    ]


def commissioning_markdown(document: Mapping[str, Any]) -> str:
    """Verdict, figures and checks as Markdown."""
    lines = [
        f"**{document['verdict']}** for {document['bundle']} on {document['dataset']}: "
        f"{document['films']:,} images of {document['patients']:,} patients, {document['ill']:,} with "
        f"pneumonia; stated prevalence {document['limits']['prevalence']:g}.",
        "",
        "| figure | value | 95 % interval | images |",
        "|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in _figure_rows(document)),
        "",
        "| check | found | limit | verdict |",
        "|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in check_rows(document)),
    ]
    return "\n".join(lines) + "\n"


def _figure_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = [
        (name, document["figures"][key])
        for key, name in _NAMES.items()
        if document["figures"].get(key) is not None
    ]
    rows += [
        ("Sensitivity with the thresholds of before", document["before"]["sensitivity"]),
        ("Specificity with the thresholds of before", document["before"]["specificity"]),
        ("Share refused by the gate", document["refused"]),
        ("Share with a warning", document["warned"]),
    ]
    return [
        (name, f"{e['value']:.3f}", f"{e['low']:.3f} to {e['high']:.3f}", f"{e['n']:,}") for name, e in rows
    ]
