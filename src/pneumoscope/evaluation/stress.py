"""Stress test: every image unchanged and under named changes, and what each change costs in accuracy.

The images are those that a bundle has not seen; of a cross-validation each fold's bundle is asked about the
images that it was tested on. An image is decoded once; its random parts come from the hash of its content, so
they are the same in every run, for every bundle and in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pneumoscope.core.config import Config
from pneumoscope.core.errors import InputError
from pneumoscope.core.files import sha256_bytes
from pneumoscope.core.findings import Finding
from pneumoscope.core.records import (
    Estimate,
    FloatArray,
    Label,
    LungField,
    Preprocessing,
    Progress,
    Sample,
    Verdict,
    freeze,
)
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation import metrics
from pneumoscope.evaluation.intervals import (
    RESAMPLES,
    bootstrap,
    bootstrap_estimate,
    proportion_estimate,
    wilson,
)
from pneumoscope.evaluation.predictions import read_predictions
from pneumoscope.evaluation.scoring import check_leakage, choose_films, leakage_error
from pneumoscope.imaging.lungs import lung_findings
from pneumoscope.imaging.polarity import check_polarity
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.imaging.session import thread_count
from pneumoscope.imaging.stress import STRESSES, FilmChange, StressKind
from pneumoscope.inference.bundle import Bundle, load_bundle
from pneumoscope.inference.gate import inspect_source, judge
from pneumoscope.inference.prediction import calibrated_probabilities, run_network

UNCHANGED = "unchanged"
_CHUNK = 8  # images prepared at a time: 8 x 19 inputs of 224 x 224 are 30 MB

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Examiner:
    """A bundle and the images that it is asked about, none of which it has seen.

    Attributes:
        name: ``fold-0`` ... or the bundle's id.
    """

    name: str
    bundle: Bundle
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class StressPlan:
    """Who is asked about which images.

    Attributes:
        protocol: how the images were chosen, in words; left_out: images that could have been asked about, but
            that the bundle has seen or no fold tested.
    """

    examiners: tuple[Examiner, ...]
    protocol: str
    left_out: int

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All images, by examiner."""
        return tuple(sample for examiner in self.examiners for sample in examiner.samples)


@dataclass(frozen=True, slots=True)
class StressTable:
    """N images under T - 1 stresses; the first of the T columns is the unchanged image.

    Attributes:
        samples: N images.
        names: T names, ``unchanged`` first.
        examiners: N names of examiners; thresholds: (N,) of the examiner's operating point.
        probabilities: (N, T) calibrated probability of pneumonia; refused images are answered too.
        verdicts: N rows of T verdicts of the gate.
    """

    samples: tuple[Sample, ...]
    names: tuple[str, ...]
    examiners: tuple[str, ...]
    thresholds: Floats
    probabilities: Floats
    verdicts: tuple[tuple[Verdict, ...], ...]


def plan_stress(
    subject: str | Path, dataset: Dataset, part: str | None = None, split_name: str = "default"
) -> StressPlan:
    """Who can be asked about which images of ``dataset``.

    Args:
        subject: directory of a cross-validation (of networks in 8 bits, too), of a training run, of a bundle,
            or a shipped bundle's name.
        dataset: whose images.
        part, split_name: with one bundle, as in :func:`choose_films`; images that it has seen are left out.

    Raises:
        InputError: a part of a cross-validation was asked for, or none of the images is one that it tested.
        LeakageError: the bundle has seen every image.
    """
    folds = sorted(Path(subject).glob("fold-*/bundle"), key=lambda path: (len(str(path)), path))
    if not folds:
        own = Path(subject) / "bundle"
        bundle = load_bundle(own if (own / "bundle.json").is_file() else subject)
        return _one_bundle(bundle, dataset, part, split_name)
    if part is not None:
        raise InputError(
            "a cross-validation is asked about the images that each fold tested, not about a part",
            remedy="leave out --split, or name one fold's folder",
        )
    return _folds([folder.parent for folder in folds], dataset)


def choose_some(plan: StressPlan, films: int, seed: int) -> StressPlan:
    """The plan with ``films`` of its images, those that a hash of seed and content puts first."""
    order = sorted(plan.samples, key=lambda s: (sha256_bytes(f"{seed} {s.sha256}".encode()), s.path))
    chosen = {sample.path for sample in order[:films]}
    kept = (
        replace(examiner, samples=tuple(s for s in examiner.samples if s.path in chosen))
        for examiner in plan.examiners
    )
    return replace(
        plan,
        examiners=tuple(examiner for examiner in kept if examiner.samples),
        protocol=f"{plan.protocol}; {min(films, len(order))} of these images, drawn with seed {seed}",
    )


def run_stress(
    plan: StressPlan,
    dataset: Dataset,
    *,
    operating_point: str | None = None,
    seed: int = 0,
    stresses: Sequence[FilmChange] = STRESSES,
    progress: Progress | None = None,
) -> StressTable:
    """Ask every examiner about its images, unchanged and under every stress.

    Args:
        plan: who and what.
        dataset: where the images lie.
        operating_point: name of one that every bundle has; None is each bundle's default.
        seed: of the random parts, together with the hash of each image.
        stresses: in the order of the table's columns.
        progress: called with the number of images done.

    Raises:
        UnreadableFileError: an image cannot be read any more.
        ConfigError: a bundle has no such operating point.
    """
    total, done = len(plan.samples), 0
    thresholds = [e.bundle.operating_point(operating_point).threshold for e in plan.examiners]
    probabilities, verdicts = [], []
    for examiner in plan.examiners:
        job = _Job(dataset, examiner.bundle.preprocessing, tuple(stresses), seed)
        for films in _prepare_ahead(job, examiner.samples):
            answers = [_ask(examiner.bundle, film) for film in films]
            probabilities += [probability for probability, _ in answers]
            verdicts += [verdict for _, verdict in answers]
            done += len(films)
            if progress:
                progress(done, total)
    counts = [len(examiner.samples) for examiner in plan.examiners]
    names = [examiner.name for examiner in plan.examiners]
    return StressTable(
        samples=plan.samples,
        names=(UNCHANGED, *(stress.name for stress in stresses)),
        examiners=tuple(np.repeat(names, counts).tolist()),
        thresholds=np.repeat(np.asarray(thresholds, np.float64), counts),
        probabilities=np.stack(probabilities),
        verdicts=tuple(verdicts),
    )


def _one_bundle(bundle: Bundle, dataset: Dataset, part: str | None, split_name: str) -> StressPlan:
    films = choose_films(dataset, part, split_name)
    unseen = _unseen(bundle, films.samples)
    if not unseen:
        raise leakage_error(check_leakage(bundle.document, films.samples), len(films.samples))
    return StressPlan(
        (Examiner(bundle.id, bundle, unseen),), films.protocol, len(films.samples) - len(unseen)
    )


def _folds(folders: Sequence[Path], dataset: Dataset) -> StressPlan:
    examiners = []
    for folder in folders:
        table = read_predictions(folder / "predictions" / "test.csv")
        tested, patients = frozenset(table.sha256), frozenset(table.patient_ids)
        bundle = load_bundle(folder / "bundle")
        # Other copies of the images, at their original size for example, go by the patient.
        own = (s for s in dataset.samples if s.sha256 in tested or s.patient_id in patients)
        samples = _unseen(bundle, tuple(own))
        if samples:
            examiners.append(Examiner(folder.name, bundle, samples))
    if not examiners:
        raise InputError(
            "no image of the data set was tested in this cross-validation",
            where=folders[0].parent,
            expected="the data set that was cross-validated, or images of its patients",
            remedy="to try images of elsewhere, name one bundle",
        )
    left_out = len(dataset.samples) - sum(len(examiner.samples) for examiner in examiners)
    protocol = (
        f"out of fold: {len(examiners)} bundles of a cross-validation, each on images that it never saw"
    )
    return StressPlan(tuple(examiners), protocol, left_out)


def _unseen(bundle: Bundle, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    seen = {path for path, _ in check_leakage(bundle.document, samples)}
    return tuple(sample for sample in samples if sample.path not in seen)


@dataclass(frozen=True, slots=True)
class _Job:
    dataset: Dataset
    preprocessing: Preprocessing
    stresses: tuple[FilmChange, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class _Film:
    """An image's T inputs (T, 1, S, S), and what source and lungs tell the gate in each state."""

    inputs: FloatArray
    findings: tuple[tuple[Finding, ...], ...]
    lungs: tuple[LungField | None, ...]


def _prepare_ahead(job: _Job, samples: Sequence[Sample]) -> Iterator[list[_Film]]:
    """Prepared images, some at a time; the next ones are prepared in threads while these pass the network."""
    chunks = [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)]
    pool = ThreadPoolExecutor(thread_count(), "stress")
    try:
        coming = pool.map(_prepare, [job] * len(chunks[0]), chunks[0])
        for chunk in [*chunks[1:], ()]:
            films = list(coming)
            coming = pool.map(_prepare, [job] * len(chunk), chunk)
            yield films
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(job: _Job, sample: Sample) -> _Film:
    film = read_radiograph(job.dataset.file(sample))
    states = [film]
    for stress in job.stresses:
        pixels = stress.apply(film.pixels, sample.sha256, job.seed)
        size = (pixels.shape[0], pixels.shape[1])
        states.append(check_polarity(replace(film, pixels=freeze(pixels), original_size=size)))
    inputs = [to_model_input(state, job.preprocessing) for state in states]
    return _Film(
        np.stack([one.array for one in inputs]),
        tuple(
            (
                *inspect_source(state, job.preprocessing.size, geometry=one.geometry),
                *lung_findings(one.lungs),
            )
            for state, one in zip(states, inputs, strict=True)
        ),
        tuple(one.lungs for one in inputs),
    )


def _ask(bundle: Bundle, film: _Film) -> tuple[Floats, tuple[Verdict, ...]]:
    """Probability of pneumonia (T,) and the gate's verdicts."""
    logits, features = run_network(bundle, film.inputs)
    probabilities = calibrated_probabilities(logits, bundle.document["calibration"])
    pooled = features.mean(axis=(2, 3))
    states = zip(film.findings, film.inputs, pooled, film.lungs, strict=True)
    verdicts = (judge(bundle, *state).verdict for state in states)
    return probabilities[:, 1:].sum(axis=1), tuple(verdicts)


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
        table: at least one image, under ``stresses`` in this order.
        config: limits, resamples and seed.
        stresses: what was done.

    Returns:
        ``films``, ``patients``, ``prevalence``, ``thresholds`` (by bundle), ``limit``, ``probe_limit`` and
        ``stresses``: a list with the unchanged images first, each with ``estimates`` (accuracy, sensitivity,
        specificity, roc_auc, refused, warned; and under stress accuracy_change in points, flipped),
        ``mean_shift`` (mean absolute change of the probability) and ``verdict`` (pass, fail or None).
    """
    positive = np.array([sample.label is not Label.NORMAL for sample in table.samples])
    decided = table.probabilities >= table.thresholds[:, None]
    right = decided == positive[:, None]
    draws = _draw(table, positive, right, config)
    rows = [_row(UNCHANGED, "Unchanged", "the image as it is", None)]
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
    """The rows of ``films.csv``: one an image, with its probability and the gate's verdict in every state."""
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
        statistics[f"auc {column}"] = metrics.roc_auc_statistic(positive, table.probabilities[:, column])
        statistics[f"change {column}"] = metrics.mean_statistic(change[:, column])
    patients = [sample.patient_id for sample in table.samples]
    return bootstrap(statistics, patients, resamples=config.resamples, rng=np.random.default_rng(config.seed))


def _estimates(
    table: StressTable, positive: Bools, decided: Bools, column: int, draws: Mapping[str, Floats]
) -> dict[str, dict[str, Any]]:
    """The figures of one column by name; one that these images do not define is absent."""
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
    """Accuracy under stress less accuracy unchanged, in points; paired, as both are of the same images.

    Where no image changed, resampling finds no spread: the interval is then what Wilson's leaves open for a
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
