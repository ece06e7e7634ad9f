"""Matplotlib style of every figure, and the figures about data and training.

Figures use the object API without global state; the same figure gives the same bytes (:func:`svg`,
:func:`png`). Colours are those of Okabe and Ito (2008, "Color universal design"), which people with any kind
of colour vision tell apart; a class keeps its colour in every figure.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

P = ParamSpec("P")

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#000000")
"""Okabe and Ito's colours, the strongest contrasts first."""

CLASS_COLORS: Mapping[str, str] = {
    "normal": "#0072b2",
    "pneumonia": "#d55e00",
    "bacterial": "#d55e00",
    "viral": "#e69f00",
    "pneumonia-unspecified": "#cc79a7",
}
INK, SOFT, _LINE, _PALE = "#1c2733", "#5a6876", "#d9e0e6", "#c9d3db"

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 12.0,
    "axes.titlesize": 13.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "axes.labelsize": 12.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2.2,
    "legend.frameon": False,
    "legend.fontsize": 11.0,
    # Text as outlines looks the same on every machine; the salt makes the ids, so the bytes, repeatable.
    "svg.fonttype": "path",
    "svg.hashsalt": "pneumoscope",
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Give a function that draws the project's style; matplotlib's settings stay as they were."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapper


def new_figure(width: float = 6.4, height: float = 4.4) -> Figure:
    """An empty figure of ``width`` x ``height`` inches whose parts never overlap (constrained layout)."""
    return Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure) -> str:
    """``figure`` as SVG text without a date."""
    stream = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def png(figure: Figure, dpi: int = 144) -> bytes:
    """``figure`` as the bytes of a PNG file on white."""
    stream = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(stream, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def class_color(name: str) -> str:
    """The colour of a class in every figure; ink for a name that is no class."""
    return CLASS_COLORS.get(name, INK)


@styled
def learning_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Loss, and validation AUC and accuracy, against epochs.

    Args:
        history: columns of equal length: ``epoch`` (from 0; drawn from 1), ``train_loss``,
            ``validation_loss`` and, where there, ``validation_auc`` and ``validation_accuracy``; not-a-number
            where an epoch has no value.
    """
    figure, (loss, quality) = _two_panels()
    epochs = np.asarray(history["epoch"], dtype=float) + 1
    _curves(loss, epochs, history, {"train_loss": "training", "validation_loss": "validation"})
    _curves(quality, epochs, history, {"validation_auc": "ROC AUC", "validation_accuracy": "accuracy"})
    return figure


@styled
def fold_curves(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Validation loss and AUC of several folds, a line each.

    Args:
        histories: fold -> history as :func:`learning_curves` takes it.
    """
    figure, panels = _two_panels()
    for (fold, history), color in zip(histories.items(), itertools.cycle(PALETTE), strict=False):
        epochs = np.asarray(history["epoch"], dtype=float) + 1
        for axes, column in zip(panels, ("validation_loss", "validation_auc"), strict=True):
            axes.plot(epochs, history[column], "o-", color=color, markersize=4, linewidth=1.6, label=fold)
    panels[1].set_ylabel("ROC AUC")
    panels[1].legend(ncols=2)
    return figure


def _two_panels() -> tuple[Figure, tuple[Axes, Axes]]:
    figure = new_figure(10.0, 3.9)
    loss, quality = figure.subplots(1, 2)
    loss.set(title="Loss", xlabel="epoch", ylabel="cross-entropy")
    quality.set(title="On validation images", xlabel="epoch")
    for axes in (loss, quality):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, (loss, quality)


def _curves(
    axes: Axes,
    epochs: npt.NDArray[np.float64],
    history: Mapping[str, Sequence[float]],
    names: Mapping[str, str],
) -> None:
    for color, (column, name) in zip(PALETTE, names.items(), strict=False):
        if column in history:
            values = np.asarray(history[column], dtype=float)
            shown = np.isfinite(values)
            axes.plot(epochs[shown], values[shown], "o-", color=color, markersize=4.5, label=name)
    axes.legend()


@styled
def class_balance(counts: Mapping[str, Mapping[str, int]], xlabel: str = "images") -> Figure:
    """Horizontal bars, one row a part (``train``, ...; or one row in all), stacked by class, with the counts.

    Args:
        counts: part -> class -> number of images.
    """
    classes = list(dict.fromkeys(name for row in counts.values() for name in row))
    figure = new_figure(8.0, 1.5 + 0.55 * len(counts))
    axes = figure.subplots()
    parts = list(counts)
    widest = max(sum(row.values()) for row in counts.values())
    left = np.zeros(len(parts))
    for name in classes:
        widths = np.array([counts[part].get(name, 0) for part in parts], dtype=float)
        bars = axes.barh(parts, widths, left=left, height=0.68, color=class_color(name), label=name)
        # A number is written only where its bar is wide enough to hold it.
        labels = [f"{width:,.0f}" if width > 0.06 * widest else "" for width in widths]
        axes.bar_label(bars, labels, label_type="center", color="white" if name != "viral" else INK)
        left += widths
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside upper left", ncols=len(classes))
    return figure


@styled
def icon_array(marked: int, mark: str, rest: str, *, color: str = PALETTE[1]) -> Figure:
    """One hundred dots, ``marked`` of them filled: a frequency as people grasp it.

    Natural frequencies in an icon array are understood better than percentages (Garcia-Retamero and Hoffrage,
    2013, "Visual representation of statistical information improves diagnostic inferences").

    Args:
        marked: 0 to 100.
        mark, rest: what a filled and a pale dot stand for.
    """
    figure = new_figure(5.2, 2.2)
    axes = figure.subplots()
    index = np.arange(100)
    colors = np.where(index < marked, color, _PALE)
    axes.scatter(index % 20, -(index // 20), s=122, c=colors, linewidths=0)
    axes.set_axis_off()
    axes.set(xlim=(-0.7, 19.7), ylim=(-4.7, 0.7))
    for shade, name in ((color, f"{marked} {mark}"), (_PALE, f"{100 - marked} {rest}")):
        axes.scatter([], [], s=110, c=shade, label=name)
    figure.legend(loc="outside lower left", ncols=1, handletextpad=0.3, borderpad=0, fontsize=12)
    return figure
