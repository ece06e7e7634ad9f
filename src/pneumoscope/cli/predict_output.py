"""The three faces of an answer: a line for people, a JSON object, a row of a table.

In: an examination or the error in its place. Out: one flat record, and lines on standard output. A film that
the gate refused has no probability in any of them.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.records import Decision, Examination

__all__ = ["Writer", "record"]


def record(path: Path, outcome: Examination | PneumoscopeError) -> dict[str, Any]:
    """The JSON-able answer about one film; every key is always there, null where it has no value.

    ``decision`` is ABSTAIN for a film that the gate refused and null for one that could not be read.
    """
    row: dict[str, Any] = dict.fromkeys(
        ("file", "sha256", "gate", "probability", "probabilities", "decision", "etiology", "operating_point",
         "threshold", "reasons", "forced", "bundle", "heatmap", "warnings", "error")
    )  # fmt: skip
    row.update(file=str(path), forced=False, reasons=[], warnings=[])
    if isinstance(outcome, PneumoscopeError):
        return {**row, "error": str(outcome)}
    gate, prediction = outcome.gate, outcome.prediction
    row.update(
        sha256=outcome.sha256,
        gate={"verdict": str(gate.verdict), "reasons": list(gate.reasons), "scores": dict(gate.scores)},
        decision=str(Decision.ABSTAIN),
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
            etiology=None if prediction.etiology is None else str(prediction.etiology),
            operating_point=prediction.operating_point.name,
            threshold=prediction.operating_point.threshold,
            reasons=list(prediction.reasons),
        )
    return row


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
            print(_line(row), flush=True)
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
    for key in ("decision", "etiology", "operating_point", "threshold", "forced", "bundle", "heatmap"):
        columns[key] = row[key]
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
    if row["forced"]:
        line += "; FORCED although refused"
    notes = [*gate["reasons"], *row["warnings"]]
    return line + (f"; warning: {'; '.join(notes)}" if notes else "")


def percent(probability: float) -> str:
    """A probability as people read it; never 0 % or 100 %, which no model can mean."""
    if probability < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if probability > 0.999 else f"{100 * probability:.1f} %"
