"""The figures of a ladder: intervals side by side, who is told apart from whom, learning curves.

In: rungs and pairs as ``ladder.json`` holds them. Out: matplotlib figures in the style of
:mod:`pneumoscope.reporting.figures`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pneumoscope.reporting.figures import PALETTE, SOFT, new_figure, styled

_WORSE, _TIED, _BETTER = PALETTE[1], "#e9edf1", PALETTE[0]
_SMALL = 9.0
_PANELS_A_ROW = 4
_LEGEND_WIDTH = 6.0  # inches that the three entries below the matrix need


@styled
def forest(
    estimates: Mapping[str, Mapping[str, Mapping[str, float]]],
    best: Mapping[str, Sequence[str]],
    titles: Mapping[str, str],
) -> Figure:
    """A panel a figure, a row a rung: value and 95 % interval; what shares the first place is coloured.

    Args:
        estimates: rung -> figure -> {value, low, high}; the first is drawn on top.
        best: figure -> rungs of the first place.
        titles: figure -> title of its panel, one panel each.
    """
    names = list(estimates)
    figure = new_figure(10.5, 1.3 + 0.31 * len(names))
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        for row, name in enumerate(names):
            item = estimates[name][key]
            color = PALETTE[0] if name in best[key] else SOFT
            axes.plot([item["low"], item["high"]], [row, row], color=color, linewidth=2.0)
            axes.plot(item["value"], row, "o", color=color, markersize=6)
        axes.set(title=title)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_yticks(range(len(names)), names, fontsize=10)
        axes.set_ylim(len(names) - 0.5, -0.5)
    return figure


@styled
def significance_matrix(names: Sequence[str], better: Mapping[tuple[str, str], tuple[int, int]]) -> Figure:
    """Who is told apart from whom: by AUC above the diagonal, by accuracy below it.

    Args:
        names: rungs, in the order of rows and columns.
        better: (row, column) -> by AUC and by accuracy: 1 when the row is better, -1 when it is worse, 0 when
            the test cannot tell.
    """
    count = len(names)
    cells = np.full((count, count), np.nan)
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            if i != j:
                cells[i, j] = better[first, second][0 if j > i else 1]
    side = 2.4 + 0.3 * count
    figure = new_figure(max(side + 1.2, _LEGEND_WIDTH), side)
    axes = figure.subplots()
    axes.imshow(cells, cmap=ListedColormap([_WORSE, _TIED, _BETTER]), vmin=-1.5, vmax=1.5)
    axes.set_xticks(range(count), names, rotation=90, fontsize=_SMALL)
    axes.set_yticks(range(count), names, fontsize=_SMALL)
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.plot([-0.5, count - 0.5], [-0.5, count - 0.5], color=SOFT, linewidth=1)
    words = ((_BETTER, "row better than column"), (_TIED, "not told apart"), (_WORSE, "row worse"))
    figure.legend(
        handles=[Patch(color=color, label=label) for color, label in words],
        loc="outside lower center",
        ncols=3,
    )
    return figure


@styled
def curve_panels(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Training and validation loss against epochs, a small panel a rung, all on one loss axis.

    Args:
        histories: rung -> columns ``epoch`` (from 0; drawn from 1), ``train_loss``, ``validation_loss``.
    """
    rows = math.ceil(len(histories) / _PANELS_A_ROW)
    columns = min(len(histories), _PANELS_A_ROW)
    figure = new_figure(10.5, 0.8 + 1.9 * rows)
    panels: list[Axes] = list(figure.subplots(rows, columns, sharey=True, squeeze=False).ravel())
    for axes, (name, history) in zip(panels, histories.items(), strict=False):
        epochs = np.asarray(history["epoch"]) + 1
        for column, label, color in (
            ("train_loss", "training", PALETTE[0]),
            ("validation_loss", "validation", PALETTE[1]),
        ):
            axes.plot(epochs, history[column], "o-", color=color, label=label, markersize=3.5, linewidth=1.6)
        axes.set_title(name, fontsize=10.5, pad=4)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        axes.tick_params(labelsize=_SMALL)
    for axes in panels[len(histories) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2)
    figure.supxlabel("epoch", fontsize=11)
    figure.supylabel("cross-entropy", fontsize=11)
    return figure
