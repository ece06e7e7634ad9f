"""The ladder: model families trained and compared under one protocol, on the same folds of the same films.

In: a data set, a ladder of training runs, a budget. Out: a folder with one cross-validation a rung and
``ladder.json``. All rungs climb the first fold before any climbs the second, so that a ladder that is cut
short still compares all of them on the same films; called again, it runs what is missing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from pneumoscope.core.errors import ConfigError, PneumoscopeError
from pneumoscope.core.files import read_json, write_json
from pneumoscope.core.run_manifest import RunManifest, earlier_run
from pneumoscope.data.dataset import Dataset
from pneumoscope.learning.cross_validation import Folds, cross_validate
from pneumoscope.learning.fitting import TrainingListener
from pneumoscope.learning.ladder_config import LadderConfig, Rung, make_rungs
from pneumoscope.learning.ladder_results import Outcome, fold_directory, ladder_result, scored_folds


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

    A rung that fails (its weights cannot be had, its classes have no films) is reported and does not stop the
    others.

    Args:
        dataset: all films.
        climb: which rungs, and how long.
        directory: for ``rungs/<name>/fold-<k>``, ``run.json`` and ``ladder.json``; new, or that of an earlier
            climb on the same films.
        listener: told of stages, steps and epochs.

    Returns:
        The content of ``ladder.json``, see :func:`ladder_result`.

    Raises:
        ConfigError: a rung is not a training run, or the folder holds another run, other films, or a rung of
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
        what = "other films" if content["command"] == "ladder" else f"another kind ({content['command']})"
        raise ConfigError(
            f"the folder holds a run of {what}", where=directory, remedy="choose another folder"
        )
    return {name: value for name, value in content["durations_s"].items() if "/" in name}


def _check_rung(dataset: Dataset, ladder: LadderConfig, rung: Rung, directory: Path) -> None:
    """Refuse a rung whose folder holds something else, before anything is trained.

    Raises:
        ConfigError: another configuration, other films, or another number of folds.
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
