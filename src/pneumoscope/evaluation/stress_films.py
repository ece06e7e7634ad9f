"""Films under stress: each one, unchanged and under every named change, through the whole line.

In: a cross-validation (each fold's bundle is asked about the films that it was tested on), or one bundle and
the films that it has not seen. Out: a :class:`StressTable`: probability and gate verdict of every film under
every stress. A film is decoded once; its random parts come from the hash of its content, so they are the same
in every run, for every bundle and in any order of films.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import InputError
from pneumoscope.core.files import sha256_bytes
from pneumoscope.core.records import FloatArray, Preprocessing, Progress, Sample, Verdict, freeze
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.leakage import check_leakage, leakage_error
from pneumoscope.evaluation.predictions import read_predictions
from pneumoscope.evaluation.scoring import choose_films
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.imaging.stress import STRESSES, FilmChange
from pneumoscope.inference.bundle import Bundle, load_bundle
from pneumoscope.inference.gate import judge
from pneumoscope.inference.prediction import calibrated_probabilities, run_network
from pneumoscope.inference.session import thread_count
from pneumoscope.inference.source_rules import Finding, inspect_source

UNCHANGED = "unchanged"
_CHUNK = 8  # films prepared at a time: 8 x 19 inputs of 224 x 224 are 30 MB

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Examiner:
    """A bundle and the films that it is asked about, none of which it has seen.

    Attributes:
        name: ``fold-0`` ... or the bundle's id.
    """

    name: str
    bundle: Bundle
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class StressPlan:
    """Who is asked about which films.

    Attributes:
        protocol: how the films were chosen, in words; left_out: films that could have been asked about, but
            that the bundle has seen or no fold tested.
    """

    examiners: tuple[Examiner, ...]
    protocol: str
    left_out: int

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All films, by examiner."""
        return tuple(sample for examiner in self.examiners for sample in examiner.samples)


@dataclass(frozen=True, slots=True)
class StressTable:
    """N films under T - 1 stresses; the first of the T columns is the unchanged film.

    Attributes:
        samples: N films.
        names: T names, ``unchanged`` first.
        examiners: N names of examiners; thresholds: (N,) of the examiner's operating point.
        probabilities: (N, T) calibrated probability of pneumonia; refused films are answered too.
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
    """Who can be asked about which films of ``dataset``.

    Args:
        subject: directory of a cross-validation (of networks in 8 bits, too), of a training run, of a bundle,
            or a shipped bundle's name.
        dataset: whose films.
        part, split_name: with one bundle, as in :func:`choose_films`; films that it has seen are left out.

    Raises:
        InputError: a part of a cross-validation was asked for, or none of the films is one that it tested.
        LeakageError: the bundle has seen every film.
    """
    folds = sorted(Path(subject).glob("fold-*/bundle"), key=lambda path: (len(str(path)), path))
    if not folds:
        own = Path(subject) / "bundle"
        bundle = load_bundle(own if (own / "bundle.json").is_file() else subject)
        return _one_bundle(bundle, dataset, part, split_name)
    if part is not None:
        raise InputError(
            "a cross-validation is asked about the films that each fold tested, not about a part",
            remedy="leave out --split, or name one fold's folder",
        )
    return _folds([folder.parent for folder in folds], dataset)


def choose_some(plan: StressPlan, films: int, seed: int) -> StressPlan:
    """The plan with ``films`` of its films, those that a hash of seed and content puts first."""
    order = sorted(plan.samples, key=lambda s: (sha256_bytes(f"{seed} {s.sha256}".encode()), s.path))
    chosen = {sample.path for sample in order[:films]}
    kept = (
        replace(examiner, samples=tuple(s for s in examiner.samples if s.path in chosen))
        for examiner in plan.examiners
    )
    return replace(
        plan,
        examiners=tuple(examiner for examiner in kept if examiner.samples),
        protocol=f"{plan.protocol}; {min(films, len(order))} of these films, drawn with seed {seed}",
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
    """Ask every examiner about its films, unchanged and under every stress.

    Args:
        plan: who and what.
        dataset: where the films lie.
        operating_point: name of one that every bundle has; None is each bundle's default.
        seed: of the random parts, together with the hash of each film.
        stresses: in the order of the table's columns.
        progress: called with the number of films done.

    Raises:
        UnreadableFileError: a film cannot be read any more.
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
        # Other copies of the films, at their original size for example, go by the patient.
        own = (s for s in dataset.samples if s.sha256 in tested or s.patient_id in patients)
        samples = _unseen(bundle, tuple(own))
        if samples:
            examiners.append(Examiner(folder.name, bundle, samples))
    if not examiners:
        raise InputError(
            "no film of the data set was tested in this cross-validation",
            where=folders[0].parent,
            expected="the data set that was cross-validated, or films of its patients",
            remedy="to try films of elsewhere, name one bundle",
        )
    left_out = len(dataset.samples) - sum(len(examiner.samples) for examiner in examiners)
    protocol = f"out of fold: {len(examiners)} bundles of a cross-validation, each on films that it never saw"
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
    """A film's T inputs (T, 1, S, S), and what its source tells the gate in each state."""

    inputs: FloatArray
    findings: tuple[tuple[Finding, ...], ...]


def _prepare_ahead(job: _Job, samples: Sequence[Sample]) -> Iterator[list[_Film]]:
    """Prepared films, some at a time; the next ones are prepared in threads while these pass the network."""
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
        states.append(replace(film, pixels=freeze(pixels), original_size=(pixels.shape[0], pixels.shape[1])))
    return _Film(
        np.stack([to_model_input(state, job.preprocessing).array for state in states]),
        tuple(inspect_source(state, job.preprocessing.size) for state in states),
    )


def _ask(bundle: Bundle, film: _Film) -> tuple[Floats, tuple[Verdict, ...]]:
    """Probability of pneumonia (T,) and the gate's verdicts."""
    logits, features = run_network(bundle, film.inputs)
    probabilities = calibrated_probabilities(logits, bundle.document["calibration"])
    pooled = features.mean(axis=(2, 3))
    states = zip(film.findings, film.inputs, pooled, strict=True)
    verdicts = (judge(bundle, *state).verdict for state in states)
    return probabilities[:, 1:].sum(axis=1), tuple(verdicts)
