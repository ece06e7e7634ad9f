"""The examination of an image, and the one JSON document made of it: what is printed, stored and sent.

An image that the gate refused has no probability in the document; one that fits both answers or neither has,
and no answer. ``docs/result.schema.json`` is :func:`json_schema`.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import TypedDict

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.findings import Finding, Severity, message, messages, to_dict, unique
from pneumoscope.core.format import probability as format_probability
from pneumoscope.core.records import AnswerSet, Decision, Explanation, GateVerdict, Prediction

SCHEMA_VERSION = 1
"""Of the document; raised when a key changes its meaning or goes."""

_STRICT = {"extra": "forbid"}  # no further keys; for pydantic, which only the schema needs
_SHOWN = 360
"""Longest side in pixels of the picture that a notebook shows."""


class FindingDocument(TypedDict):
    """One thing said of an image: a stable code with its parameters, and the English message."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    code: str
    severity: str
    params: dict[str, str | int | float]
    message: str


class GateDocument(TypedDict):
    """The gate's verdict, its findings in English, and the scores behind it."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    verdict: str
    reasons: list[str]
    scores: dict[str, float]


class AnswerSetDocument(TypedDict):
    """The answers that cannot be excluded at an error rate."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    answers: list[str]
    error_rate: float


class NearestCaseDocument(TypedDict):
    """A training image that the network finds alike: the first 16 digits of its SHA-256, its class."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    film: str
    label: str
    similarity: float
    path: str | None


class ExplanationDocument(TypedDict):
    """Where the evidence lies, without the pixels; ``nearest`` is null where the bundle keeps no images."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    sentence: str
    target: str
    method: str
    zones: dict[str, float]
    outside_lungs: float | None
    mirrored: bool | None
    nearest: list[NearestCaseDocument] | None


class ResultDocument(TypedDict):
    """The result of one image; every key is always there, null where it has no value.

    ``decision`` is ABSTAIN for an image that the gate refused (``abstained_by`` is then ``gate``) and for one
    whose ``answer_set`` does not single out an answer (``selection``), and null for one that could not be
    read. The sets are null where the bundle has none. ``findings`` says every fact once; ``reasons``,
    ``warnings`` and ``gate.reasons`` are English messages of some of them.
    """

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    file: str
    sha256: str | None
    gate: GateDocument | None
    probability: float | None
    probability_interval: list[float] | None
    probabilities: dict[str, float] | None
    decision: str | None
    abstained_by: str | None
    answer_set: AnswerSetDocument | None
    etiology: str | None
    etiology_set: AnswerSetDocument | None
    operating_point: str | None
    threshold: float | None
    reasons: list[str]
    forced: bool
    bundle: str | None
    explanation: ExplanationDocument | None
    heatmap: str | None
    warnings: list[str]
    error: str | None
    schema_version: int
    findings: list[FindingDocument]


@dataclass(frozen=True, slots=True)
class Examination:
    """One image through the whole line. ``prediction`` and ``explanation`` are None when the gate refuses.

    Attributes:
        file: as the source was named; empty for what came from memory.
        sha256: of the file's content; empty for pixels that came without a file.
        image_findings: those of the radiograph; the gate repeats its warnings and refusals.
        forced: the gate refused, and an answer was asked for all the same.
        image: (h, w) uint8, bright = dense, as it was decoded; None where it was not to be kept.
    """

    file: str
    sha256: str
    gate: GateVerdict
    prediction: Prediction | None
    explanation: Explanation | None
    image_findings: tuple[Finding, ...]
    bundle_card: Mapping[str, Any]
    limitations: tuple[str, ...]
    versions: Mapping[str, str]
    forced: bool = False
    image: npt.NDArray[np.uint8] | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is said of the image, each fact once, refusals first and notes last."""
        parts = (self.gate, self.prediction, self.explanation)
        said = (finding for part in parts if part is not None for finding in part.findings)
        return unique((*self.image_findings, *said))

    @property
    def warnings(self) -> tuple[str, ...]:
        """The findings of the radiograph in English."""
        return messages(self.image_findings)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document (:class:`ResultDocument`)."""
        return record(self.file, self)

    def _repr_html_(self) -> str:
        """A small summary for notebooks: picture with the contours of the heat map, answer, findings."""
        said = [
            f"<li>{html.escape(message(finding))}</li>"
            for finding in self.findings
            if finding.severity is not Severity.NOTE
        ]
        if self.explanation is not None:
            said.insert(0, f"<li>{html.escape(self.explanation.sentence)}</li>")
        picture = _picture(self)
        return (
            f"<figure>{picture}<figcaption><b>{html.escape(_headline(self))}</b><ul>{''.join(said)}</ul>"
            f"{html.escape(str(self.bundle_card['id']))}; not for primary diagnosis</figcaption></figure>"
        )


def _headline(examination: Examination) -> str:
    prediction = examination.prediction
    if prediction is None:
        return "ABSTAIN, refused"
    etiology = f", {str(prediction.etiology).lower()}" if prediction.etiology else ""
    probability = format_probability(prediction.probability)
    return f"{prediction.decision}{etiology}; probability of pneumonia {probability}"


def _picture(examination: Examination) -> str:
    """An ``<img>`` of the image with the heat map's contours; empty where no image was kept."""
    from PIL import Image

    from pneumoscope.inference.overlay import contour

    if examination.image is None:
        return ""
    small = Image.fromarray(examination.image)
    small.thumbnail((_SHOWN, _SHOWN))
    pixels = np.asarray(small)
    if examination.explanation is not None:
        size = (pixels.shape[1], pixels.shape[0])
        heat = Image.fromarray(np.asarray(examination.explanation.heat_map)).resize(size)
        pixels = contour(pixels, np.asarray(heat))
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    data = base64.b64encode(out.getvalue()).decode()
    return f'<img alt="radiograph" src="data:image/png;base64,{data}">'


def record(file: Path | str, outcome: Examination | PneumoscopeError) -> dict[str, Any]:
    """The JSON document (:class:`ResultDocument`) of an image, or of the error in its place."""
    row: dict[str, Any] = dict.fromkeys(ResultDocument.__annotations__)
    row.update(
        file=str(file), forced=False, reasons=[], warnings=[], schema_version=SCHEMA_VERSION, findings=[]
    )
    if isinstance(outcome, PneumoscopeError):
        return {**row, "error": str(outcome)}
    gate, prediction = outcome.gate, outcome.prediction
    row.update(
        sha256=outcome.sha256,
        gate={"verdict": str(gate.verdict), "reasons": list(gate.reasons), "scores": dict(gate.scores)},
        decision=str(Decision.ABSTAIN),
        abstained_by="gate",
        reasons=list(gate.reasons),
        forced=outcome.forced,
        bundle=outcome.bundle_card["id"],
        warnings=list(outcome.warnings),
        findings=[to_dict(finding) for finding in outcome.findings],
    )
    if prediction is not None:
        row.update(
            probability=prediction.probability,
            probability_interval=None if prediction.interval is None else list(prediction.interval),
            probabilities=dict(prediction.probabilities),
            decision=str(prediction.decision),
            abstained_by="selection" if prediction.decision is Decision.ABSTAIN else None,
            answer_set=_set(prediction.answer_set),
            etiology_set=_set(prediction.etiology_set),
            etiology=None if prediction.etiology is None else str(prediction.etiology),
            operating_point=prediction.operating_point.name,
            threshold=prediction.operating_point.threshold,
            reasons=list(prediction.reasons),
        )
    if outcome.explanation is not None:
        row["explanation"] = _explanation(outcome.explanation)
    return row


def _set(found: AnswerSet | None) -> dict[str, Any] | None:
    return None if found is None else {"answers": list(found.answers), "error_rate": found.error_rate}


def _explanation(explanation: Explanation) -> dict[str, Any]:
    nearest = explanation.nearest
    return {
        "sentence": explanation.sentence,
        "target": explanation.target,
        "method": explanation.method,
        "zones": dict(explanation.zones),
        "outside_lungs": explanation.outside_lungs,
        "mirrored": explanation.mirrored,
        "nearest": None if nearest is None else [asdict(case) for case in nearest],
    }


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the document."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(ResultDocument).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
