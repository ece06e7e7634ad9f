"""The audit's pictures: films of each class, their mean, where classes differ, what gives labels away.

In: the audit's figures, and films as (N, S, S) uint8. Out: matplotlib figures and JPEG bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from PIL import Image

from pneumoscope.data.audit_findings import SHORTCUT_AUC
from pneumoscope.reporting.figures import PALETTE, SOFT, class_color, new_figure, styled

Films = npt.NDArray[np.uint8]
Maps = npt.NDArray[np.float64]

_TILE = 150
_GAP = 4
_QUALITY = 82
# Below this ratio of its ends a logarithmic axis has too few powers of ten to label.
_DECADES = 30


def sheet(films: Films, columns: int = 6) -> bytes:
    """Films (N, S, S) side by side as one grey JPEG."""
    rows = -(-len(films) // columns)
    columns = min(columns, len(films))
    width, height = columns * (_TILE + _GAP) - _GAP, rows * (_TILE + _GAP) - _GAP
    canvas = Image.new("L", (width, height), 255)
    for index, film in enumerate(films):
        tile = Image.fromarray(film).resize((_TILE, _TILE), Image.Resampling.LANCZOS)
        row, column = divmod(index, columns)
        canvas.paste(tile, (column * (_TILE + _GAP), row * (_TILE + _GAP)))
    stream = io.BytesIO()
    canvas.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


@styled
def mean_images(means: Mapping[str, Maps], counts: Mapping[str, int]) -> Figure:
    """The mean film (S, S), in grey levels, of each class, all in the same grey scale."""
    figure = new_figure(3.2 * len(means), 3.5)
    axes = np.atleast_1d(figure.subplots(1, len(means)))
    for axis, (name, mean) in zip(axes, means.items(), strict=True):
        axis.imshow(mean, cmap="gray", vmin=0, vmax=255)
        axis.set_title(f"{name} ({counts[name]:,})", color=class_color(name))
        axis.set_axis_off()
    return figure


@styled
def class_differences(differences: Mapping[str, Maps]) -> Figure:
    """Where two classes differ: standardised differences (S, S) of their pixels (Cohen's d)."""
    figure = new_figure(4.0 * len(differences), 3.6)
    axes = np.atleast_1d(figure.subplots(1, len(differences)))
    scale = ScalarMappable(Normalize(-1.2, 1.2), cmap="RdBu_r")
    for axis, (title, difference) in zip(axes, differences.items(), strict=True):
        axis.imshow(difference, cmap=scale.get_cmap(), norm=scale.norm)
        axis.set_title(title)
        axis.set_axis_off()
    bar = figure.colorbar(scale, ax=list(axes), shrink=0.85)
    bar.set_label("brighter in the first class", fontsize=11)
    bar.outline.set_visible(False)
    return figure


@styled
def shortcut_chart(rows: Sequence[tuple[str, Mapping[str, float]]]) -> Figure:
    """AUC with its interval, a row a property or group of them, against chance and the warning line.

    Args:
        rows: (name, {value, low, high}), drawn from top to bottom.
    """
    figure = new_figure(9.0, 1.3 + 0.36 * len(rows))
    axes = figure.subplots()
    places = np.arange(len(rows))
    for place, (_, score) in zip(places, rows, strict=True):
        color = PALETTE[1] if score["value"] >= SHORTCUT_AUC else PALETTE[0]
        axes.plot(
            (score["low"], score["high"]), (place, place), color=color, linewidth=3, solid_capstyle="round"
        )
        axes.plot(score["value"], place, "o", color=color, markersize=8)
        axes.annotate(
            f"{score['value']:.2f}",
            (score["high"], place),
            (8, 0),
            textcoords="offset points",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    axes.axvline(0.5, color=SOFT, linewidth=1.5)
    axes.axvline(SHORTCUT_AUC, color=PALETTE[1], linewidth=1.2, linestyle="--")
    axes.set_yticks(places, [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(min(0.45, *(score["low"] for _, score in rows)) - 0.01, 1.03)
    axes.set_xlabel("AUC: 0.5 is chance, 1.0 is certainty; dashed: warning")
    axes.grid(axis="y", visible=False)
    return figure


@styled
def property_histograms(properties: Sequence[Mapping[str, Any]], columns: int = 3) -> Figure:
    """Share of each class by value, one panel a property, from the histograms of the audit's JSON."""
    rows = -(-len(properties) // columns)
    figure = new_figure(11.0, 2.75 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(properties) :]:
        axes.set_axis_off()
    for axes, item in zip(panels, properties, strict=False):
        edges = np.asarray(item["edges"])
        for name, own in item["by_class"].items():
            if own["n"]:
                share = 100 * np.asarray(own["histogram"]) / own["n"]
                axes.stairs(share, edges, color=class_color(name), linewidth=1.8, label=name)
                axes.stairs(share, edges, color=class_color(name), fill=True, alpha=0.12)
        axes.set_title(_wrapped(item["title"]), fontsize=11)
        axes.set_xlabel(item["unit"], fontsize=10)
        axes.tick_params(labelsize=9)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        _scale_values(axes, item)
    panels[0].set_ylabel("% of the class", fontsize=10)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names))
    return figure


def _scale_values(axes: Any, item: Mapping[str, Any]) -> None:
    if item["names"]:
        axes.set_xticks(range(len(item["names"])), item["names"])
    elif item["logarithmic"] and min(item["edges"]) > 0:
        axes.set_xscale("log")
        if max(item["edges"]) < _DECADES * min(item["edges"]):
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))


def _wrapped(title: str) -> str:
    return title.replace(" (", "\n(", 1) if len(title) > 30 else title
