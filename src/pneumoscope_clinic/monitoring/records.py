"""Records of monitoring, which the dashboard and the report draw; JSON of them is the truth."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from pneumoscope.core.records import Estimate


@dataclass(frozen=True, slots=True)
class Day:
    """One day (UTC). ``positive`` + ``negative`` were answered; the rest of ``films`` was refused by the gate
    or abstained from; ``failed`` could not be examined and is not among ``films``.
    """

    date: date
    films: int
    positive: int
    negative: int
    abstained: int
    refused: int
    failed: int
    shadow: int
    seconds: float | None
    """Median time of an examination."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What readers said about the images of a period.

    Attributes:
        start: of the period; None is all of the dashboard's days.
        films: examined; reviewed: of them with a reader's diagnosis; abstained: reviewed ones that got no
            answer.
        agreement: share of the answered and reviewed images that the reader agreed with.
        sensitivity, specificity: of the answers against the readers' diagnoses; ``other`` counts as no
            pneumonia.
    """

    start: date | None
    films: int
    reviewed: int
    abstained: int
    agreement: Estimate | None
    sensitivity: Estimate | None
    specificity: Estimate | None


@dataclass(frozen=True, slots=True)
class DriftRow:
    """One quantity of the last complete window against its reference.

    Attributes:
        quantity: its name (``contrast``, ``device``, ``positive``, ...); title: in words.
        group: ``input`` or ``output``.
        reference: ``bundle`` (its validation images) or ``baseline`` (the first images here under this
            bundle).
        reference_value, present_value: means, or shares in [0, 1] for ``kind`` ``share``; None for a mix.
        kind: ``number``, ``share`` or ``mix``.
        test: what was computed.
        p: its p value; adjusted: after Holm's correction over the tests of the window.
        psi: population stability index, a figure and no test; None where it makes no sense.
        drifted: adjusted is at most the false-alarm rate.
        n, reference_n: images.
    """

    quantity: str
    title: str
    group: str
    kind: str
    reference: str
    reference_value: float | None
    present_value: float | None
    test: str
    p: float
    adjusted: float
    psi: float | None
    drifted: bool
    n: int
    reference_n: int


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """An alarm; ``quantity`` is what it is about (``drift:contrast``, ``agreement``, ``queue``, ...)."""

    id: int
    kind: str
    message: str
    value: float | None
    limit: float | None
    created_at: datetime
    acknowledged_by: str | None
    resolved_at: datetime | None


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Jobs of one kind."""

    kind: str
    waiting: int
    running: int
    failed: int
    oldest_minutes: float | None
    """Age of the oldest job that is due and not yet done."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What the bundle's validation images make one expect here.

    Attributes:
        n: images; positive_rate: share called positive among them, at their prevalence.
        implied_prevalence: share with pneumonia that would give the positive rate of here (Rogan & Gladen,
            Am J Epidemiol 107, 1978), in [0, 1]; None without answers.
        ppv, npv: at that prevalence.
    """

    n: int
    prevalence: float
    positive_rate: float
    implied_prevalence: float | None
    ppv: float | None
    npv: float | None


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Everything that is drawn.

    Attributes:
        bundle_id: in use; None before the first activation.
        days: one row a day, the oldest first, days without images included.
        agreement: over all days; agreement_by_week: weeks (Monday first) that have images, the oldest first.
        drift: of the last complete window; window_end: time of its last image, None before the first one.
        films_until_baseline: images that the baseline still lacks, 0 once it is complete.
        films_until_window: images that the window under way still lacks.
        shadow: silent mode is on.
        notes: what a reader of the figures must know, as sentences.
        validation: None where the bundle does not say.
    """

    made_at: datetime
    days: tuple[Day, ...]
    bundle_id: str | None
    agreement: Agreement
    agreement_by_week: tuple[Agreement, ...]
    positive_rate: Estimate | None
    abstention_rate: Estimate | None
    refusal_rate: Estimate | None
    drift: tuple[DriftRow, ...]
    window_end: datetime | None
    films_until_baseline: int
    films_until_window: int
    alarms: tuple[AlarmRow, ...]
    queue: tuple[QueueDepth, ...]
    shadow: bool
    notes: tuple[str, ...]
    validation: Validation | None = None
