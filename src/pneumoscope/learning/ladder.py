"""The ladder: model families trained and compared under one protocol, on the same folds of the same images.

All rungs climb the first fold before any climbs the second, so that a ladder that is cut short still compares
all of them on the same images; called again, it runs what is missing. The folder holds one cross-validation a
rung and ``ladder.json``, of which tables and pages are views.
"""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pneumoscope.core.errors import ConfigError, InputError, PneumoscopeError
from pneumoscope.core.files import read_json, write_json
from pneumoscope.core.run_manifest import RunManifest, earlier_run, library_versions
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.comparison import SIGNIFICANCE, Bools, Contestant, Pair, compare_pairs, ranking
from pneumoscope.evaluation.evaluate import EvaluationConfig, estimate_figures
from pneumoscope.evaluation.predictions import PredictionTable, concatenate, read_predictions
from pneumoscope.inference.bundle import load_bundle
from pneumoscope.inference.prediction import run_network
from pneumoscope.learning.cross_validation import Folds, cross_validate
from pneumoscope.learning.ladder_config import LadderConfig, Rung, make_rungs
from pneumoscope.learning.loop import TrainingListener

SCHEMA_VERSION = 1

RANKED = ("roc_auc", "accuracy")
"""Figures that have a paired test, and so a ranking."""

SPEED_THREADS = 1
"""Threads of the timed pass: what a laptop spares beside other work, and the same on every machine."""

_WARM_UP, _PASSES = 5, 30


@dataclass(frozen=True, slots=True)
class Climb:
    """What is to be done: the ladder, the names of the wanted rungs (none: all), and hours, or None.

    No fold of a rung is begun that would, going by measured times, end after ``hours``; 0 trains nothing and
    only compares what is there.
    """

    ladder: LadderConfig
    only: tuple[str, ...] = ()
    hours: float | None = None


def run_ladder(
    dataset: Dataset, climb: Climb, directory: Path, listener: TrainingListener | None = None
) -> dict[str, Any]:
    """Train what is missing within the budget, compare, and write ``ladder.json``.

    A rung that fails (its weights cannot be had, its classes have no images) is reported and does not stop
    the others.

    Args:
        dataset: all images.
        climb: which rungs, and how long.
        directory: for ``rungs/<name>/fold-<k>``, ``run.json`` and ``ladder.json``; new, or that of an earlier
            climb on the same images.
        listener: told of stages, steps and epochs.

    Returns:
        The content of ``ladder.json``, see :func:`ladder_result`.

    Raises:
        ConfigError: a rung is not a training run, or the folder holds another run, other images, or a rung of
            that name with another configuration.
        InputError: no rung has a scored fold in the end.
    """
    rungs = make_rungs(climb.ladder, climb.only)
    seconds = _earlier_seconds(directory, dataset)
    for rung in rungs:
        _check_rung(dataset, climb.ladder, rung, directory)
    asked = {**climb.ladder.model_dump(mode="json"), "only": list(climb.only), "hours": climb.hours}
    run = RunManifest(directory, "ladder", asked, {"split": rungs[0].config.seed})
    run.add_input("dataset", dataset.hash)
    run.content["durations_s"] |= seconds
    run.content["results"]["dataset_directory"] = str(dataset.directory.resolve())
    run.save()
    failures = _climb(dataset, climb, rungs, _Site(directory, run, listener))
    with run.stage("compare"):
        _tell(listener, "comparing the rungs")
        outcome = Outcome(climb.hours, failures)
        result = ladder_result(dataset, climb.ladder, rungs, directory, outcome)
        write_json(directory / "ladder.json", result)
    run.finish(failures=failures, cut=result["cut"])
    return result


@dataclass(frozen=True)
class _Site:
    """Where a climb happens: its folder, its manifest (with the seconds of every fold), its listener."""

    directory: Path
    run: RunManifest
    listener: TrainingListener | None
    start: float = field(default_factory=time.monotonic)

    def hours_spent(self) -> float:
        return (time.monotonic() - self.start) / 3600


def _earlier_seconds(directory: Path, dataset: Dataset) -> dict[str, float]:
    """Seconds of the folds that earlier climbs in ``directory`` ran, by ``<rung>/fold-<k>``."""
    file = directory / "run.json"
    if not file.exists():
        return {}
    content = read_json(file)
    if content["command"] != "ladder" or content["inputs"].get("dataset") != dataset.hash:
        what = "other images" if content["command"] == "ladder" else f"another kind ({content['command']})"
        raise ConfigError(
            f"the folder holds a run of {what}", where=directory, remedy="choose another folder"
        )
    return {name: value for name, value in content["durations_s"].items() if "/" in name}


def _check_rung(dataset: Dataset, ladder: LadderConfig, rung: Rung, directory: Path) -> None:
    """Refuse a rung whose folder holds something else, before anything is trained.

    Raises:
        ConfigError: another configuration, other images, or another number of folds.
    """
    folder = directory / "rungs" / rung.name
    earlier = earlier_run(folder, "cross-validate", rung.config, {"dataset": dataset.hash})
    if earlier and earlier["results"]["folds"] != ladder.folds:
        raise ConfigError(
            f"the folder holds a rung of {earlier['results']['folds']} folds, not {ladder.folds}",
            where=folder,
            remedy="choose another folder",
        )


def _climb(dataset: Dataset, climb: Climb, rungs: Sequence[Rung], site: _Site) -> dict[str, str]:
    """Run what is missing, fold by fold, until the budget is spent; return why rungs failed, by name."""
    failures: dict[str, str] = {}
    for number in range(climb.ladder.run_folds):
        cut = False
        for rung in rungs:
            scored = scored_folds(site.directory, rung, climb.ladder)
            if number in scored or rung.name in failures:
                continue
            if not _fits(climb.hours, site, rung):
                cut = True
                continue
            folds = Folds(climb.ladder.folds, (*scored, number))
            failure = _run_fold(dataset, rung, folds, number, site)
            if failure:
                failures[rung.name] = failure
        if cut:
            # A fold that not all rungs have is not compared; later ones would be work for nothing.
            break
    return failures


def _fits(hours: float | None, site: _Site, rung: Rung) -> bool:
    """Whether another fold of ``rung`` would end within the budget, going by what was measured."""
    if hours is None:
        return True
    measured = site.run.content["durations_s"]
    need = _expected_seconds({name: value for name, value in measured.items() if "/" in name}, rung)
    return hours > 0 and site.hours_spent() + need / 3600 <= hours


def _expected_seconds(measured: Mapping[str, float], rung: Rung) -> float:
    """Of one fold: the slowest of the rung's own, else the median of the other rungs', else 0."""
    own = [value for name, value in measured.items() if name.rpartition("/")[0] == rung.name]
    return max(own) if own else median(measured.values()) if measured else 0.0


def _run_fold(dataset: Dataset, rung: Rung, folds: Folds, number: int, site: _Site) -> str | None:
    """Train and score one fold of one rung; return what went wrong, or None."""
    _tell(site.listener, f"{rung.name}: {rung.says}")
    with site.run.stage(f"{rung.name}/fold-{number}"):
        try:
            cross_validate(dataset, rung.config, site.directory / "rungs" / rung.name, folds, site.listener)
        except PneumoscopeError as error:
            _tell(site.listener, f"FAILED: {error}")
            return str(error)
    # They are for going on with a stopped run; what is finished is in the bundle.
    shutil.rmtree(fold_directory(site.directory, rung, number) / "checkpoints")
    return None


def _tell(listener: TrainingListener | None, message: str) -> None:
    if listener:
        listener.stage(message)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a climb ended: its budget in hours, or None; and why rungs failed, by name."""

    hours: float | None
    failures: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Answers:
    """The pooled answers of one rung, and the threshold of each fold."""

    table: PredictionTable
    decided: Bools
    thresholds: tuple[float, ...]


def fold_directory(directory: Path, rung: Rung, number: int) -> Path:
    """Where fold ``number`` (from 0) of a rung lies in a ladder's folder."""
    return directory / "rungs" / rung.name / f"fold-{number}"


def scored_folds(directory: Path, rung: Rung, ladder: LadderConfig) -> tuple[int, ...]:
    """Numbers of the folds of a rung whose images have been scored."""
    return tuple(
        number
        for number in range(ladder.folds)
        if (fold_directory(directory, rung, number) / "predictions" / "test.csv").is_file()
    )


def ladder_result(
    dataset: Dataset, ladder: LadderConfig, rungs: Sequence[Rung], directory: Path, outcome: Outcome
) -> dict[str, Any]:
    """The content of ``ladder.json``.

    Rungs are compared on the images of the folds that all of them have scored, decided at the operating
    points that each fold chose on its own validation images. Rungs without the first fold are listed, not
    compared.

    Raises:
        InputError: no rung has scored a fold.
    """
    scored = {rung.name: scored_folds(directory, rung, ladder) for rung in rungs}
    compared = [rung for rung in rungs if 0 in scored[rung.name]]
    if not compared:
        reasons = "; ".join(f"{name}: {why}" for name, why in outcome.failures.items())
        raise InputError(
            f"no rung has results yet{f' ({reasons})' if reasons else ''}",
            where=directory,
            remedy="give the ladder more time (--hours)",
        )
    shared = sorted(set.intersection(*(set(scored[rung.name]) for rung in compared)))
    answers = _on_common_films({rung.name: _answers(directory, rung, shared) for rung in compared})
    first = answers[compared[0].name].table
    estimates = {
        name: {key: asdict(value) for key, value in estimate_figures(one.table, one.decided).items()}
        for name, one in answers.items()
    }
    contestants = [Contestant(name, one.table.probability, one.decided) for name, one in answers.items()]
    pairs = compare_pairs(first.positive, contestants, first.patient_ids)
    planned = [(rung.name, rung.control) for rung in compared if rung.control in answers]
    controls = compare_pairs(first.positive, contestants, first.patient_ids, planned)
    rows = [
        {
            **_described(rung),
            "folds": list(scored[rung.name]),
            "failure": outcome.failures.get(rung.name),
            "estimates": estimates.get(rung.name),
            **(_measured(directory, rung, shared, answers[rung.name]) if rung in compared else {}),
        }
        for rung in rungs
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": {"name": dataset.name, "hash": dataset.hash, "films": len(dataset.samples)},
        "protocol": _protocol(ladder, rungs[0], shared, first),
        "base": dict(ladder.base),
        "rungs": rows,
        "pairs": [asdict(pair) for pair in pairs],
        "controls": [asdict(pair) for pair in controls],
        "ranking": {key: _places(key, estimates, pairs) for key in RANKED},
        "cut": [*_cut(ladder, scored, shared, outcome), *_from_scratch(rows)],
        "versions": library_versions(),
    }


def _answers(directory: Path, rung: Rung, folds: Sequence[int]) -> _Answers:
    """Out-of-fold answers of ``folds``, each decided at its own operating point."""
    tables, decided, thresholds = [], [], []
    for number in folds:
        fold = fold_directory(directory, rung, number)
        table = read_predictions(fold / "predictions" / "test.csv")
        threshold = read_json(fold / "evaluation" / "test.json")["operating_point"]["threshold"]
        tables.append(table)
        decided.append(table.probability >= threshold)
        thresholds.append(threshold)
    return _Answers(concatenate(tables), np.concatenate(decided), tuple(thresholds))


def _on_common_films(answers: Mapping[str, _Answers]) -> dict[str, _Answers]:
    """The same with the images that all rungs answered, in one order; a task may leave out coarse labels."""
    common = sorted(set.intersection(*(set(one.table.paths) for one in answers.values())))
    found = {}
    for name, one in answers.items():
        row_of = {path: row for row, path in enumerate(one.table.paths)}
        rows = np.array([row_of[path] for path in common], dtype=np.int64)
        found[name] = _Answers(one.table.select(rows), one.decided[rows], one.thresholds)
    return found


def _described(rung: Rung) -> dict[str, Any]:
    return {
        "name": rung.name,
        "says": rung.says,
        "group": rung.group,
        "control": rung.control,
        "network": rung.config.network,
        "task": rung.config.task.value,
        "changes": dict(rung.changes),
        "epochs": rung.config.epochs,
    }


def _measured(directory: Path, rung: Rung, folds: Sequence[int], answers: _Answers) -> dict[str, Any]:
    """Costs of a rung, from its first fold; its training time is the mean over ``folds``."""
    first = fold_directory(directory, rung, folds[0])
    seconds = [training_seconds(fold_directory(directory, rung, number)) for number in folds]
    return {
        **bundle_costs(first / "bundle"),
        "training_seconds": float(np.mean(seconds)),
        "milliseconds_per_film": film_milliseconds(first / "bundle"),
        "thresholds": list(answers.thresholds),
        "history": read_history(first),
    }


def _protocol(
    ladder: LadderConfig, rung: Rung, shared: Sequence[int], table: PredictionTable
) -> dict[str, Any]:
    return {
        "folds": ladder.folds,
        "shared_folds": [number + 1 for number in shared],
        "seed": rung.config.seed,
        "films": len(table),
        "patients": len(set(table.patient_ids)),
        "prevalence": float(table.positive.mean()),
        "operating_point": rung.config.default_operating_point,
        "significance": SIGNIFICANCE,
        "resamples": EvaluationConfig().resamples,
        "speed_threads": SPEED_THREADS,
    }


def _places(
    key: str, estimates: Mapping[str, Mapping[str, Mapping[str, Any]]], pairs: Sequence[Pair]
) -> list[list[str]]:
    """Names by place, best first; told apart by the corrected p value of the figure's own test."""
    names = list(estimates)
    index = {name: number for number, name in enumerate(names)}
    different = np.zeros((len(names), len(names)), dtype=bool)
    for pair in pairs:
        test = pair.auc if key == "roc_auc" else pair.accuracy
        i, j = index[pair.first], index[pair.second]
        different[i, j] = different[j, i] = test.p_corrected < SIGNIFICANCE
    values = [estimates[name][key]["value"] for name in names]
    return [[names[number] for number in place] for place in ranking(values, different)]


def _cut(
    ladder: LadderConfig, scored: Mapping[str, Sequence[int]], shared: Sequence[int], outcome: Outcome
) -> list[str]:
    """What was not run, and what was run but could not be compared, as sentences."""
    sentences = []
    wanted = range(ladder.run_folds)
    if ladder.run_folds < ladder.folds:
        were = "was" if ladder.run_folds == 1 else "were"
        sentences.append(f"{ladder.run_folds} of {ladder.folds} folds {were} asked for.")
    budget = f" (budget: {outcome.hours:g} h)" if outcome.hours is not None else ""
    for number in wanted:
        missing = [
            name for name, folds in scored.items() if number not in folds and name not in outcome.failures
        ]
        if missing:
            which = "all rungs" if len(missing) == len(scored) else ", ".join(missing)
            sentences.append(f"Fold {number + 1} was not run for {which}{budget}.")
    for name, why in outcome.failures.items():
        sentences.append(f"{name} could not be run: {why}.")
    unused = sorted({n for folds in scored.values() if 0 in folds for n in folds} - set(shared))
    for number in unused:
        sentences.append(f"Fold {number + 1} was run for some rungs only and is not in the figures.")
    return sentences


def _from_scratch(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rungs that were to start from published weights and could not, as sentences."""
    return [
        f"{row['name']} was trained from scratch, its initial weights are {row['initial_weights']}."
        for row in rows
        if row.get("initial_weights", "").startswith("random (")
    ]


def film_milliseconds(bundle: Path) -> float:
    """Milliseconds of the network's pass over one decoded image, on one thread of the CPU.

    The fastest of 30 passes: what else the machine does only adds to it (Python's documentation of timeit).
    """
    opened = load_bundle(bundle, threads=SPEED_THREADS)
    side = opened.preprocessing.size
    film = np.random.default_rng(0).random((1, 1, side, side), dtype=np.float32)
    seconds = []
    for _ in range(_WARM_UP + _PASSES):
        start = time.perf_counter()
        run_network(opened, film)
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds[_WARM_UP:])


def bundle_costs(bundle: Path) -> dict[str, Any]:
    """Parameters of the network, bytes of the bundle's files, and what the network started from, in words."""
    document = read_json(bundle / "bundle.json")
    return {
        "parameters": document["network"]["parameters"],
        "bundle_bytes": sum(file.stat().st_size for file in bundle.iterdir() if file.is_file()),
        "initial_weights": document["training"]["initial_weights"],
    }


def training_seconds(fold: Path) -> float:
    """Seconds that fitting took, without decoding and packaging.

    A run that was stopped and went on knows the time of its last part only; the sum of the training steps of
    its epochs is then the better lower bound.
    """
    films = read_json(fold / "bundle" / "bundle.json")["training"]["counts"]["training"]
    steps = sum(films / rate for rate in read_history(fold)["images_per_second"])
    return max(float(read_json(fold / "run.json")["durations_s"]["fit"]), steps)


def read_history(fold: Path) -> dict[str, list[float]]:
    """Columns of ``history.csv``, one value an epoch; the column ``stage`` is left out."""
    with open(fold / "history.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "stage"}
