"""The figures of a shortcut audit, each with its count and its 95 % interval.

In: the probabilities of films under every probe, and what was found about their maps. Out: JSON-able values.

The bundles of a cross-validation are calibrated each on films of its own, and each answers a film without
lungs at its own level. Pooling their answers would hide what each of them knows, so an AUC is the share of
right pairs among films that the same bundle was asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import Estimate, Label, Sample
from pneumoscope.evaluation import weighted_metrics as weighted
from pneumoscope.evaluation.intervals import bootstrap, bootstrap_estimate
from pneumoscope.evaluation.shortcut_limits import ShortcutConfig
from pneumoscope.evaluation.shortcut_maps import MapFigures, areas
from pneumoscope.evaluation.shortcut_probes import PROPORTIONS
from pneumoscope.evaluation.stress_films import StressTable
from pneumoscope.evaluation.stress_scores import StressConfig, score_stress
from pneumoscope.imaging.stress import FilmChange

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def score_probes(
    table: StressTable, probes: Sequence[FilmChange], config: ShortcutConfig
) -> list[dict[str, Any]]:
    """A row for the unchanged films and one for every probe, as :func:`score_stress` gives them.

    The estimates also hold ``auc_within``; ``means`` are the mean probabilities of pneumonia of films with
    and without it, as a network may rank films that it answers all alike; ``unmeasured`` says in words why a
    probe shows nothing.
    """
    settings = StressConfig(
        seed=config.seed,
        resamples=config.resamples,
        limit=config.max_accuracy_loss,
        probe_limit=config.max_auc_without_lungs,
    )
    rows: list[dict[str, Any]] = score_stress(table, settings, probes)["stresses"]
    positive = np.array([sample.label is not Label.NORMAL for sample in table.samples])
    statistics = {
        row["name"]: within_auc_statistic(positive, table.probabilities[:, column], table.examiners)
        for column, row in enumerate(rows)
    }
    draws = bootstrap(
        statistics,
        [sample.patient_id for sample in table.samples],
        resamples=config.resamples,
        rng=np.random.default_rng(config.seed),
    )
    smaller = _smaller_class(table.samples, positive)
    for row in rows:
        value = float(statistics[row["name"]](np.ones((1, len(positive))))[0])
        area = bootstrap_estimate(value, draws[row["name"]], n=len(positive), smaller_class=smaller)
        if area is not None and np.isfinite(value):
            row["estimates"]["auc_within"] = asdict(area)
        own = table.probabilities[:, table.names.index(row["name"])]
        row["means"] = {
            "normal": float(own[~positive].mean()) if not positive.all() else None,
            "pneumonia": float(own[positive].mean()) if positive.any() else None,
        }
        square = row["name"] == PROPORTIONS and all(_square(sample) for sample in table.samples)
        row["unmeasured"] = "every film is square" if square else None
        del row["verdict"]  # the checks of the audit judge
    return rows


def within_auc_statistic(positive: Bools, score: Floats, examiners: Sequence[str]) -> weighted.Statistic:
    """Area under the ROC curve over the pairs of films that the same examiner was asked about."""
    own = np.array(examiners)
    parts = []
    for name in dict.fromkeys(examiners):
        rows = np.flatnonzero(own == name)
        parts.append((rows, weighted.roc_auc_statistic(positive[rows], score[rows])))

    def area(weights: Floats) -> Floats:
        right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for rows, statistic in parts:
            some = weights[:, rows]
            count = some[:, positive[rows]].sum(axis=1) * some[:, ~positive[rows]].sum(axis=1)
            right += np.where(count > 0, np.nan_to_num(statistic(some)), 0) * count
            pairs += count
        return np.divide(right, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)

    return area


def score_maps(figures: Sequence[MapFigures], config: ShortcutConfig) -> dict[str, Any]:
    """What was found about the maps of at least one film, as means over films.

    Returns:
        ``films``, ``patients``, ``method`` (of the maps that the bundles show); ``energy``: for the ``lungs``
        and the ``wide`` region the ``share`` of the map, the ``area`` and their ``ratio``; ``agreement``: by
        pair of methods ``rank_correlation`` and ``top_overlap``; ``randomised``: by level
        ``rank_correlation`` and ``similarity``; ``fidelity``: for ``deletion`` and ``insertion`` the
        ``area``, that of a ``random`` order, and the ``gain``; ``curves``: the mean curves.
    """
    patients = [one.sample.patient_id for one in figures]
    average = _Average(patients, config)
    names = list(figures[0].curves)
    return {
        "films": len(figures),
        "patients": len(set(patients)),
        "method": " or ".join(sorted({one.method for one in figures})),
        "energy": {
            "lungs": _energy([(one.energy, one.lungs) for one in figures], average),
            "wide": _energy([(one.wide_energy, one.wide) for one in figures], average),
        },
        "agreement": _pairs([one.agreement for one in figures], ("rank_correlation", "top_overlap"), average),
        "randomised": _pairs(
            [one.randomised for one in figures], ("rank_correlation", "similarity"), average
        ),
        "fidelity": {name: _fidelity(figures, name, average) for name in ("deletion", "insertion")},
        "curves": {name: np.mean([one.curves[name] for one in figures], axis=0).tolist() for name in names},
    }


class _Average:
    """Means over films with intervals from draws of patients."""

    def __init__(self, patients: Sequence[str], config: ShortcutConfig) -> None:
        self._patients = np.array(patients)
        self._config = config

    def mean(self, values: Floats) -> dict[str, Any] | None:
        """The mean of the values (N,) that are numbers; None where none is."""
        return self.ratio(values, np.ones(len(values)))

    def ratio(self, values: Floats, over: Floats) -> dict[str, Any] | None:
        """Sum of the values over the sum of ``over``, of the films where the value is a number."""
        rows = np.flatnonzero(np.isfinite(values))
        if not len(rows):
            return None
        top, bottom = values[rows], over[rows]
        draws = bootstrap(
            {"ratio": lambda weights: (weights @ top) / (weights @ bottom)},
            self._patients[rows].tolist(),
            resamples=self._config.resamples,
            rng=np.random.default_rng(self._config.seed),
        )["ratio"]
        low, high = np.quantile(draws, (0.025, 0.975)).tolist()
        method = f"bootstrap over patients, percentile, {len(draws)} resamples"
        return asdict(Estimate(float(top.sum() / bottom.sum()), low, high, len(rows), method))


def _energy(shares: Sequence[tuple[float, float]], average: _Average) -> dict[str, Any]:
    inside, covered = np.array(shares).T
    return {
        "share": average.mean(inside),
        "area": average.mean(covered),
        "ratio": average.ratio(inside, covered),
    }


def _pairs(
    found: Sequence[Mapping[str, tuple[float, float]]], names: tuple[str, str], average: _Average
) -> dict[str, dict[str, Any]]:
    """Estimates of both numbers of every entry; an entry that some films lack is of the others."""
    missing = (float("nan"), float("nan"))
    scored = {}
    for key in dict.fromkeys(key for one in found for key in one):
        values = np.array([one.get(key, missing) for one in found])
        scored[key] = {name: average.mean(values[:, place]) for place, name in enumerate(names)}
    return scored


def _fidelity(figures: Sequence[MapFigures], name: str, average: _Average) -> dict[str, Any]:
    own, random = areas(figures, name), areas(figures, f"random {name}")
    gain = random - own if name == "deletion" else own - random
    return {"area": average.mean(own), "random": average.mean(random), "gain": average.mean(gain)}


def _smaller_class(samples: Sequence[Sample], positive: Bools) -> int:
    patients = np.array([sample.patient_id for sample in samples])
    return min(len(np.unique(patients[rows])) for rows in (positive, ~positive))


def _square(sample: Sample) -> bool:
    return sample.width is not None and sample.width == sample.height
