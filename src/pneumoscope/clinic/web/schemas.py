"""What the REST interface says, as models: the OpenAPI description is made from them.

In: rows of the store. Out: JSON. Results of silent mode are withheld (``store.studies.shown``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from pneumoscope.clinic.store.database import Store
from pneumoscope.clinic.store.studies import comment_of, reference_of, shown, state_of
from pneumoscope.clinic.store.tables import Activation, Feedback, Film, Study

__all__ = [
    "BatchOut",
    "BundleOut",
    "FeedbackIn",
    "FeedbackOut",
    "FilmOut",
    "HealthOut",
    "Problem",
    "ResultOut",
    "StudiesOut",
    "StudyOut",
    "bundle_out",
    "feedback_out",
    "film_out",
    "study_out",
]

Diagnosis = Literal["normal", "bacterial", "viral", "pneumonia-unspecified", "other"]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    expected: str | None = None
    remedy: str | None = None
    errors: list[dict[str, Any]] | None = None


class ResultOut(BaseModel):
    """The answer about a film; ``probability`` is null when the gate refused it."""

    bundle: str
    decision: Literal["POSITIVE", "NEGATIVE", "ABSTAIN"]
    abstained_by: Literal["gate", "selection"] | None
    probability: float | None = Field(description="calibrated probability of pneumonia, 0 to 1")
    probabilities: dict[str, float] | None
    etiology: Literal["BACTERIAL", "VIRAL", "UNCERTAIN"] | None
    operating_point: str | None
    threshold: float | None
    answer_set: dict[str, Any] | None
    etiology_set: dict[str, Any] | None
    gate: dict[str, Any]
    reasons: list[str]
    warnings: list[str]
    explanation: dict[str, Any] | None
    limitations: list[str]
    versions: dict[str, str]
    forced: bool
    seconds: float
    created_at: datetime


class FeedbackOut(BaseModel):
    """A reader's final diagnosis."""

    diagnosis: Diagnosis
    agrees: bool
    comment: str
    consent: bool
    created_at: datetime


class FeedbackIn(BaseModel):
    """A final diagnosis; ``consent``: the film may be used for training."""

    model_config = {"extra": "forbid"}
    diagnosis: Diagnosis
    comment: str = Field("", max_length=2000)
    consent: bool = False


class FilmOut(BaseModel):
    """A film: ``state`` is waiting, running, done or failed; ``problem`` says why it failed."""

    id: str
    study_id: str
    batch_id: str | None
    state: Literal["waiting", "running", "done", "failed"]
    problem: dict[str, Any] | None
    source: str
    received_at: datetime
    facts: dict[str, Any]
    age_years: float | None
    sex: str | None
    silent: bool = Field(description="made in silent mode: the result is withheld")
    result: ResultOut | None
    feedback: list[FeedbackOut]
    heat_maps: list[str] = Field(description="classes for /v1/films/{film_id}/heat-maps/{name}.png")


class StudyOut(BaseModel):
    """One or more films of one examination of a patient."""

    id: str
    reference: str
    received_at: datetime
    films: list[FilmOut]


class StudiesOut(BaseModel):
    """A page of studies; ``next`` goes into ``after`` for the page that follows."""

    studies: list[StudyOut]
    next: str | None


class BatchOut(BaseModel):
    """Films that were sent together."""

    id: str
    created_at: datetime
    open: int = Field(description="films that wait or are being examined")
    films: list[FilmOut]


class BundleOut(BaseModel):
    """A bundle that is, or was, active here."""

    id: str
    active_since: datetime
    by: str
    card: dict[str, Any]


class HealthOut(BaseModel):
    """What works."""

    status: Literal["ok", "not ready"]
    checks: dict[str, str]


def film_out(store: Store, film: Film) -> FilmOut:
    """A film with result and feedback; ``film`` has its jobs and feedback loaded."""
    state, problem = state_of(film)
    result = shown(film)
    record = {} if result is None else result.record
    classes = [name for name in record.get("probabilities") or () if name != "normal"]
    return FilmOut(
        id=film.id,
        study_id=film.study_id,
        batch_id=film.batch_id,
        state=state,
        problem=problem,
        source=film.source,
        received_at=film.created_at,
        facts=film.facts,
        age_years=film.age_years,
        sex=film.sex,
        silent=film.result is not None and result is None,
        result=None
        if result is None
        else ResultOut(**{**record, "seconds": result.seconds, "created_at": result.created_at}),
        feedback=[feedback_out(store, row) for row in film.feedback],
        heat_maps=classes if record.get("explanation") else [],
    )


def study_out(store: Store, study: Study) -> StudyOut:
    """A study with its films."""
    films = [film_out(store, film) for film in study.films]
    return StudyOut(
        id=study.id, reference=reference_of(store, study), received_at=study.created_at, films=films
    )


def feedback_out(store: Store, row: Feedback) -> FeedbackOut:
    """A reader's diagnosis."""
    kept = {key: getattr(row, key) for key in ("diagnosis", "agrees", "consent", "created_at")}
    return FeedbackOut(comment=comment_of(store, row), **kept)


def bundle_out(row: Activation) -> BundleOut:
    """An activation."""
    return BundleOut(id=row.bundle_id, active_since=row.at, by=row.by, card=row.card)
