"""The JSON document of an examination: what is printed, stored and sent.

An image that the gate refused has no probability in it; one that fits both answers or neither has, and no
answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.findings import to_dict
from pneumoscope.core.records import AnswerSet, Decision, Examination, Explanation

SCHEMA_VERSION = 1
"""Of the document; raised when a key changes its meaning or goes."""


def record(path: Path, outcome: Examination | PneumoscopeError) -> dict[str, Any]:
    """The JSON-able answer about one film; every key is always there, null where it has no value.

    ``decision`` is ABSTAIN for a film that the gate refused (``abstained_by`` is then ``gate``) and for one
    whose ``answer_set`` does not single out an answer (``selection``), and null for one that could not be
    read. The sets are null where the bundle has none.
    """
    row: dict[str, Any] = dict.fromkeys(
        ("file", "sha256", "gate", "probability", "probability_interval", "probabilities", "decision",
         "abstained_by", "answer_set", "etiology", "etiology_set", "operating_point", "threshold", "reasons",
         "forced", "bundle", "explanation", "heatmap", "warnings", "error", "schema_version", "findings")
    )  # fmt: skip
    row.update(
        file=str(path), forced=False, reasons=[], warnings=[], schema_version=SCHEMA_VERSION, findings=[]
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
    """What was explained, without the pixels; ``nearest`` is null where the bundle keeps no films."""
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


def unsaid_warnings(record: Mapping[str, Any]) -> list[str]:
    """English warnings of the decoder that are none of the gate's reasons, each once."""
    return [text for text in dict.fromkeys(record["warnings"]) if text not in record["gate"]["reasons"]]
