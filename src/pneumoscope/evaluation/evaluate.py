"""One scoring: from a table of predictions to figures, each with its count and its 95 % interval.

In: predictions with reference labels, the operating point that was chosen on validation films, and what the
manifest knows about the films (age, sex, view, site). Out: an :class:`Evaluation`; its JSON is written by
:mod:`pneumoscope.evaluation.evaluation_json`. No threshold and no calibration is chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pneumoscope.core.config import Config
from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Estimate, Evaluation, OperatingPoint, Sample, Task
from pneumoscope.evaluation import metrics
from pneumoscope.evaluation import weighted_metrics as weighted
from pneumoscope.evaluation.costs import CostConfig
from pneumoscope.evaluation.intervals import (
    RESAMPLES,
    bootstrap,
    bootstrap_estimate,
    predictive_value_estimates,
    proportion_estimate,
)
from pneumoscope.evaluation.predictions import PredictionTable

AGE_BANDS = ((2.0, "<2"), (12.0, "2-11"), (18.0, "12-17"), (65.0, "18-64"), (float("inf"), "65+"))
"""Upper limit in years and name: the age classes of ICH E11 (children) and ICH E7 (from 65)."""

Bools = npt.NDArray[np.bool_]


class EvaluationConfig(Config):
    """How to score: resamples and seed of the bootstrap, and what errors cost at which prevalence."""

    resamples: int = Field(default=RESAMPLES, ge=100, le=100_000)
    seed: int = Field(default=0, ge=0)
    costs: CostConfig = CostConfig()


@dataclass(frozen=True, slots=True)
class Scoring:
    """What was scored: hash of the manifest, how the films were chosen, in words, and whether they leaked."""

    dataset_hash: str = ""
    protocol: str = ""
    contaminated: bool = False


@dataclass(frozen=True, slots=True)
class _Score:
    """A figure that needs the bootstrap: its value on the films, and its twin on their weights."""

    value: float | None
    statistic: weighted.Statistic
    classes: tuple[Bools, ...]  # films (N,) of each class that it tells apart; the films it counts, together
    centred: bool = False


def evaluate(
    table: PredictionTable,
    operating_point: OperatingPoint,
    *,
    samples: Sequence[Sample] = (),
    scoring: Scoring | None = None,
    config: EvaluationConfig | None = None,
) -> Evaluation:
    """Score ``table`` at ``operating_point``.

    Args:
        table: at least one film.
        operating_point: a film is called positive when its probability is at least the threshold.
        samples: rows of the manifest, for subgroups: none, or one for every film of the table.
        scoring: provenance, kept in the result.
        config: bootstrap and costs. PPV and NPV are at ``config.costs.prevalence``, or that of the films.

    Returns:
        Estimates by name (:data:`metrics.TITLES`); a figure that these films do not define is absent. The
        confusion matrix is between classes by largest probability (three-class) or at the threshold (binary).

    Raises:
        InputError: no films, or a film that ``samples`` lack.
    """
    if not len(table):
        raise InputError("no films to score", expected="at least one film", remedy="choose another split")
    config, scoring = config or EvaluationConfig(), scoring or Scoring()
    decided = table.probability >= operating_point.threshold
    by_subgroup = {
        name: MappingProxyType(_pneumonia_estimates(table.select(rows), decided[rows], config))
        for name, rows in subgroups(table, samples).items()
    }
    return Evaluation(
        n=len(table),
        patients=len(set(table.patient_ids)),
        prevalence=float(table.positive.mean()),
        classes=table.task.classes,
        estimates=MappingProxyType(estimate_figures(table, decided, config)),
        by_subgroup=MappingProxyType(by_subgroup),
        confusion=tuple(map(tuple, _confusion(table, operating_point).tolist())),
        operating_point=operating_point,
        dataset_hash=scoring.dataset_hash,
        protocol=scoring.protocol,
        contaminated=scoring.contaminated,
    )


def estimate_figures(
    table: PredictionTable, decided: Bools, config: EvaluationConfig | None = None
) -> dict[str, Estimate]:
    """The figures of ``table`` where each film was decided by itself: pooled folds have a threshold each.

    Args:
        table: at least one film.
        decided: (N,) whether pneumonia was called.
        config: bootstrap and costs.

    Returns:
        Estimates by name, in the order of :data:`metrics.TITLES`; an undefined figure is absent.
    """
    config = config or EvaluationConfig()
    estimates = _pneumonia_estimates(table, decided, config)
    if table.task is Task.THREE_CLASS:
        estimates |= _class_estimates(table, config)
    return {name: estimates[name] for name in metrics.TITLES if name in estimates}


def subgroups(table: PredictionTable, samples: Sequence[Sample]) -> dict[str, Bools]:
    """Rows (N,) of each subgroup by ``sex=F``, ``age=2-11``, ``view=PA``, ``site=...``.

    An attribute is used when the films differ in it; films that lack it are then ``<attribute>=unknown``.

    Raises:
        InputError: ``samples`` are given and a film of the table is not among them.
    """
    if not samples:
        return {}
    by_path = {sample.path: sample for sample in samples}
    absent = [path for path in table.paths if path not in by_path]
    if absent:
        raise InputError(
            f"film is not in the manifest ({len(absent)} such films)",
            where=absent[0],
            expected="one row a film",
        )
    rows = [by_path[path] for path in table.paths]
    found: dict[str, Bools] = {}
    for attribute, values in (
        ("age", [_age_band(row.age_years) for row in rows]),
        ("sex", [row.sex for row in rows]),
        ("view", [row.view for row in rows]),
        ("site", [row.site for row in rows]),
    ):
        named = np.array([value or "unknown" for value in values])
        names = np.unique(named).tolist()
        if len(names) > 1:
            found |= {f"{attribute}={name}": named == name for name in sorted(names, key=_reading_order)}
    return found


def _age_band(years: float | None) -> str | None:
    return None if years is None else next(name for limit, name in AGE_BANDS if years < limit)


def _reading_order(name: str) -> tuple[int, str]:
    bands = [band for _, band in AGE_BANDS]
    return (bands.index(name), name) if name in bands else (len(bands) + (name == "unknown"), name)


def _confusion(table: PredictionTable, point: OperatingPoint) -> npt.NDArray[np.int64]:
    binary = table.task is Task.BINARY
    predicted = table.probability >= point.threshold if binary else table.probabilities.argmax(axis=1)
    return metrics.class_confusion(table.targets, predicted.astype(np.int64), len(table.task.classes))


def _pneumonia_estimates(
    table: PredictionTable, decided: Bools, config: EvaluationConfig
) -> dict[str, Estimate]:
    """Figures of the question *is there pneumonia?*"""
    positive, probability = table.positive, table.probability
    counts = metrics.decision_counts(positive, decided)
    shares = metrics.proportions(counts)
    sensitivity, specificity = shares["sensitivity"], shares["specificity"]
    found = _proportion_estimates(shares)
    if sensitivity[1] and specificity[1]:
        prevalence = config.costs.prevalence or float(positive.mean())
        found |= predictive_value_estimates(sensitivity, specificity, prevalence)
    both, everyone = (positive, ~positive), (np.ones(len(table), dtype=bool),)
    errors, losses = (probability - positive) ** 2, metrics.film_log_losses(positive, probability)
    scores = {
        "roc_auc": _Score(
            metrics.roc_auc(positive, probability), weighted.roc_auc_statistic(positive, probability), both
        ),
        "average_precision": _Score(
            metrics.average_precision(positive, probability),
            weighted.average_precision_statistic(positive, probability),
            both,
        ),
        "balanced_accuracy": _Score(
            counts.balanced_accuracy, weighted.balanced_accuracy_statistic(positive, decided), both
        ),
        "f1": _Score(counts.f1, weighted.f1_statistic(positive, decided), both),
        "brier": _Score(metrics.brier(positive, probability), weighted.mean_statistic(errors), everyone),
        "log_loss": _Score(
            metrics.log_loss(positive, probability), weighted.mean_statistic(losses), everyone
        ),
        "ece": _Score(
            metrics.expected_calibration_error(positive, probability),
            weighted.ece_statistic(positive, probability),
            everyone,
            centred=True,
        ),
    }
    return found | _score_estimates(table, scores, config)


def _class_estimates(table: PredictionTable, config: EvaluationConfig) -> dict[str, Estimate]:
    """Figures of the question *normal, bacterial or viral?*, on the films whose cause is known."""
    targets, probabilities, classes = table.targets, table.probabilities, table.task.classes
    predicted = probabilities.argmax(axis=1)
    confusion = metrics.class_confusion(targets, predicted, len(classes))
    per_class = tuple(targets == k for k in range(len(classes)))
    scores = {
        "macro_f1": _Score(
            metrics.macro_f1(confusion),
            weighted.macro_f1_statistic(targets, predicted, len(classes)),
            per_class,
        ),
        "macro_auc": _Score(
            metrics.macro_auc(targets, probabilities),
            weighted.macro_auc_statistic(targets, probabilities),
            per_class,
        ),
        "bacterial_vs_viral_auc": _Score(
            metrics.etiology_auc(targets, probabilities),
            weighted.etiology_auc_statistic(targets, probabilities),
            per_class[1:],
        ),
    }
    found = _proportion_estimates(metrics.class_proportions(confusion, classes))
    return found | _score_estimates(table, scores, config)


def _proportion_estimates(shares: dict[str, tuple[int, int]]) -> dict[str, Estimate]:
    estimates = {name: proportion_estimate(*share) for name, share in shares.items()}
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}


def _score_estimates(
    table: PredictionTable, scores: dict[str, _Score], config: EvaluationConfig
) -> dict[str, Estimate]:
    """Estimates of the scores that these films define, all from the same draws of patients."""
    values = {name: score.value for name, score in scores.items() if score.value is not None}
    draws = bootstrap(
        {name: scores[name].statistic for name in values},
        table.patient_ids,
        resamples=config.resamples,
        rng=np.random.default_rng(config.seed),
    )
    patients = np.array(table.patient_ids)
    found: dict[str, Estimate] = {}
    for name, value in values.items():
        score = scores[name]
        estimate = bootstrap_estimate(
            value,
            draws[name],
            n=int(np.logical_or.reduce(score.classes).sum()),
            smaller_class=min(len(np.unique(patients[rows])) for rows in score.classes if rows.any()),
            centred=score.centred,
        )
        if estimate is not None:
            found[name] = estimate
    return found
