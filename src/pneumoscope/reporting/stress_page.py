"""Stress test report: ``stress.html``, and ``stress.md`` with the table of the documentation."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from pneumoscope.core.files import write_text
from pneumoscope.core.format import estimate, markdown_table, percent_of
from pneumoscope.core.records import FloatArray
from pneumoscope.evaluation.stress import FAIL, failures
from pneumoscope.imaging.stress import StressKind
from pneumoscope.reporting.figures import PALETTE, SOFT, new_figure, styled, svg
from pneumoscope.reporting.pages import render

_COLUMNS = (
    "stress", "accuracy", "change in points", "sensitivity", "specificity", "AUC", "flipped", "mean shift",
    "warned", "refused", "verdict",
)  # fmt: skip


def write_stress_page(document: Mapping[str, Any], films: Mapping[str, FloatArray], directory: Path) -> Path:
    """Write ``stress.html`` and ``stress.md`` into ``directory``; return the page.

    Args:
        document: what ``pneumoscope stress`` found, the content of ``stress.json``.
        films: one image, unchanged and under every stress, by title.
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
    about = (
        f"{document['films']:,} images of {document['patients']:,} patients of {document['dataset']}, "
        f"{document['protocol']}; operating point {document['operating_point']}; seed {document['seed']}."
    )
    return f"{markdown_table(_COLUMNS, _rows(document['stresses']))}\n\n{about}\n"


def _rows(stresses: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [_row(stress) for stress in stresses]


def _row(stress: Mapping[str, Any]) -> list[str]:
    estimates = stress["estimates"]
    changed = "accuracy_change" in estimates
    return [
        stress["title"],
        percent_of(estimates["accuracy"]),
        estimate(estimates["accuracy_change"], "+.2f") if changed else "",
        percent_of(estimates.get("sensitivity")),
        percent_of(estimates.get("specificity")),
        estimate(estimates.get("roc_auc")),
        percent_of(estimates["flipped"]) if changed else "",
        f"{stress['mean_shift']:.3f}" if changed else "",
        percent_of(estimates["warned"]),
        percent_of(estimates["refused"]),
        _verdict(stress),
    ]


def _verdict(stress: Mapping[str, Any]) -> str:
    if stress["kind"] is None:
        return ""
    if stress["verdict"] is None:
        return "not judged"
    return "**fail**" if stress["verdict"] == FAIL else "pass"


_TILE, _GAP, _CAPTION, _QUALITY = 190, 10, 24, 85


def stressed_films(films: Mapping[str, FloatArray], columns: int = 5) -> bytes:
    """Images by their titles, in rows of ``columns``, as one grey JPEG; a small image is drawn small."""
    largest = max(max(film.shape) for film in films.values())
    rows = -(-len(films) // columns)
    step = _TILE + _GAP
    canvas = Image.new("L", (columns * step - _GAP, rows * (step + _CAPTION) - _GAP), 255)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=15)
    for index, (title, film) in enumerate(films.items()):
        row, column = divmod(index, columns)
        x, y = column * step, row * (step + _CAPTION)
        draw.text((x, y + 2), title, fill=28, font=font)
        picture = Image.fromarray(np.rint(film * 255).astype(np.uint8))
        height, width = (max(1, round(side * _TILE / largest)) for side in film.shape)
        canvas.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (x, y + _CAPTION))
    stream = io.BytesIO()
    canvas.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


@styled
def change_chart(rows: Sequence[Mapping[str, Any]], limit: float) -> Figure:
    """Forest plot of the change in accuracy, in points with its interval, against the limit.

    Args:
        rows: of the JSON, each with ``title``, ``verdict`` and ``estimates.accuracy_change``; top to bottom.
        limit: points that may be lost.
    """
    figure = new_figure(9.0, 1.4 + 0.36 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(rows):
        change = row["estimates"]["accuracy_change"]
        color = PALETTE[1] if row["verdict"] == FAIL else PALETTE[0] if row["verdict"] else SOFT
        ends = change["low"], change["high"]
        axes.plot(ends, (place, place), color=color, linewidth=3, solid_capstyle="round")
        axes.plot(change["value"], place, "o", color=color, markersize=8)
        axes.annotate(
            f"{change['value']:+.1f}",
            (change["high"], place),
            (8, 0),
            textcoords="offset points",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    axes.axvline(0, color=SOFT, linewidth=1.5)
    axes.axvline(-limit, color=PALETTE[1], linewidth=1.2, linestyle="--")
    axes.set_yticks(range(len(rows)), [row["title"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.1 * (high - low))
    axes.set_xlabel("change in accuracy, in points, with its 95 % interval; dashed: the limit")
    axes.grid(axis="y", visible=False)
    return figure
