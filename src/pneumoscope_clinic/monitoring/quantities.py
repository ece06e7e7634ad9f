"""What is watched of each film: exposure, size, device, distances, and the answer.

In: rows of films with their results. Out: :class:`Quantity` definitions, and the *numbers* of a set of films:
each quantity by itself and sorted, so that no film can be put together from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite, sqrt
from typing import Any

from pneumoscope.core.records import Decision, Verdict

NUMBER, SHARE, MIX = "number", "share", "mix"

Numbers = dict[str, Any]
"""By quantity: sorted values (number), [successes, films] (share), or films by category (mix)."""

_DIGITS = 5  # significant; finer than any difference that matters, and half as long in the database
_SELECTION = "selection"


@dataclass(frozen=True, slots=True)
class FilmRow:
    """What monitoring reads of one examined film; ``patient`` is a keyed hash, else the study's id."""

    at: datetime
    patient: str
    verdict: str
    decision: str
    abstained_by: str | None
    probability: float | None
    drift: Mapping[str, Any]
    facts: Mapping[str, Any]
    age_years: float | None


@dataclass(frozen=True, slots=True)
class Quantity:
    """One thing that is watched; ``read`` gives its value for a film, None where the film has none."""

    name: str
    title: str
    group: str
    kind: str
    read: Callable[[FilmRow], Any]


def _drift(key: str) -> Callable[[FilmRow], Any]:
    return lambda film: film.drift.get(key)


def _pixels(film: FilmRow) -> float | None:
    rows, columns = film.drift.get("rows"), film.drift.get("columns")
    return sqrt(rows * columns) if rows and columns else None


def _aspect(film: FilmRow) -> float | None:
    rows, columns = film.drift.get("rows"), film.drift.get("columns")
    return columns / rows if rows and columns else None


def _device(film: FilmRow) -> str:
    parts = (film.facts.get(key) for key in ("manufacturer", "device", "modality", "format"))
    return " ".join(str(part) for part in parts if part) or "unknown"


def _refused(film: FilmRow) -> bool:
    return film.verdict == Verdict.REFUSE


def _unless_refused(read: Callable[[FilmRow], Any]) -> Callable[[FilmRow], Any]:
    return lambda film: None if _refused(film) else read(film)


QUANTITIES = (
    Quantity("mean", "Mean grey level", "input", NUMBER, _drift("mean")),
    Quantity("contrast", "Contrast", "input", NUMBER, _drift("contrast")),
    Quantity("exposure_low", "Dark end of the exposure", "input", NUMBER, _drift("exposure_low")),
    Quantity("exposure_high", "Bright end of the exposure", "input", NUMBER, _drift("exposure_high")),
    Quantity("size", "Film size in pixels", "input", NUMBER, _pixels),
    Quantity("aspect", "Width over height", "input", NUMBER, _aspect),
    Quantity("age", "Age of the patients", "input", NUMBER, lambda film: film.age_years),
    Quantity("device", "Devices", "input", MIX, _device),
    Quantity("feature_distance", "Feature distance", "input", NUMBER, _drift("feature_distance")),
    Quantity("picture_distance", "Picture distance", "input", NUMBER, _drift("picture_distance")),
    Quantity("warned", "Share answered with a warning", "input", SHARE, lambda f: f.verdict == Verdict.WARN),
    Quantity("refused", "Share refused by the gate", "input", SHARE, _refused),
    Quantity("probability", "Probabilities", "output", NUMBER, _unless_refused(lambda f: f.probability)),
    Quantity(
        "positive",
        "Share positive",
        "output",
        SHARE,
        _unless_refused(lambda f: f.decision == Decision.POSITIVE),
    ),
    Quantity(
        "abstained",
        "Share abstained",
        "output",
        SHARE,
        _unless_refused(lambda f: f.abstained_by == _SELECTION),
    ),
)


def numbers_of(films: Sequence[FilmRow]) -> Numbers:
    """The numbers of ``films``; each quantity is sorted by itself."""
    found: Numbers = {}
    for quantity in QUANTITIES:
        values = [value for value in map(quantity.read, films) if value is not None]
        if quantity.kind == NUMBER:
            found[quantity.name] = sorted(_rounded(value) for value in values if isfinite(value))
        elif quantity.kind == SHARE:
            found[quantity.name] = [sum(values), len(values)]
        else:
            found[quantity.name] = dict(sorted(Counter(values).items()))
    return found


def pooled(parts: Sequence[Numbers]) -> Numbers:
    """The numbers of several sets of films together."""
    found: Numbers = {}
    for quantity in QUANTITIES:
        values = [part[quantity.name] for part in parts if quantity.name in part]
        if quantity.kind == NUMBER:
            found[quantity.name] = sorted(value for part in values for value in part)
        elif quantity.kind == SHARE:
            found[quantity.name] = [sum(column) for column in zip(*values, strict=True)] or [0, 0]
        else:
            counts: Counter[str] = Counter()
            for part in values:
                counts.update(part)
            found[quantity.name] = dict(sorted(counts.items()))
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
