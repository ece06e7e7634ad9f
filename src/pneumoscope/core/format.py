"""Format numbers for people: percentages, estimates with intervals, counts, durations; None is a dash."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

DASH = "–"


def percent(value: float | None, digits: int = 1) -> str:
    """0.973 as ``97.3 %``; None and not-a-number as a dash."""
    return DASH if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def probability(value: float) -> str:
    """A probability as people read it, in percent; never 0 % or 100 %, which no model can mean."""
    if value < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if value > 0.999 else percent(value)


def decimals(value: float | None, digits: int = 3) -> str:
    """0.97342 as ``0.973``; None and not-a-number as a dash."""
    return DASH if value is None or math.isnan(value) else f"{value:.{digits}f}"


def grouped(value: float | None) -> str:
    """5216 as ``5,216``; None as a dash."""
    return DASH if value is None else f"{value:,.0f}"


def short(value: object) -> str:
    """Three significant digits of a float, ``yes`` or ``no`` of a boolean, other values as they are."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def estimate(item: Mapping[str, Any] | None, form: str = ".4f") -> str:
    """A figure with its 95 % interval, ``0.9731 (0.9652 to 0.9798)``; None as a dash.

    Args:
        item: ``value``, ``low`` and ``high``.
        form: format specification of all three, such as ``+.2f``.
    """
    if item is None:
        return DASH
    return f"{item['value']:{form}} ({item['low']:{form}} to {item['high']:{form}})"


def percent_of(item: Mapping[str, Any] | None, digits: int = 1) -> str:
    """The value of an estimate as a percentage, without its interval; None as a dash."""
    return percent(None if item is None else item["value"], digits)


def duration(seconds: float | None) -> str:
    """3725 as ``1 h 2 min``, 65 as ``1 min 5 s``, 3.21 as ``3.2 s``; None as a dash."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))
