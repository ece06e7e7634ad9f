"""The monitoring report: JSON, and a page of it to read, mail or print.

In: a :class:`Dashboard`. Out: ``monitoring.json`` (the truth), ``monitoring.html`` (self-contained) and, on
request, ``monitoring.pdf``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import Any

from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from pneumoscope.core.files import write_json, write_text
from pneumoscope.core.records import Estimate
from pneumoscope.reporting.figures import PALETTE, SOFT, new_figure, styled, svg
from pneumoscope.reporting.pages import render
from pneumoscope_clinic.monitoring.drift import SHARE
from pneumoscope_clinic.monitoring.records import Agreement, Dashboard, Day, DriftRow


def document(board: Dashboard) -> dict[str, Any]:
    """``board`` as plain values that become JSON; times in ISO 8601, UTC."""
    values = _plain(asdict(board))
    assert isinstance(values, dict)
    return values


def write_report(board: Dashboard, wanted: float, directory: Path, *, pdf: bool = False) -> Path:
    """Write the report's files into ``directory``; return the page.

    Args:
        board: what is reported.
        wanted: least agreement with readers, a line in the figure.
        directory: made when it is missing.
        pdf: also as PDF.

    Raises:
        MissingExtraError: a PDF is wanted and cannot be made here.
    """
    html = report_page(board, wanted)
    write_json(directory / "monitoring.json", document(board))
    page = directory / "monitoring.html"
    write_text(page, html)
    if pdf:
        from pneumoscope.reporting.pages import write_pdf

        write_pdf(html, directory / "monitoring.pdf")
    return page


def report_page(board: Dashboard, wanted: float) -> str:
    """The page."""
    weeks = [week for week in board.agreement_by_week if week.agreement]
    return render(
        "monitoring.html",
        board=board,
        films=sum(day.films for day in board.days),
        failed=sum(day.failed for day in board.days),
        shadow_films=sum(day.shadow for day in board.days),
        volume=svg(volume_figure(board.days)),
        agreement=svg(agreement_figure(weeks, wanted)) if weeks else None,
        cards=list(_cards(board)),
        weeks=[_week(week) for week in weeks],
        drift=[_drift(row) for row in board.drift],
        drifted=[row.title for row in board.drift if row.drifted],
        queue=[_queue(row) for row in board.queue],
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, date | datetime) else value


def _cards(board: Dashboard) -> Iterator[tuple[str, str, str]]:
    for name, estimate in (
        ("Called positive", board.positive_rate),
        ("Abstained", board.abstention_rate),
        ("Refused by the gate", board.refusal_rate),
        ("Agreement with readers", board.agreement.agreement),
        ("Sensitivity against readers", board.agreement.sensitivity),
        ("Specificity against readers", board.agreement.specificity),
    ):
        if estimate is None:
            yield name, "–", "no films"
        else:
            yield name, _share(estimate.value), f"{_range(estimate)}, {estimate.n:,} films"


def _range(estimate: Estimate) -> str:
    return f"{_share(estimate.low)} to {_share(estimate.high)}"


def _share(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _week(week: Agreement) -> list[str]:
    return [
        f"{week.start:%Y-%m-%d}",
        f"{week.films:,}",
        f"{week.reviewed:,}",
        *(_estimate(value) for value in (week.agreement, week.sensitivity, week.specificity)),
    ]


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    value, low, high = (_share(share, 0) for share in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def _drift(row: DriftRow) -> list[str]:
    def figure(value: float | None) -> str:
        return "–" if value is None else _share(value) if row.kind == SHARE else f"{value:.4g}"

    return [
        row.title,
        f"{figure(row.present_value)} ({row.n:,})",
        f"{figure(row.reference_value)} ({row.reference_n:,}, {row.reference})",
        row.test,
        f"{row.adjusted:.2g}",
        "–" if row.psi is None else f"{row.psi:.2f}",
        "drifted" if row.drifted else "",
    ]


def _queue(row: Any) -> list[str]:
    oldest = "–" if row.oldest_minutes is None else f"{row.oldest_minutes:.0f} min"
    return [row.kind, f"{row.waiting:,}", f"{row.running:,}", f"{row.failed:,}", oldest]


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
