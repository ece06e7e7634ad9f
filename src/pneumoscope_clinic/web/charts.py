"""Charts as numbers: where the bars, points and labels of the dashboard's figures stand; templates draw them.

In: values and a language. Out: frozen plans in the units of an SVG view box, with the same figures as a table
for those who do not see the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pneumoscope_clinic.monitoring.records import Agreement, Day
from pneumoscope_clinic.web.translation import Words

WIDTH, HEIGHT, LEFT, TOP, FLOOR = 560, 206, 44, 8, 180
_LABELS = 6
"""Dates that fit under a chart."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """Positions on a rail from 10 to 390: value, threshold, and start and width of the range of doubt."""

    value: float
    threshold: float
    doubt: tuple[float, float] | None


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


def gauge(probability: float, threshold: float, doubt: tuple[float, float] | None) -> Gauge:
    """Positions of a probability, its threshold and the range (low, high) in which no answer is given."""

    def place(share: float) -> float:
        return round(10 + 380 * share, 1)

    span = None if doubt is None else (place(doubt[0]), round(380 * (doubt[1] - doubt[0]), 1))
    return Gauge(place(probability), place(threshold), span)


def volume_chart(days: Sequence[Day], of: Words) -> Chart:
    """Films by day, stacked by answer."""
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
        text=of("Films by day"),
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


def agreement_chart(weeks: Sequence[Agreement], least: float, of: Words) -> Chart | None:
    """Agreement by week with its 95 % interval and the alarm's limit; None where no film was reviewed."""
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
        columns=(of("Week from"), of("Agreement"), of("95 % interval"), of("Films")),
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
