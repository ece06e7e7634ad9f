"""The figure of abstention: what answering fewer films buys.

In: a risk-coverage curve and what a bundle achieves, as plain numbers. Out: a matplotlib figure in the style
of :mod:`pneumoscope.reporting.figures`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from pneumoscope.reporting.evaluation_figures import MarkedPoint
from pneumoscope.reporting.figures import PALETTE, SOFT, new_figure, styled


@styled
def risk_coverage(
    coverage: npt.ArrayLike, risk: npt.ArrayLike, achieved: MarkedPoint | None, everyone: float
) -> Figure:
    """Error among the answered films against the share that is answered, the surest films first.

    Args:
        coverage: (M,) rising, in (0, 1].
        risk: (M,) error among these films, in [0, 1].
        achieved: what a bundle's own abstention does (x is the share answered, y the error among them).
        everyone: error when every film is answered.
    """
    figure = new_figure(8.0, 4.2)
    axes = figure.subplots()
    axes.plot(coverage, 100 * np.asarray(risk), color=PALETTE[0], label="surest films first")
    axes.axhline(
        100 * everyone, color=SOFT, linewidth=1, linestyle=":", label=f"all answered: {100 * everyone:.2f} %"
    )
    if achieved is not None:
        (x, left, right), (y, low, high) = achieved.x, (100 * value for value in achieved.y)
        axes.errorbar(
            x,
            y,
            xerr=[[x - left], [right - x]],
            yerr=[[y - low], [high - y]],
            fmt="o",
            color=PALETTE[1],
            markersize=8,
            markeredgecolor="white",
            elinewidth=1.6,
            label=achieved.name,
            zorder=4,
        )
    axes.set(xlabel="share of the films that are answered", ylabel="wrong among them, in %", xlim=(0, 1.02))
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left")
    return figure
