"""The three faces of an answer: a line for people, a JSON object, a row of a table.

In: an examination or the error in its place. Out: one flat record, and lines on standard output. A film that
the gate refused has no probability in any of them; one that fits both answers or neither has, and no answer.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.records import AnswerSet, Decision, Examination, Explanation
from pneumoscope.inference.prediction import percent

__all__ = ["Writer", "record"]


def record(path: Path, outcome: Examination | PneumoscopeError) -> dict[str, Any]:
    """The JSON-able answer about one film; every key is always there, null where it has no value.

    ``decision`` is ABSTAIN for a film that the gate refused (``abstained_by`` is then ``gate``) and for one
    whose ``answer_set`` does not single out an answer (``selection``), and null for one that could not be
    read. The sets are null where the bundle has none.
    """
    row: dict[str, Any] = dict.fromkeys(
        ("file", "sha256", "gate", "probability", "probabilities", "decision", "abstained_by", "answer_set",
         "etiology", "etiology_set", "operating_point", "threshold", "reasons", "forced", "bundle",
         "explanation", "heatmap", "warnings", "error")
    )  # fmt: skip
    row.update(file=str(path), forced=False, reasons=[], warnings=[])
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
    )
    if prediction is not None:
        row.update(
            probability=prediction.probability,
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


class Writer:
    """Prints records to standard output as they come.

    Args:
        form: ``text``, ``json`` or ``csv``.
        classes: class names, for the columns of the table.
    """

    def __init__(self, form: str, classes: tuple[str, ...]) -> None:
        self.form = form
        self.classes = classes
        self._table: Any = None

    def __call__(self, row: dict[str, Any]) -> None:
        """Print one record."""
        if self.form == "json":
            print(json.dumps(row, ensure_ascii=False, allow_nan=False), flush=True)
        elif self.form == "text":
            print(_line(row), *_explained(row), sep="\n  ", flush=True)
        else:
            self._write_row(_columns(row, self.classes))

    def _write_row(self, columns: dict[str, Any]) -> None:
        if self._table is None:
            self._table = csv.DictWriter(sys.stdout, list(columns), lineterminator="\n")
            self._table.writeheader()
        self._table.writerow(columns)
        sys.stdout.flush()


def _columns(row: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """A record without nesting: lists are joined, each class has a column."""
    gate, probabilities = row["gate"] or {}, row["probabilities"] or {}
    columns = {"file": row["file"], "sha256": row["sha256"], "gate": gate.get("verdict")}
    columns["gate_reasons"] = "; ".join(gate.get("reasons", ()))
    columns["probability"] = row["probability"]
    columns |= {f"p_{name}": probabilities.get(name) for name in classes}
    for key in ("decision", "abstained_by", "etiology", "operating_point", "threshold", "forced", "bundle",
                "heatmap"):  # fmt: skip
        columns[key] = row[key]
    for key in ("answer_set", "etiology_set"):
        columns[key] = None if row[key] is None else "; ".join(row[key]["answers"]) or "none"
    columns["reasons"] = "; ".join(row["reasons"])
    columns["evidence"] = (row["explanation"] or {}).get("sentence")
    return columns | {"warnings": "; ".join(row["warnings"]), "error": row["error"]}


def _line(row: dict[str, Any]) -> str:
    if row["error"]:
        return f"{row['file']}: error: {row['error'].removeprefix(row['file'] + ': ')}"
    gate = row["gate"]
    if row["probability"] is None:
        return f"{row['file']}: ABSTAIN, refused: {'; '.join(gate['reasons'])}"
    answer = row["decision"] + (f", {row['etiology'].lower()}" if row["etiology"] else "")
    line = (
        f"{row['file']}: {answer}; probability of pneumonia {percent(row['probability'])}"
        f" ({row['operating_point']}: from {percent(row['threshold'])})"
    )
    if row["reasons"]:
        line += f"; {'; '.join(row['reasons'])}"
    if row["forced"]:
        line += "; FORCED although refused"
    notes = [*gate["reasons"], *row["warnings"]]
    return line + (f"; warning: {'; '.join(notes)}" if notes else "")


def _explained(row: dict[str, Any]) -> list[str]:
    """Further lines of a film that was explained: the sentence, and the training films most like it."""
    if not row["explanation"]:
        return []
    nearest = row["explanation"]["nearest"]
    if nearest is None:
        return [row["explanation"]["sentence"], "Nearest training films: the bundle keeps none."]
    cases = [f"{case['label']} {case['similarity']:.2f} ({case['path'] or case['film']})" for case in nearest]
    return [row["explanation"]["sentence"], f"Most alike among the training films: {', '.join(cases)}."]
