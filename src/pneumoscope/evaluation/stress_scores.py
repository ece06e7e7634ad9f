"""What each stress costs: accuracy lost, decisions flipped, films refused, with intervals and a verdict.

In: a :class:`StressTable` and the limits. Out: one JSON-able dictionary; the page and the tables are views of
it. Every film is decided at the operating point of the bundle that was asked about it, unchanged and changed
alike; then the films of all bundles are counted together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pneumoscope.core.config import Config
from pneumoscope.core.records import Estimate, Label, Verdict
from pneumoscope.evaluation import metrics
from pneumoscope.evaluation import weighted_metrics as weighted
from pneumoscope.evaluation.intervals import (
    RESAMPLES,
    bootstrap,
    bootstrap_estimate,
    proportion_estimate,
    wilson,
)
from pneumoscope.evaluation.stress_films import UNCHANGED, StressTable
from pneumoscope.imaging.stress import STRESSES, FilmChange, StressKind

SCHEMA_VERSION = 1
PASS, FAIL = "pass", "fail"
_FIGURES = (
    "accuracy",
    "sensitivity",
    "specificity",
    "roc_auc",
    "accuracy_change",
    "flipped",
    "refused",
    "warned",
)

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class StressConfig(Config):
    """How to stress, and what a network must bear.

    ``films``: at most so many (0: all); ``limit``: points of accuracy that an everyday stress may cost;
    ``probe_limit``: largest AUC without lungs; ``resamples``, ``seed``: of the bootstrap; the seed is also
    that of the stresses' random parts.
    """

    films: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    limit: float = Field(default=1.5, ge=0, le=100)
    probe_limit: float = Field(default=0.75, ge=0.5, le=1)
    resamples: int = Field(default=RESAMPLES, ge=100, le=100_000)


def score_stress(
    table: StressTable, config: StressConfig, stresses: Sequence[FilmChange] = STRESSES
) -> dict[str, Any]:
    """The figures of every stress.

    Args:
        table: at least one film, under ``stresses`` in this order.
        config: limits, resamples and seed.
        stresses: what was done.

    Returns:
        ``films``, ``patients``, ``prevalence``, ``thresholds`` (by bundle), ``limit``, ``probe_limit`` and
        ``stresses``: a list with the unchanged films first, each with ``estimates`` (accuracy, sensitivity,
        specificity, roc_auc, refused, warned; and under stress accuracy_change in points, flipped),
        ``mean_shift`` (mean absolute change of the probability) and ``verdict`` (pass, fail or None).
    """
    positive = np.array([sample.label is not Label.NORMAL for sample in table.samples])
    decided = table.probabilities >= table.thresholds[:, None]
    right = decided == positive[:, None]
    draws = _draw(table, positive, right, config)
    rows = [_row(UNCHANGED, "Unchanged", "the film as it is", None)]
    rows += [_row(stress.name, stress.title, stress.what, stress.kind) for stress in stresses]
    for column, row in enumerate(rows):
        row["estimates"] = _estimates(table, positive, decided, column, draws)
        row["mean_shift"] = float(np.abs(table.probabilities[:, column] - table.probabilities[:, 0]).mean())
        row["verdict"] = _verdict(row, config)
    return {
        "schema_version": SCHEMA_VERSION,
        "films": len(table.samples),
        "patients": len({sample.patient_id for sample in table.samples}),
        "prevalence": float(positive.mean()),
        "thresholds": dict(zip(table.examiners, table.thresholds.tolist(), strict=True)),
        "limit": config.limit,
        "probe_limit": config.probe_limit,
        "seed": config.seed,
        "stresses": rows,
    }


def failures(document: Mapping[str, Any]) -> list[str]:
    """Titles of the stresses that failed."""
    return [row["title"] for row in document["stresses"] if row["verdict"] == FAIL]


def stress_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of ``stress.csv``: one a stress, each figure with its limits in columns of their own."""
    rows = []
    for item in document["stresses"]:
        row: dict[str, Any] = {key: item[key] for key in ("name", "kind", "verdict")}
        for name in _FIGURES:
            estimate = item["estimates"].get(name, {})
            row[name] = estimate.get("value")
            row[f"{name}_low"], row[f"{name}_high"] = estimate.get("low"), estimate.get("high")
        rows.append({**row, "mean_shift": item["mean_shift"]})
    return rows


def film_rows(table: StressTable) -> list[dict[str, Any]]:
    """The rows of ``films.csv``: one a film, with its probability and the gate's verdict in every state."""
    rows = []
    columns = zip(table.samples, table.examiners, table.thresholds.tolist(), strict=True)
    for number, (sample, examiner, threshold) in enumerate(columns):
        row = {"path": sample.path, "sha256": sample.sha256, "label": sample.label.value}
        row |= {"examiner": examiner, "threshold": threshold}
        row |= {f"p_{n}": p for n, p in zip(table.names, table.probabilities[number].tolist(), strict=True)}
        row |= {f"gate_{n}": v.value for n, v in zip(table.names, table.verdicts[number], strict=True)}
        rows.append(row)
    return rows


def _row(name: str, title: str, what: str, kind: StressKind | None) -> dict[str, Any]:
    return {"name": name, "title": title, "what": what, "kind": None if kind is None else kind.value}


def _draw(table: StressTable, positive: Bools, right: Bools, config: StressConfig) -> dict[str, Floats]:
    """AUC and change in accuracy of every column in the same draws of patients."""
    change = 100 * (right.astype(np.float64) - right[:, :1])
    statistics = {}
    for column in range(right.shape[1]):
        statistics[f"auc {column}"] = weighted.roc_auc_statistic(positive, table.probabilities[:, column])
        statistics[f"change {column}"] = weighted.mean_statistic(change[:, column])
    patients = [sample.patient_id for sample in table.samples]
    return bootstrap(statistics, patients, resamples=config.resamples, rng=np.random.default_rng(config.seed))


def _estimates(
    table: StressTable, positive: Bools, decided: Bools, column: int, draws: Mapping[str, Floats]
) -> dict[str, dict[str, Any]]:
    """The figures of one column by name; one that these films do not define is absent."""
    films, decision, probability = len(table.samples), decided[:, column], table.probabilities[:, column]
    counts = metrics.decision_counts(positive, decision)
    shares = metrics.proportions(counts)
    found = {name: proportion_estimate(*shares[name]) for name in ("accuracy", "sensitivity", "specificity")}
    area = metrics.roc_auc(positive, probability)
    if area is not None:
        patients = np.array([sample.patient_id for sample in table.samples])
        smaller = min(len(np.unique(patients[rows])) for rows in (positive, ~positive))
        found["roc_auc"] = bootstrap_estimate(area, draws[f"auc {column}"], n=films, smaller_class=smaller)
    for name, verdict in (("refused", Verdict.REFUSE), ("warned", Verdict.WARN)):
        found[name] = proportion_estimate(sum(row[column] is verdict for row in table.verdicts), films)
    if column:
        found["accuracy_change"] = _change(table, positive, decided, column, draws)
        found["flipped"] = proportion_estimate(int((decision != decided[:, 0]).sum()), films)
    return {name: asdict(estimate) for name, estimate in found.items() if estimate is not None}


def _change(
    table: StressTable, positive: Bools, decided: Bools, column: int, draws: Mapping[str, Floats]
) -> Estimate:
    """Accuracy under stress less accuracy unchanged, in points; paired, as both are of the same films.

    Where no film changed, resampling finds no spread: the interval is then what Wilson's leaves open for a
    share of changed patients, to either side.
    """
    right = decided[:, [0, column]] == positive[:, None]
    value = 100 * int(right[:, 1].sum() - right[:, 0].sum()) / len(right)
    if (right[:, 0] == right[:, 1]).all():
        patients = len({sample.patient_id for sample in table.samples})
        open_end = 100 * wilson(0, patients)[1]
        return Estimate(value, -open_end, open_end, len(right), f"Wilson, 0 of {patients} patients changed")
    low, high = np.quantile(draws[f"change {column}"], (0.025, 0.975)).tolist()
    method = f"paired bootstrap over patients, percentile, {len(draws[f'change {column}'])} resamples"
    return Estimate(value, low, high, len(right), method)


def _verdict(row: Mapping[str, Any], config: StressConfig) -> str | None:
    """Pass or fail; None where nothing is judged."""
    estimates = row["estimates"]
    if row["kind"] == StressKind.LIMITED:
        return PASS if estimates["accuracy_change"]["value"] >= -config.limit else FAIL
    if row["kind"] == StressKind.PROBE and "roc_auc" in estimates:
        area = estimates["roc_auc"]["value"]
        return PASS if max(area, 1 - area) <= config.probe_limit else FAIL
    return None
