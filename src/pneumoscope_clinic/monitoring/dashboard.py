"""Queries of the dashboard and the monitoring report; images of silent mode count."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from statistics import median
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pneumoscope.core.errors import BundleError
from pneumoscope.core.records import Decision, Verdict
from pneumoscope.evaluation.intervals import proportion_estimate
from pneumoscope.evaluation.metrics import predictive_values
from pneumoscope_clinic.monitoring.agreement import agreement, by_week, reviewed_films
from pneumoscope_clinic.monitoring.alarms import alarm_rows
from pneumoscope_clinic.monitoring.records import Agreement, Dashboard, Day, QueueDepth, Validation
from pneumoscope_clinic.monitoring.sequential import progress
from pneumoscope_clinic.store.bundles import active_bundle
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Job, Result, now

_SELECTIVE = (
    "Agreement, sensitivity and specificity are those of the {reviewed} images with a reader's diagnosis "
    "out of {films}: readers choose which images they comment on, so they may differ for the others."
)
_NO_BUNDLE = "The active bundle's directory is gone: nothing is compared with its validation images."
_BASELINE = (
    "Exposure, size, devices, probabilities and shares are compared with the first images here under this "
    "bundle (baseline): the bundle keeps no distribution of them. {missing} images are still missing for it."
)
NOTES = (_SELECTIVE, _NO_BUNDLE, _BASELINE)
"""Templates of ``Dashboard.notes``."""


def dashboard(store: Store, days: int = 30) -> Dashboard:
    """Figures of the last ``days`` days (UTC, today included, at least 1).

    Raises:
        BundleError: there is no bundle, and that of the settings cannot be opened.
    """
    made_at = now()
    first = made_at.date() - timedelta(days=max(1, days) - 1)
    since = datetime.combine(first, time(), UTC)
    bundle = active_bundle(store)
    where = progress(store, bundle.bundle_id)
    with store.read() as session:
        rows = _days(session, since, made_at.date())
        films = reviewed_films(session, since)
        alarms, queue = alarm_rows(session), _queue(session)
    count, refused = sum(row.films for row in rows), sum(row.refused for row in rows)
    answered = sum(row.positive + row.negative for row in rows)
    positive = proportion_estimate(sum(row.positive for row in rows), answered)
    document = bundle_document(bundle.location)
    every = agreement(films)
    return Dashboard(
        made_at=made_at,
        days=rows,
        bundle_id=bundle.bundle_id,
        agreement=every,
        agreement_by_week=by_week(films),
        positive_rate=positive,
        abstention_rate=proportion_estimate(sum(row.abstained for row in rows), count - refused),
        refusal_rate=proportion_estimate(refused, count),
        drift=() if where.last is None else where.last.rows,
        window_end=None if where.last is None else where.last.until,
        films_until_baseline=where.films_until_baseline,
        films_until_window=where.films_until_window,
        alarms=alarms,
        queue=queue,
        shadow=store.settings.shadow,
        notes=_notes(every, document is None, where.films_until_baseline),
        validation=expectation(
            document, store.settings.operating_point, None if positive is None else positive.value
        ),
    )


def bundle_document(location: str) -> Mapping[str, Any] | None:
    """``bundle.json`` of the bundle at ``location`` (a directory or a shipped name); None if it is gone."""
    from pneumoscope.inference.bundle import load_bundle

    try:
        return load_bundle(location).document
    except BundleError:
        return None


def expectation(
    document: Mapping[str, Any] | None, operating_point: str | None, positive_rate: float | None
) -> Validation | None:
    """What the validation images make one expect here, at an operating point (None: the bundle's default).

    Args:
        document: ``bundle.json``.
        operating_point: its name.
        positive_rate: share called positive here, of the answered images.
    """
    if document is None:
        return None
    name = operating_point or document["default_operating_point"]
    points: dict[str, Any] = {point["name"]: point for point in document["operating_points"]}
    point = points.get(name, {})
    sensitivity, specificity = point.get("sensitivity"), point.get("specificity")
    ill = document["validation"].get("sensitivity", {}).get("n")
    if sensitivity is None or specificity is None or not ill or not point.get("n"):
        return None
    prevalence = ill / point["n"]
    expected = prevalence * sensitivity + (1 - prevalence) * (1 - specificity)
    implied = ppv = npv = None
    if positive_rate is not None and sensitivity + specificity > 1:
        raw = (positive_rate + specificity - 1) / (sensitivity + specificity - 1)
        implied = min(max(raw, 0.0), 1.0)
        ppv, npv = predictive_values(sensitivity, specificity, implied)
    return Validation(point["n"], prevalence, expected, implied, ppv, npv)


def _notes(every: Agreement, gone: bool, missing: int) -> tuple[str, ...]:
    notes = []
    if every.reviewed:
        notes.append(_SELECTIVE.format(reviewed=every.reviewed, films=every.films))
    if gone:
        notes.append(_NO_BUNDLE)
    if missing:
        notes.append(_BASELINE.format(missing=missing))
    return tuple(notes)


def _days(session: Session, since: datetime, today: date) -> tuple[Day, ...]:
    counts: dict[date, Counter[str]] = defaultdict(Counter)
    seconds: dict[date, list[float]] = defaultdict(list)
    rows = session.execute(
        select(
            Result.created_at,
            Result.verdict,
            Result.decision,
            Result.abstained_by,
            Result.shadow,
            Result.seconds,
        ).where(Result.created_at >= since)
    )
    for at, verdict, decision, abstained_by, shadow, taken in rows:
        day = counts[at.date()]
        day["films"] += 1
        day["shadow"] += shadow
        day[_outcome(verdict, decision, abstained_by)] += 1
        seconds[at.date()].append(taken)
    failed = select(Job.finished_at).where(
        Job.kind == "examine", Job.state == "failed", Job.finished_at >= since
    )
    for finished in session.scalars(failed):
        if finished is not None:
            counts[finished.date()]["failed"] += 1
    span = (today - since.date()).days + 1
    every = (since.date() + timedelta(days=offset) for offset in range(span))
    return tuple(_day(day, counts[day], seconds[day]) for day in every)


def _outcome(verdict: str, decision: str, abstained_by: str | None) -> str:
    if verdict == Verdict.REFUSE or abstained_by == "gate":
        return "refused"
    names: Mapping[str, str] = {Decision.POSITIVE: "positive", Decision.NEGATIVE: "negative"}
    return names.get(decision, "abstained")


def _day(day: date, counts: Counter[str], seconds: Sequence[float]) -> Day:
    return Day(
        date=day,
        films=counts["films"],
        positive=counts["positive"],
        negative=counts["negative"],
        abstained=counts["abstained"],
        refused=counts["refused"],
        failed=counts["failed"],
        shadow=counts["shadow"],
        seconds=median(seconds) if seconds else None,
    )


def waiting_minutes(session: Session) -> dict[str, float]:
    """By kind of job, for how long the one that is due for longest has waited.

    One in the hands of a worker waits, too: the worker may have died.
    """
    present = now()
    oldest = session.execute(
        select(Job.kind, func.min(Job.due_at))
        .where(Job.state.in_(("waiting", "running")), Job.due_at <= present)
        .group_by(Job.kind)
    )
    return {kind: (present - due_at).total_seconds() / 60 for kind, due_at in oldest}


def _queue(session: Session) -> tuple[QueueDepth, ...]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, state, count in session.execute(
        select(Job.kind, Job.state, func.count()).where(Job.state != "done").group_by(Job.kind, Job.state)
    ):
        counts[kind][state] = count
    oldest = waiting_minutes(session)
    return tuple(
        QueueDepth(kind, found["waiting"], found["running"], found["failed"], oldest.get(kind))
        for kind, found in sorted(counts.items())
    )
