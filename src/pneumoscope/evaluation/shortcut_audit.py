"""Shortcut audit: does a network read lungs, or something that goes with the class?

Images are predicted with and without their lungs, heat maps are checked, and figures with 95 % intervals
are held against limits. The bundles of a cross-validation are calibrated each on images of its own, so an
AUC is the share of correctly ordered pairs among images that the same bundle was asked about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pneumoscope.core.config import Config
from pneumoscope.core.records import Estimate, Explanation, FloatArray, Label, Progress, Radiograph, Sample
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation import metrics
from pneumoscope.evaluation.intervals import RESAMPLES, bootstrap, bootstrap_estimate
from pneumoscope.evaluation.shortcut_maps import AGREEMENT, OCCLUSION, MapFigures, areas, inspect_maps
from pneumoscope.evaluation.shortcut_probes import (
    LUNGS_BLACK,
    PROPORTIONS,
    FilmsWithLungs,
    LungMasks,
    measure_giveaways,
    positive_films,
    shortcut_probes,
)
from pneumoscope.evaluation.stress import (
    FAIL,
    PASS,
    StressConfig,
    StressPlan,
    StressTable,
    film_rows,
    run_stress,
    score_stress,
)
from pneumoscope.imaging.lungs import segmenter_id
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.imaging.stress import FilmChange, StressKind
from pneumoscope.inference.pipeline import examine

OPEN = "open"
"""Not measured, or, of the whole audit: its first check was not measured."""

Figures = Mapping[str, Any]


class ShortcutConfig(Config):
    """How to audit, and what a network must bear; ``docs/configuration.md`` says what each key means."""

    films: int = Field(default=1000, ge=0)
    map_films: int = Field(default=60, ge=1)
    seed: int = Field(default=0, ge=0)
    resamples: int = Field(default=RESAMPLES, ge=100, le=100_000)
    max_auc_without_lungs: float = Field(default=0.75, ge=0.5, le=1)
    max_accuracy_loss: float = Field(default=1.5, ge=0, le=100)
    min_energy_ratio: float = Field(default=1.2, ge=0)
    min_agreement: float = Field(default=0.3, ge=-1, le=1)
    min_fidelity_gain: float = Field(default=0.01, ge=-1, le=1)


def check_limits(
    probes: Sequence[Figures], maps: Figures | None, config: ShortcutConfig
) -> list[dict[str, Any]]:
    """Every figure that has a limit.

    Args:
        probes: the rows of the audit's ``probes``.
        maps: its ``maps``; None where no image with pneumonia was there.
        config: the limits.

    Returns:
        ``name``, ``title``, ``bound`` (at most, at least), ``limit``, ``value``, ``low``, ``high`` and
        ``n`` (None where it was not measured) and ``verdict`` (pass, fail, open), the most important first.
    """
    return [*_probe_checks(probes, config), *_map_checks(maps or {}, config)]


def failed_checks(checks: Sequence[Figures]) -> list[str]:
    """Titles of the checks that failed."""
    return [check["title"] for check in checks if check["verdict"] == FAIL]


def release_verdict(checks: Sequence[Figures]) -> str:
    """Fail when any check fails; open when the AUC without lungs was not measured; else pass."""
    if failed_checks(checks):
        return FAIL
    return OPEN if next(c for c in checks if c["name"] == LUNGS_BLACK)["verdict"] == OPEN else PASS


def _probe_checks(probes: Sequence[Figures], config: ShortcutConfig) -> list[dict[str, Any]]:
    checks = []
    for row in probes:
        estimates, name, title = row["estimates"], row["name"], row["title"]
        if row["kind"] == StressKind.PROBE:
            area = _folded(estimates.get("auc_within"))
            checks.append(_check(name, f"AUC: {title}", area, at_most=config.max_auc_without_lungs))
        if row["kind"] == StressKind.LIMITED:
            loss = None if row["unmeasured"] else _negated(estimates["accuracy_change"])
            title = f"Points of accuracy lost: {title}"
            checks.append(_check(name, title, loss, at_most=config.max_accuracy_loss))
    return checks


def _map_checks(maps: Figures, config: ShortcutConfig) -> list[dict[str, Any]]:
    ratio = maps["energy"]["lungs"]["ratio"] if maps else None
    # Occlusion is the reference that a class-activation map is held against; it has no reference itself.
    compared = bool(maps) and maps["method"] != OCCLUSION and AGREEMENT in maps["agreement"]
    alike = maps["agreement"][AGREEMENT]["rank_correlation"] if compared else None
    gain = {name: maps["fidelity"][name]["gain"] if maps else None for name in ("deletion", "insertion")}
    return [
        _check("energy", "Heat map in the lungs, over their share of the image", ratio,
               at_least=config.min_energy_ratio),
        _check("agreement", f"Rank correlation of heat maps: {AGREEMENT}", alike,
               at_least=config.min_agreement),
        _check("deletion", "Deletion: area below a random order's", gain["deletion"],
               at_least=config.min_fidelity_gain),
        _check("insertion", "Insertion: area above a random order's", gain["insertion"],
               at_least=config.min_fidelity_gain),
    ]  # fmt: skip


def _check(
    name: str,
    title: str,
    estimate: Figures | None,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> dict[str, Any]:
    figures = {key: estimate[key] if estimate else None for key in ("value", "low", "high", "n")}
    bound, limit = ("at least", at_least) if at_most is None else ("at most", at_most)
    verdict = OPEN
    if estimate and limit is not None:
        kept = estimate["value"] <= limit if bound == "at most" else estimate["value"] >= limit
        verdict = PASS if kept else FAIL
    return {"name": name, "title": title, "bound": bound, "limit": limit, **figures, "verdict": verdict}


def _folded(area: Figures | None) -> Figures | None:
    """An AUC below one half tells the classes apart as well as its mirror image does."""
    if area is None or area["value"] >= 0.5:
        return area
    return {**area, "value": 1 - area["value"], "low": 1 - area["high"], "high": 1 - area["low"]}


def _negated(change: Figures) -> Figures:
    return {**change, "value": 0 - change["value"], "low": 0 - change["high"], "high": 0 - change["low"]}


Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def score_probes(
    table: StressTable, probes: Sequence[FilmChange], config: ShortcutConfig
) -> list[dict[str, Any]]:
    """A row for the unchanged images and one for every probe, as :func:`score_stress` gives them.

    The estimates also hold ``auc_within``; ``means`` are the mean probabilities of pneumonia of images with
    and without it, as a network may rank images that it answers all alike; ``unmeasured`` says in words why a
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
        row["unmeasured"] = "every image is square" if square else None
        del row["verdict"]  # the checks of the audit judge
    return rows


def within_auc_statistic(positive: Bools, score: Floats, examiners: Sequence[str]) -> metrics.Statistic:
    """Area under the ROC curve over the pairs of images that the same examiner was asked about."""
    own = np.array(examiners)
    parts = []
    for name in dict.fromkeys(examiners):
        rows = np.flatnonzero(own == name)
        parts.append((rows, metrics.roc_auc_statistic(positive[rows], score[rows])))

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
    """What was found about the maps of at least one image, as means over images.

    Returns:
        ``films``, ``patients``, ``method`` (of the maps that the bundles show); ``energy``: for the ``lungs``
        and the ``wide`` region the ``share`` of the map, the ``area`` and their ``ratio``; ``agreement``: by
        pair of methods ``rank_correlation`` and ``top_overlap``; ``fidelity``: for ``deletion`` and
        ``insertion`` the ``area``, that of a ``random`` order, and the ``gain``; ``curves``: the mean curves.
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
        "agreement": _agreement(figures, average),
        "fidelity": {name: _fidelity(figures, name, average) for name in ("deletion", "insertion")},
        "curves": {name: np.mean([one.curves[name] for one in figures], axis=0).tolist() for name in names},
    }


class _Average:
    """Means over images with intervals from draws of patients."""

    def __init__(self, patients: Sequence[str], config: ShortcutConfig) -> None:
        self._patients = np.array(patients)
        self._config = config

    def mean(self, values: Floats) -> dict[str, Any] | None:
        """The mean of the values (N,) that are numbers; None where none is."""
        return self.ratio(values, np.ones(len(values)))

    def ratio(self, values: Floats, over: Floats) -> dict[str, Any] | None:
        """Sum of the values over the sum of ``over``, of the images where the value is a number."""
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


def _agreement(figures: Sequence[MapFigures], average: _Average) -> dict[str, dict[str, Any]]:
    """Of the images whose networks have a class-activation map; empty where none has."""
    if all(one.agreement is None for one in figures):
        return {}
    correlation, overlap = np.array([one.agreement or (np.nan, np.nan) for one in figures]).T
    return {AGREEMENT: {"rank_correlation": average.mean(correlation), "top_overlap": average.mean(overlap)}}


def _fidelity(figures: Sequence[MapFigures], name: str, average: _Average) -> dict[str, Any]:
    own, random = areas(figures, name), areas(figures, f"random {name}")
    gain = random - own if name == "deletion" else own - random
    return {"area": average.mean(own), "random": average.mean(random), "gain": average.mean(gain)}


def _smaller_class(samples: Sequence[Sample], positive: Bools) -> int:
    patients = np.array([sample.patient_id for sample in samples])
    return min(len(np.unique(patients[rows])) for rows in (positive, ~positive))


def _square(sample: Sample) -> bool:
    return sample.width is not None and sample.width == sample.height


EACH = 3
"""Images of each class on the sheet."""


@dataclass(frozen=True, slots=True)
class ExampleFilm:
    """One image under every probe.

    Attributes:
        sample: the image.
        radiograph: its pixels.
        lungs: (2, h, w) on its own grid.
        explanation: the heat map that the bundle shows.
        changed: by title, the image under each probe.
        probabilities: by title, ``Unchanged`` among them, the probability of pneumonia.
    """

    sample: Sample
    radiograph: Radiograph
    lungs: npt.NDArray[np.bool_]
    explanation: Explanation
    changed: Mapping[str, FloatArray]
    probabilities: Mapping[str, float]


def choose_examples(
    plan: StressPlan,
    table: StressTable,
    dataset: Dataset,
    masks: LungMasks,
    probes: Sequence[FilmChange],
    seed: int = 0,
) -> tuple[ExampleFilm, ...]:
    """At most :data:`EACH` images of each class, the first by hash, classes in their usual order.

    Raises:
        UnreadableFileError: an image cannot be read any more.
    """
    by_hash = sorted(range(len(table.samples)), key=lambda row: table.samples[row].sha256)
    rows = [
        row for label in Label for row in [row for row in by_hash if table.samples[row].label is label][:EACH]
    ]
    bundles = {examiner.name: examiner.bundle for examiner in plan.examiners}
    titles = ("Unchanged", *(probe.title for probe in probes))
    examples = []
    for row in rows:
        sample = table.samples[row]
        file = dataset.file(sample)
        film = read_radiograph(file)
        answer = examine(file, bundles[table.examiners[row]], force=True, radiograph=film)
        assert answer.explanation is not None  # a forced examination always explains
        examples.append(
            ExampleFilm(
                sample=sample,
                radiograph=film,
                lungs=np.stack([masks.lung(sample.sha256, side, film.pixels.shape) for side in (0, 1)]),
                explanation=answer.explanation,
                changed={p.title: p.apply(film.pixels, sample.sha256, seed) for p in probes},
                probabilities=dict(zip(titles, table.probabilities[row].tolist(), strict=True)),
            )
        )
    return tuple(examples)


SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ShortcutAudit:
    """What an audit has found.

    Attributes:
        films: the images that were asked about, with their lungs.
        dataset: where they lie.
        config: how it was done, and the limits.
        probes: what was done to them; table: what the networks said.
        maps: what was found about the heat maps of some images with pneumonia.
    """

    films: FilmsWithLungs
    dataset: Dataset
    config: ShortcutConfig
    probes: tuple[FilmChange, ...]
    table: StressTable
    maps: tuple[MapFigures, ...] = ()

    def with_maps(self, *, progress: Progress | None = None) -> ShortcutAudit:
        """The audit with the heat maps of ``config.map_films`` images with pneumonia checked."""
        seed = self.config.seed
        plan = positive_films(self.films.plan, self.config.map_films, seed)
        return replace(self, maps=inspect_maps(plan, self.dataset, self.films.masks, seed, progress))

    def document(self) -> dict[str, Any]:
        """The content of ``shortcuts.json``.

        Returns:
            ``films``, ``patients``, ``prevalence``, ``dataset``, ``dataset_hash``, ``protocol``,
            ``without_lungs`` (images by label whose lungs were not found), ``segmenter``, ``seed``,
            ``limits``, ``probes``, ``giveaways``, ``maps`` (None without an image with pneumonia), ``checks``
            and ``verdict``.
        """
        samples, config = self.films.plan.samples, self.config
        probes = score_probes(self.table, self.probes, config)
        giveaways = measure_giveaways(
            samples, self.films.cache, self.films.masks, resamples=config.resamples, seed=config.seed
        )
        maps = score_maps(self.maps, config) if self.maps else None
        checks = check_limits(probes, maps, config)
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": release_verdict(checks),
            "checks": checks,
            "films": len(samples),
            "patients": len({sample.patient_id for sample in samples}),
            "prevalence": sum(sample.label is not Label.NORMAL for sample in samples) / len(samples),
            "dataset": self.dataset.name,
            "dataset_hash": self.dataset.hash,
            "protocol": self.films.plan.protocol,
            "without_lungs": dict(Counter(sample.label.value for sample in self.films.without)),
            "segmenter": segmenter_id(),
            "seed": config.seed,
            "limits": config.model_dump(mode="json", include=_LIMITS),
            "probes": probes,
            "giveaways": giveaways,
            "maps": maps,
        }

    def film_rows(self) -> list[dict[str, Any]]:
        """The rows of ``films.csv``: predictions and size of the lungs, and for some the place of the map."""
        looked = {one.sample.path: one for one in self.maps}
        rows = film_rows(self.table)
        for row in rows:
            found = looked.get(row["path"])
            row["lungs"] = float(self.films.masks.each(row["sha256"]).any(axis=0).mean())
            row["map_in_lungs"] = found.energy if found else None
            row["map_in_wide_region"] = found.wide_energy if found else None
        return rows

    def examples(self) -> Sequence[ExampleFilm]:
        """Some images of each class to look at."""
        return choose_examples(self.films.plan, self.table, self.dataset, self.films.masks, self.probes)


_LIMITS = {name for name in ShortcutConfig.model_fields if name.startswith(("max_", "min_"))}


def audit(
    films: FilmsWithLungs, dataset: Dataset, config: ShortcutConfig, *, progress: Progress | None = None
) -> ShortcutAudit:
    """Ask about every image, unchanged and under every probe; the heat maps come after.

    Args:
        films: which; every bundle that is asked makes its images square in the same way.
        dataset: where they lie.
        config: seed and limits.
        progress: called with the number of images done.

    Raises:
        UnreadableFileError: an image cannot be read any more.
    """
    probes = shortcut_probes(films.masks, films.plan.examiners[0].bundle.preprocessing)
    table = run_stress(films.plan, dataset, seed=config.seed, stresses=probes, progress=progress)
    return ShortcutAudit(films, dataset, config, probes, table)
