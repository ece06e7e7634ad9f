"""REST models, shared by the server and the Python client: the OpenAPI description is made from them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

Diagnosis = Literal["normal", "bacterial", "viral", "pneumonia-unspecified", "other"]


class WrongParameter(BaseModel):
    """A part of a request that is not as described."""

    where: list[str] = Field(description="``query``, ``path``, ``header`` or ``body``, then the name")
    problem: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "type": "about:blank",
                    "title": "this needs the scope feedback",
                    "status": 403,
                    "remedy": "use a token that has it",
                }
            ]
        }
    }
    type: str = "about:blank"
    title: str = Field(description="what was wrong")
    status: int
    expected: str | None = Field(None, description="what would have been right")
    remedy: str | None = Field(None, description="what to do")
    errors: list[WrongParameter] | None = Field(None, description="one by one, for a 422")


class FindingOut(BaseModel):
    """One thing that is said of the image; the codes are stable, the English messages are not."""

    code: str = Field(description="such as `body-part-not-chest`")
    severity: Literal["note", "warning", "refusal"]
    params: dict[str, str | int | float] = Field(description="the values in the message")
    message: str = Field(description="in English")


class FilmProblem(BaseModel):
    """Why an image has no result; ``fault``: of the image (``input``), or ``ours``."""

    kind: str = Field(description="class of the error, such as UnreadableFileError")
    problem: str
    expected: str | None
    remedy: str | None
    fault: Literal["input", "ours"]
    code: str | None = Field(None, description="of the problem, such as `file-empty`")
    params: dict[str, str | int | float] = Field({}, description="the values in the problem's text")


class GateOut(BaseModel):
    """Whether the image can be judged at all."""

    verdict: Literal["ANSWER", "ANSWER WITH WARNING", "REFUSE"]
    reasons: list[str]
    scores: dict[str, float] = Field(description="distances from the training images, and their limits")


class AnswerSetOut(BaseModel):
    """The answers that cannot be ruled out (conformal set)."""

    answers: list[str]
    error_rate: float = Field(description="share of images whose true answer is not in the set")


class LikeFilm(BaseModel):
    """A training image that the network finds alike."""

    film: str = Field(description="start of the hash of its file")
    label: str
    similarity: float = Field(description="cosine of the two images' features, -1 to 1")


class ExplanationOut(BaseModel):
    """What speaks for the answer, in words; the heat maps show it."""

    sentence: str
    target: str = Field(description="the class that is explained")
    method: str
    zones: dict[str, float] = Field(description="share of the evidence by lung zone")
    outside_lungs: float | None = Field(description="share of the evidence outside the lungs")
    mirrored: bool | None
    nearest: list[LikeFilm] | None


class ResultOut(BaseModel):
    """The answer about an image.

    ``decision`` is ABSTAIN when the gate refused the image (``abstained_by`` is ``gate``, and there is no
    probability) or when the answer set does not single out one answer (``selection``).
    """

    bundle: str = Field(description="the model that answered, with the start of its hash")
    decision: Literal["POSITIVE", "NEGATIVE", "ABSTAIN"]
    abstained_by: Literal["gate", "selection"] | None
    probability: float | None = Field(description="calibrated probability of pneumonia, 0 to 1")
    probability_interval: tuple[float, float] | None = Field(
        None,
        description="its 95 % interval, as far as the calibration is known; null where the bundle has none",
    )
    probabilities: dict[str, float] | None = Field(description="the same by class")
    etiology: Literal["BACTERIAL", "VIRAL", "UNCERTAIN"] | None
    operating_point: str | None
    threshold: float | None = Field(description="probability from which the decision is POSITIVE")
    answer_set: AnswerSetOut | None
    etiology_set: AnswerSetOut | None
    gate: GateOut
    findings: list[FindingOut] = Field([], description="all that is said of the image, each fact once")
    reasons: list[str]
    warnings: list[str]
    explanation: ExplanationOut | None
    limitations: list[str]
    versions: dict[str, str]
    forced: bool = Field(description="answered though the gate refused")
    seconds: float = Field(description="time spent on the image")
    created_at: datetime


class FeedbackOut(BaseModel):
    """A reader's final diagnosis."""

    diagnosis: Diagnosis
    agrees: bool
    comment: str
    consent: bool
    created_at: datetime


class FeedbackIn(BaseModel):
    """A final diagnosis; ``consent``: the image may be used for training."""

    model_config = {
        "extra": "forbid",
        "json_schema_extra": {
            "examples": [{"diagnosis": "viral", "comment": "RSV positive", "consent": True}]
        },
    }
    diagnosis: Diagnosis
    comment: str = Field("", max_length=2000)
    consent: bool = False


class FilmOut(BaseModel):
    """An image: ``state`` is waiting, running, done or failed; ``problem`` says why it failed."""

    id: str
    study_id: str
    batch_id: str | None
    state: Literal["waiting", "running", "done", "failed"]
    problem: FilmProblem | None
    source: Literal["web", "api", "dimse", "dicomweb"]
    received_at: datetime
    facts: dict[str, Any] = Field(description="format, modality, device, rows, columns, ..., once examined")
    age_years: float | None = Field(description="as sent, or as the image says; above 89 it is 90")
    sex: Literal["F", "M", "O"] | None
    pixels_kept: bool = Field(description="false: the retention policy has deleted pictures and heat maps")
    silent: bool = Field(description="made in silent mode: the result is withheld")
    result: ResultOut | None
    feedback: list[FeedbackOut]
    heat_maps: list[str] = Field(description="classes for /v1/films/{film_id}/heat-maps/{name}.png")


class StudyOut(BaseModel):
    """One or more images of one examination of a patient."""

    id: str
    reference: str = Field(description="what the sender calls it, empty where it said nothing")
    received_at: datetime
    films: list[FilmOut]


class StudiesOut(BaseModel):
    """A page of studies; ``next`` goes into ``after`` for the page that follows."""

    studies: list[StudyOut]
    next: str | None = Field(description="null at the end of the list")


class BatchOut(BaseModel):
    """Images that were sent together."""

    id: str
    created_at: datetime
    open: int = Field(description="images that wait or are being examined")
    films: list[FilmOut]


class BundleOut(BaseModel):
    """A bundle that is, or was, active here."""

    id: str
    active_since: datetime
    by: str
    card: dict[str, Any] = Field(description="intended use, training data, validation")


class HealthOut(BaseModel):
    """What works."""

    status: Literal["ok", "not ready"]
    checks: dict[str, str] = Field(description="what was looked at")
