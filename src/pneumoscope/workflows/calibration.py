"""Calibrate a bundle anew, on images that its recipe has found harder than validation images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumoscope.core.errors import InputError
from pneumoscope.evaluation.decisions import (
    Choices,
    choose_decisions,
    point_of,
    read_views,
)
from pneumoscope.evaluation.evaluate import EvaluationConfig, Scoring, evaluate, evaluation_to_json
from pneumoscope.evaluation.predictions import PredictionTable
from pneumoscope.inference.bundle import MODEL, write_bundle
from pneumoscope.inference.prediction import calibrated_probabilities
from pneumoscope.workflows.runs import Result, open_bundle

if TYPE_CHECKING:
    from pneumoscope.inference.bundle import Bundle


PROTOCOL = "cross-validation by patient with other networks of the same recipe"


@dataclass(frozen=True)
class CalibrationResult(Result):
    """``document``: ``bundle`` (its id), ``chosen`` and ``candidates`` with what each holds, view by view."""

    def rows(self) -> list[dict[str, Any]]:
        """One row per group left out and candidate: sensitivity and specificity at the default point."""
        return [
            {
                "calibrated on": name,
                "images": view["name"],
                "n": view["n"],
                "sensitivity": _value(view["sensitivity"]),
                "specificity": _value(view["specificity"]),
            }
            for name, candidate in self.document["candidates"].items()
            for view in candidate["views"]
        ]


def calibrate(
    bundle: Bundle | Path | str, runs: Sequence[Path | str], output: Path | str
) -> CalibrationResult:
    """Write ``bundle`` with calibration, thresholds and abstention that hold the worst group left out.

    Args:
        bundle: whose network stays as it is.
        runs: cross-validations of the bundle's own recipe: by patient, and with clusters left out.
        output: folder of the new bundle.

    Raises:
        InputError: no runs, or one that is unfinished or of another recipe or task.
        BundleError: ``bundle`` was commissioned, or ``output`` holds something else than a bundle.
    """
    opened = open_bundle(bundle)
    opened.refuse_site("calibrated")
    folders = [Path(run) for run in runs]
    if not folders:
        raise InputError("nothing to calibrate on", expected="the folder of at least one cross-validation")
    views, ordinary = read_views(folders, opened.document)
    choices = Choices.of(opened.document)
    decisions, report = choose_decisions(opened.task, choices, views)
    document = {**opened.document, **decisions}
    document["calibration"] = {**decisions["calibration"], "judged": report}
    if ordinary is not None:
        document |= {
            "validation": _figures(ordinary, decisions, choices),
            "validation_protocol": PROTOCOL,
        }
    new = write_bundle(
        Path(output), opened.directory / MODEL, document, opened.arrays, opened.preprocessing.segmenter
    )
    return CalibrationResult(Path(output), {"bundle": new.id, **report})


def _figures(table: PredictionTable, decisions: Mapping[str, Any], choices: Choices) -> Mapping[str, Any]:
    """The figures out of fold of the new decisions, as the bundle keeps them."""
    probabilities = calibrated_probabilities(table.logits, decisions["calibration"])
    scored = replace(table, probabilities=probabilities, bounds=None)
    config = EvaluationConfig(costs=choices.costs)
    evaluation = evaluate(scored, point_of(decisions), scoring=Scoring(protocol=PROTOCOL), config=config)
    figures: Mapping[str, Any] = evaluation_to_json(evaluation, scored, costs=choices.costs)["estimates"]
    return figures


def _value(estimate: Mapping[str, Any] | None) -> float | None:
    return None if estimate is None else float(estimate["value"])
