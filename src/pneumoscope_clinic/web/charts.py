"""The gauge of an image's page: where probability, threshold and the range without an answer stand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gauge:
    """Positions on a rail from 10 to 390: value, threshold, and start and width of the range of doubt."""

    value: float
    threshold: float
    doubt: tuple[float, float] | None


def gauge(probability: float, threshold: float, doubt: tuple[float, float] | None) -> Gauge:
    """Positions of a probability, its threshold and the range (low, high) in which no answer is given."""

    def place(share: float) -> float:
        return round(10 + 380 * share, 1)

    span = None if doubt is None else (place(doubt[0]), round(380 * (doubt[1] - doubt[0]), 1))
    return Gauge(place(probability), place(threshold), span)
