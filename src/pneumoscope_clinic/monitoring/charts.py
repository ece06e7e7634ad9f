"""Charts of monitoring as SVG, for the dashboard (in the reader's language) and for the report.

A chart also has its figures as a table, for those who do not see the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

from markupsafe import Markup, escape

from pneumoscope.reporting.figures import PALETTE, SOFT
from pneumoscope_clinic.monitoring.records import Agreement, Day

WIDTH, HEIGHT, LEFT, TOP, FLOOR = 560, 206, 44, 8, 180
_SERIES = (PALETTE[1], PALETTE[0], PALETTE[3], SOFT)
_LABELS = 6
"""Dates that fit under a chart."""


class ChartWords(Protocol):
    """A language: messages, numbers and dates."""

    def __call__(self, message: str) -> str:
        """A message in this language."""

    def number(self, value: float | None, digits: int = 0) -> str:
        """A number."""

    def percent(self, value: float | None, digits: int = 1) -> str:
        """A share in [0, 1]."""

    def day(self, value: date) -> str:
        """A date."""

    def short_day(self, value: date) -> str:
        """Day and month."""


@dataclass(frozen=True, slots=True)
class Label:
    """A text at a place."""

    text: str
    x: float = 0
    y: float = 0
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a stacked bar."""

    series: int
    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, slots=True)
class Point:
    """A value with its interval."""

    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Where everything stands, and the figures as ``columns`` and ``rows``."""

    text: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    ticks: list[Label]
    labels: list[Label]
    pieces: list[Piece] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    legend: tuple[str, ...] = ()
    limit: float | None = None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    floor: int = FLOOR

    def svg(self, *, legend: bool = False) -> Markup:
        """The drawing. Style sheets may colour its classes; the attributes hold where there is none."""
        height = self.height + (20 if legend else 0)
        style = f'font-family="sans-serif" font-size="12" fill="{SOFT}"'
        parts = [
            f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height}" '
            f'role="img" aria-label="{escape(self.text)}" {style}>'
        ]
        for tick in self.ticks:
            parts.append(_line("grid", self.left, self.width, tick.y, tick.y, 'stroke="#d9e0e6"'))
            parts.append(_text(tick.text, self.left - 6, tick.y + 4, "end"))
        if self.limit is not None:
            dashed = f'stroke="{PALETTE[1]}" stroke-width="1.5" stroke-dasharray="5 4"'
            parts.append(_line("limit", self.left, self.width, self.limit, self.limit, dashed))
        for piece in self.pieces:
            parts.append(
                f'<rect class="s{piece.series}" x="{piece.x}" y="{piece.y}" width="{piece.width}" '
                f'height="{piece.height}" fill="{_SERIES[piece.series - 1]}">'
                f"<title>{escape(piece.text)}</title></rect>"
            )
        for point in self.points:
            parts.append(_line("line", point.x, point.x, point.low, point.high, f'stroke="{PALETTE[0]}"'))
            parts.append(
                f'<circle class="dot" cx="{point.x}" cy="{point.y}" r="4" fill="{PALETTE[0]}">'
                f"<title>{escape(point.text)}</title></circle>"
            )
        parts.append(_line("axis", self.left, self.width, self.floor, self.floor, f'stroke="{SOFT}"'))
        parts += [_text(one.text, one.x, self.floor + 16, one.anchor) for one in self.labels]
        if legend:
            parts += _legend(self)
        return Markup("\n".join([*parts, "</svg>"]))  # nosec B704  # every text in it is escaped


def _line(kind: str, x1: float, x2: float, y1: float, y2: float, style: str) -> str:
    return f'<line class="{kind}" x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}" {style}/>'


def _text(text: str, x: float, y: float, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _legend(chart: Chart) -> list[str]:
    parts = []
    for number, name in enumerate(chart.legend):
        x, y = chart.left + number * 125, chart.height + 4
        parts.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{_SERIES[number]}"/>')
        parts.append(_text(name, x + 16, y + 10, "start"))
    return parts


def volume_chart(days: Sequence[Day], of: ChartWords) -> Chart:
    """Images by day, stacked by answer."""
    names = (of("Pneumonia likely"), of("Pneumonia unlikely"), of("No answer"), of("Refused"))
    top = _round_up(max((day.films for day in days), default=0))
    step = (WIDTH - LEFT) / max(1, len(days))
    pieces = []
    for number, day in enumerate(days):
        height = float(FLOOR)
        counts = (day.positive, day.negative, day.abstained, day.refused)
        for series, (name, count) in enumerate(zip(names, counts, strict=True), 1):
            if not count:
                continue
            size = (FLOOR - TOP) * count / top
            height -= size
            text = f"{of.day(day.date)}: {name} {of.number(count)}"
            pieces.append(Piece(series, round(LEFT + (number + 0.1) * step, 1), round(height, 1),
                                round(0.8 * step, 1), round(size, 1), text))  # fmt: skip
    return Chart(
        text=of("Images by day"),
        columns=(of("Day"), *names, of("Failed")),
        rows=[
            (
                of.day(day.date),
                *map(of.number, (day.positive, day.negative, day.abstained, day.refused, day.failed)),
            )
            for day in days
            if day.films or day.failed
        ],
        ticks=[
            Label(of.number(value), y=_height(value / top))
            for value in (0, top / 2, top)
            if value == int(value)
        ],
        labels=_dates([of.short_day(day.date) for day in days], step),
        pieces=pieces,
        legend=names,
    )


def agreement_chart(weeks: Sequence[Agreement], least: float, of: ChartWords) -> Chart | None:
    """Agreement by week with its 95 % interval and the alarm's limit; None where no image was reviewed."""
    known = [
        (week, week.agreement) for week in weeks if week.agreement is not None and week.start is not None
    ]
    if not known:
        return None
    step = (WIDTH - LEFT) / len(known)
    points, rows = [], []
    for number, (week, found) in enumerate(known):
        assert week.start is not None
        day, value = of.day(week.start), of.percent(found.value)
        interval = of("{low} to {high}").format(low=of.percent(found.low), high=of.percent(found.high))
        x = round(LEFT + (number + 0.5) * step, 1)
        middle, low, high = (_height(share) for share in (found.value, found.low, found.high))
        points.append(Point(x, middle, low, high, f"{day}: {value} ({interval})"))
        rows.append((day, value, interval, of.number(found.n)))
    return Chart(
        text=of("Agreement with readers by week"),
        columns=(of("Week from"), of("Agreement"), of("95 % interval"), of("Images")),
        rows=rows,
        ticks=[Label(of.percent(share, 0), y=_height(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)],
        labels=_dates([of.short_day(week.start) for week, _ in known if week.start is not None], step),
        points=points,
        limit=_height(least),
    )


def _height(share: float) -> float:
    return round(FLOOR - (FLOOR - TOP) * share, 1)


def _round_up(value: int) -> int:
    """The next even number with one significant digit, or two from 1 to 2: where an axis ends."""
    size = 2
    while size < value:
        for factor in (2, 4, 6, 8, 10, 12, 14, 16, 18, 20):
            if factor * size // 2 >= value:
                return factor * size // 2
        size *= 10
    return size


def _dates(days: Sequence[str], step: float) -> list[Label]:
    every = max(1, -(-len(days) // _LABELS))
    labels = []
    for number in range(0, len(days), every):
        x = LEFT + (number + 0.5) * step
        anchor = "end" if x > WIDTH - 40 else "middle"
        labels.append(Label(days[number], x=round(min(x, WIDTH), 1), anchor=anchor))
    return labels
