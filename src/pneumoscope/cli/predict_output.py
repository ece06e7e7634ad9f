"""Output of ``predict``: text lines, JSON lines or a CSV table.

An image that the gate refused has no probability in any of them; one that fits both answers or neither has,
and no answer.
"""

from __future__ import annotations

import csv
import json
import sys
from typing import Any

from pneumoscope.core.format import probability


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
    ends = row["probability_interval"] or (None, None)
    columns["probability_low"], columns["probability_high"] = ends
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
        f"{row['file']}: {answer}; probability of pneumonia {probability(row['probability'])}{_interval(row)}"
        f" ({row['operating_point']}: from {probability(row['threshold'])})"
    )
    if row["reasons"]:
        line += f"; {'; '.join(row['reasons'])}"
    if row["forced"]:
        line += "; FORCED although refused"
    notes = dict.fromkeys([*gate["reasons"], *row["warnings"]])
    return line + (f"; warning: {'; '.join(notes)}" if notes else "")


def _interval(row: dict[str, Any]) -> str:
    ends = row["probability_interval"]
    return "" if ends is None else f", 95 % interval {probability(ends[0])} to {probability(ends[1])}"


def _explained(row: dict[str, Any]) -> list[str]:
    """Further lines of an image that was explained: the sentence, and the training images most like it."""
    if not row["explanation"]:
        return []
    nearest = row["explanation"]["nearest"]
    if nearest is None:
        return [row["explanation"]["sentence"], "Nearest training images: the bundle keeps none."]
    cases = [f"{case['label']} {case['similarity']:.2f} ({case['path'] or case['film']})" for case in nearest]
    return [row["explanation"]["sentence"], f"Most alike among the training images: {', '.join(cases)}."]
