"""The monitoring report: ``monitoring.json``, a self-contained page of it, and a PDF on request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import Any

from pneumoscope.core.files import write_json, write_text
from pneumoscope.core.records import Estimate
from pneumoscope.reporting.pages import render
from pneumoscope_clinic.monitoring.charts import agreement_chart, volume_chart
from pneumoscope_clinic.monitoring.drift import SHARE
from pneumoscope_clinic.monitoring.records import Agreement, Dashboard, DriftRow


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
    words = _English()
    weeks = [week for week in board.agreement_by_week if week.agreement]
    agreement = agreement_chart(weeks, wanted, words)
    return render(
        "monitoring.html",
        board=board,
        films=sum(day.films for day in board.days),
        failed=sum(day.failed for day in board.days),
        shadow_films=sum(day.shadow for day in board.days),
        volume=volume_chart(board.days, words).svg(legend=True),
        agreement=None if agreement is None else agreement.svg(),
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
            yield name, "–", "no images"
        else:
            yield name, _share(estimate.value), f"{_range(estimate)}, {estimate.n:,} images"


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


class _English:
    """Numbers and dates of the report."""

    def __call__(self, message: str) -> str:
        return message

    def number(self, value: float | None, digits: int = 0) -> str:
        return "–" if value is None else f"{value:,.{digits}f}"

    def percent(self, value: float | None, digits: int = 1) -> str:
        return "–" if value is None else f"{100 * value:.{digits}f} %"

    def day(self, value: date) -> str:
        return value.isoformat()

    def short_day(self, value: date) -> str:
        return f"{value:%d %b}"
