"""The pictures of a stress test: one film under every stress, and what each one costs.

In: films (h, w) float32 in [0, 1]; rows of the stress test's JSON. Out: JPEG bytes and matplotlib figures.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from pneumoscope.core.records import FloatArray
from pneumoscope.evaluation.stress_scores import FAIL
from pneumoscope.reporting.figures import PALETTE, SOFT, new_figure, styled

_TILE, _GAP, _CAPTION, _QUALITY = 190, 10, 24, 85


def stressed_films(films: Mapping[str, FloatArray], columns: int = 5) -> bytes:
    """Films by their titles, in rows of ``columns``, as one grey JPEG; a small film is drawn small."""
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
