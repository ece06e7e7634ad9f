"""Commissioning report of a site: ``commissioning.html`` (two sides of A4, to sign) and ``.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pneumoscope.core.files import write_text
from pneumoscope.core.format import estimate, short
from pneumoscope.reporting.figures import PALETTE, SOFT, new_figure, styled, svg
from pneumoscope.reporting.pages import render

_CHOICES = {
    "unchanged": "nothing is better for sure; the bundle answers as before",
    "prior-shift": "the prior is shifted",
    "recalibration": "the probabilities are recalibrated, the order of images stays",
    "new-head": "a new head on the network's features",
}

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
    adaptation = document.get("adaptation")
    text = render(
        "commissioning.html",
        document=document,
        figures=_figure_rows(document),
        checks=check_rows(document),
        chosen=adaptation_lines(adaptation),
        gains=gain_rows(adaptation) if adaptation else [],
        candidates=candidate_rows(adaptation) if adaptation else [],
        curve=svg(adaptation_curve(adaptation["curve"])) if adaptation else None,
        curve_rows=curve_rows(adaptation) if adaptation else [],
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


def adaptation_lines(adaptation: Mapping[str, Any] | None) -> list[str]:
    """What an adaptation chose, and why, as sentences; none where none was asked for."""
    if adaptation is None:
        return []
    line, head = adaptation["steps"]
    lines = [f"Adaptation: {_CHOICES[adaptation['candidate'].split()[0]]}."]
    for step, what, over in (
        (line, "a line", "the bundle as it is"),
        (head, "a new head", "the line" if line["taken"] else "the bundle as it is"),
    ):
        loss, area = (estimate(step[key], "+.3f") for key in ("log_loss", "roc_auc"))
        lines.append(
            f"Against {over}, {what} gains {loss} in log loss and {area} in AUC: "
            f"{'better for sure, taken' if step['taken'] else 'not better for sure, not taken'}."
        )
    if "refused_before" in adaptation:
        ages = adaptation["ages"]
        lines.append(
            f"The gate of before refuses {adaptation['refused_before']['value']:.1%}; it is fitted anew to "
            "this site's images. "
            + (
                f"Ages are those of this site: {ages[0]} to {ages[1]} years."
                if ages
                else "Ages stay as they were, as most of these images do not say any."
            )
        )
    return lines


def gain_rows(adaptation: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """AUC and log loss of held-out patients, before and after."""
    return [
        (name, *(estimate(adaptation["estimates"][when][key], ".3f") for key in ("roc_auc", "log_loss")))
        for name, when in (("bundle as it is", "before"), ("what was chosen", "after"))
    ]


def candidate_rows(adaptation: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, log loss and AUC of every candidate, cross-validated over all images."""
    return [
        (one["name"], f"{one['log_loss']:.3f}", f"{one['roc_auc']:.3f}") for one in adaptation["candidates"]
    ]


def curve_rows(adaptation: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Labelled images, AUC of a new head with its interval, and the bundle's own on the same images."""
    return [
        (f"{row['images']:,}", estimate(row["roc_auc"], ".3f"), f"{row['unchanged']:.3f}")
        for row in adaptation["curve"]
    ]


@styled
def adaptation_curve(curve: Sequence[Mapping[str, Any]]) -> Figure:
    """AUC with its interval against the number of labelled images, and that of the bundle unchanged.

    Args:
        curve: rows with ``images``, ``roc_auc`` and ``unchanged``; the first is the bundle as it is.
    """
    figure = new_figure(7.2, 3.8)
    axes = figure.subplots()
    images = [row["images"] for row in curve]
    place = range(len(images))
    values = np.array([[row["roc_auc"][key] for key in ("value", "low", "high")] for row in curve])
    spread = np.abs(values[:, 1:].T - values[:, 0])
    axes.errorbar(place, values[:, 0], spread, fmt="o-", color=PALETTE[0], capsize=4, label="new head")
    unchanged = [row["unchanged"] for row in curve]
    axes.plot(place, unchanged, "s--", color=PALETTE[1], markersize=5, label="bundle as it is, same images")
    axes.axhline(0.5, color=SOFT, linewidth=1, linestyle=":")
    axes.set_xticks(list(place), [f"{count:,}" for count in images])
    axes.set(
        xlabel="labelled images of the site", ylabel="ROC AUC", ylim=(max(0.0, values.min() - 0.03), 1.0)
    )
    axes.legend(loc="lower right")
    return figure


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
    adaptation = document.get("adaptation")
    if adaptation:
        lines += [
            "",
            *(f"- {line}" for line in adaptation_lines(adaptation)),
            "",
            "| labelled images | AUC of a new head | bundle as it is |",
            "|---|---|---|",
            *("| " + " | ".join(row) + " |" for row in curve_rows(adaptation)),
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
