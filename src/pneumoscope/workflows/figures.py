"""Figures of results, as matplotlib figures: ``ps.figures.roc_curve(result)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from matplotlib.figure import Figure

from pneumoscope.core.errors import InputError
from pneumoscope.reporting import figures
from pneumoscope.reporting.evaluation_page import draw_evaluation
from pneumoscope.workflows.training import TrainingResult


class Evaluated(Protocol):
    """A result with an evaluation: of ``train`` (validation images), ``cross_validate`` or ``evaluate``."""

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """The content of ``evaluation.json``."""


def learning_curves(run: TrainingResult | Mapping[str, Sequence[float]]) -> Figure:
    """Loss, and validation AUC and accuracy, against epochs; of a run, or of the columns of a history."""
    return figures.learning_curves(run.history if isinstance(run, TrainingResult) else run)


def confusion_matrix(result: Evaluated) -> Figure:
    """Counts with the share of their row: of the classes, or of the two decisions of a binary network."""
    return _drawn(result, "confusion" if len(result.evaluation["classes"]) > 2 else "decisions")


def decisions(result: Evaluated) -> Figure:
    """Reference against decision (pneumonia or not) at the operating point."""
    return _drawn(result, "decisions")


def roc_curve(result: Evaluated) -> Figure:
    """Sensitivity against false-positive rate, with the operating point and its intervals."""
    return _drawn(result, "roc")


def precision_recall(result: Evaluated) -> Figure:
    """Precision against recall, with the operating point and its intervals."""
    return _drawn(result, "precision_recall")


def calibration(result: Evaluated) -> Figure:
    """Reliability diagram: observed share with pneumonia against predicted probability."""
    return _drawn(result, "reliability")


def _drawn(result: Evaluated, name: str) -> Figure:
    drawn = draw_evaluation(result.evaluation, None)
    if name not in drawn:
        raise InputError(f"no figure '{name}'", expected="images with and without pneumonia")
    return drawn[name].figure
