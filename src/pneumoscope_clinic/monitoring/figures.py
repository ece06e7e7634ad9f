"""The figures of the monitoring report: volume and rates by day, agreement by week.

In: records of monitoring. Out: matplotlib figures in the style of all reports.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from pneumoscope.reporting.figures import PALETTE, SOFT, new_figure, styled
from pneumoscope_clinic.monitoring.records import Agreement, Day

_PARTS = (
    ("negative", "negative", PALETTE[0]),
    ("positive", "positive", PALETTE[1]),
    ("abstained", "abstained", PALETTE[3]),
    ("refused", "refused", SOFT),
)


@styled
def volume_figure(days: Sequence[Day]) -> Figure:
    """Films of each day, by what became of them."""
    figure = new_figure(8.6, 3.4)
    axes = figure.subplots()
    dates = [day.date for day in days]
    below = [0] * len(days)
    for name, label, color in _PARTS:
        counts = [getattr(day, name) for day in days]
        axes.bar(dates, counts, bottom=below, label=label, color=color, width=0.8)  # type: ignore[arg-type]
        below = [low + count for low, count in zip(below, counts, strict=True)]
    axes.set_ylabel("films")
    axes.set_ylim(0, max(1, *below) * 1.05)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(_dates(axes)))
    axes.grid(axis="x", visible=False)
    axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


@styled
def agreement_figure(weeks: Sequence[Agreement], wanted: float) -> Figure:
    """Agreement of readers by week with 95 % intervals, and the least that is wanted."""
    figure = new_figure(8.6, 3.2)
    axes = figure.subplots()
    shown = [(week.start, week.agreement) for week in weeks if week.agreement and week.start]
    dates = [start for start, _ in shown]
    values = [estimate.value for _, estimate in shown]
    errors = [[e.value - e.low for _, e in shown], [e.high - e.value for _, e in shown]]
    axes.errorbar(dates, values, errors, fmt="o", color=PALETTE[0], capsize=3)  # type: ignore[arg-type]
    axes.axhline(
        wanted, color=PALETTE[1], linewidth=1.5, linestyle="--", label=f"wanted: {100 * wanted:.0f} %"
    )
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("agreement")
    axes.set_xlabel("week from")
    axes.xaxis.set_major_formatter(ConciseDateFormatter(_dates(axes)))
    axes.legend(loc="lower left")
    return figure


def _dates(axes: object) -> AutoDateLocator:
    locator = AutoDateLocator(minticks=3, maxticks=9)
    axes.xaxis.set_major_locator(locator)  # type: ignore[attr-defined]
    return locator
