"""What a clinic's server answers, as types for those who program against it; times are ISO 8601 texts.

In: nothing. Out: TypedDicts with the keys of ``docs/openapi.json``, which says what each of them means.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

__all__ = [
    "AnswerSet",
    "Batch",
    "Bundle",
    "Explanation",
    "Feedback",
    "Film",
    "FilmProblem",
    "Gate",
    "LikeFilm",
    "Result",
    "Study",
]


class FilmProblem(TypedDict):
    """Why a film has no result."""

    kind: str
    problem: str
    expected: str | None
    remedy: str | None
    fault: Literal["input", "ours"]


class Gate(TypedDict):
    """Whether the film can be judged at all."""

    verdict: Literal["ANSWER", "ANSWER WITH WARNING", "REFUSE"]
    reasons: list[str]
    scores: dict[str, float]


class AnswerSet(TypedDict):
    """The answers that cannot be ruled out."""

    answers: list[str]
    error_rate: float


class LikeFilm(TypedDict):
    """A training film that the network finds alike."""

    film: str
    label: str
    similarity: float


class Explanation(TypedDict):
    """What speaks for the answer."""

    sentence: str
    target: str
    method: str
    zones: dict[str, float]
    outside_lungs: float | None
    mirrored: bool | None
    nearest: list[LikeFilm] | None


class Result(TypedDict):
    """The answer about a film; ``probability`` is of pneumonia, 0 to 1, None when the gate refused it."""

    bundle: str
    decision: Literal["POSITIVE", "NEGATIVE", "ABSTAIN"]
    abstained_by: Literal["gate", "selection"] | None
    probability: float | None
    probability_interval: tuple[float, float] | None
    probabilities: dict[str, float] | None
    etiology: Literal["BACTERIAL", "VIRAL", "UNCERTAIN"] | None
    operating_point: str | None
    threshold: float | None
    answer_set: AnswerSet | None
    etiology_set: AnswerSet | None
    gate: Gate
    reasons: list[str]
    warnings: list[str]
    explanation: Explanation | None
    limitations: list[str]
    versions: dict[str, str]
    forced: bool
    seconds: float
    created_at: str


class Feedback(TypedDict):
    """A reader's final diagnosis."""

    diagnosis: Literal["normal", "bacterial", "viral", "pneumonia-unspecified", "other"]
    agrees: bool
    comment: str
    consent: bool
    created_at: str


class Film(TypedDict):
    """A film; ``result`` is None until it is examined, and in silent mode."""

    id: str
    study_id: str
    batch_id: str | None
    state: Literal["waiting", "running", "done", "failed"]
    problem: FilmProblem | None
    source: Literal["web", "api", "dimse", "dicomweb"]
    received_at: str
    facts: dict[str, Any]
    age_years: float | None
    sex: Literal["F", "M", "O"] | None
    pixels_kept: bool
    silent: bool
    result: Result | None
    feedback: list[Feedback]
    heat_maps: list[str]


class Study(TypedDict):
    """One or more films of one examination of a patient."""

    id: str
    reference: str
    received_at: str
    films: list[Film]


class Batch(TypedDict):
    """Films that were sent together; ``open`` of them are not examined yet."""

    id: str
    created_at: str
    open: int
    films: list[Film]


class Bundle(TypedDict):
    """A bundle that is, or was, active."""

    id: str
    active_since: str
    by: str
    card: dict[str, Any]
