"""Training, cross-validation, hyper-parameter search, the ladder of model families, and 8-bit quantisation.

All of it needs torch, which is imported when a function is called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pneumoscope.core.errors import InputError
from pneumoscope.core.files import read_json
from pneumoscope.workflows.runs import (
    Result,
    StageProgress,
    configured,
    estimate_rows,
    of_stage,
    open_bundle,
    open_dataset,
    require,
)

if TYPE_CHECKING:
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.learning.config import TrainConfig
    from pneumoscope.learning.loop import TrainingListener
    from pneumoscope.learning.search import SearchListener

LIBRARIES = ("torch", "lightning", "transformers")
"""What training needs beyond the plain installation."""


@dataclass(frozen=True)
class TrainingResult(Result):
    """A trained network: its bundle, learning history and validation figures."""

    @property
    def bundle(self) -> Path:
        """Directory of the bundle."""
        return self.directory / "bundle"

    @property
    def validation(self) -> Mapping[str, Mapping[str, Any]]:
        """Figures on the validation images, which thresholds and calibration come from."""
        found: Mapping[str, Mapping[str, Any]] = self.document["validation"]
        return found

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """The evaluation on the validation images, as in ``evaluation.json``."""
        found: Mapping[str, Any] = read_json(self.directory / "evaluation" / "validation.json")
        return found

    @property
    def history(self) -> Mapping[str, Sequence[float]]:
        """Columns of ``history.csv`` by name (``epoch``, ``train_loss``, ``validation_loss``, ...)."""
        from pneumoscope.reporting.run_report import open_run

        return open_run(self.directory).history or {}

    def rows(self) -> list[dict[str, Any]]:
        """One row per validation figure."""
        return estimate_rows(self.validation)


@dataclass(frozen=True)
class CrossValidationResult(Result):
    """A cross-validation: pooled out-of-fold predictions and their evaluation."""

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """The evaluation of the pooled predictions, as in ``evaluation.json``."""
        found: Mapping[str, Any] = self.document["evaluation"]
        return found

    def rows(self) -> list[dict[str, Any]]:
        """One row per figure."""
        return estimate_rows(self.evaluation["estimates"])


def train(
    dataset: Dataset | Path | str,
    network: str | None = None,
    *,
    split_name: str = "default",
    output: Path | str | None = None,
    config: TrainConfig | Path | None = None,
    listener: TrainingListener | None = None,
    progress: StageProgress | None = None,
    **options: Any,
) -> TrainingResult:
    """Train a network on the train part of a split, and write its bundle.

    Args:
        dataset: object, directory, or a folder, CSV or npz to import first.
        network: ``mobilenet-v2`` (default), another name, or ``hf:NAME``.
        split_name: a split of the data set; a missing ``default`` one is made.
        output: run directory; None: below ``runs``. A stopped run of the same configuration goes on.
        config, options: keys of :class:`TrainConfig`, such as ``epochs`` or ``size``.
        listener: told of stages, steps and epochs.
        progress: told of the import.

    Raises:
        MissingExtraError: torch is not installed.
    """
    require("training", *LIBRARIES)
    from pneumoscope.learning.config import TrainConfig
    from pneumoscope.learning.training import train as train_network
    from pneumoscope.learning.training import training_set

    settings = configured(TrainConfig, config, {"network": network, **options})
    films = training_set(open_dataset(dataset, progress), split_name, settings.seed)
    directory = _run_directory(output, settings.network)
    bundle = train_network(films, settings, directory, listener)
    validation = dict(bundle.document["validation"])
    return TrainingResult(directory, {"run": str(directory), "bundle": bundle.id, "validation": validation})


def cross_validate(
    dataset: Dataset | Path | str,
    network: str | None = None,
    *,
    folds: int = 5,
    split_name: str = "default",
    output: Path | str | None = None,
    config: TrainConfig | Path | None = None,
    listener: TrainingListener | None = None,
    progress: StageProgress | None = None,
    **options: Any,
) -> CrossValidationResult:
    """Score every image once, by a network that never saw its patient.

    Args:
        folds: how many, by patient; or those of the split ``split_name``.
        dataset, network, output, config, options, listener, progress: as for :func:`train`.
    """
    require("training", *LIBRARIES)
    from pneumoscope.learning import cross_validation
    from pneumoscope.learning.config import TrainConfig

    settings = configured(TrainConfig, config, {"network": network, **options})
    source = open_dataset(dataset, progress)
    directory = _run_directory(output, settings.network)
    chosen = cross_validation.split_folds(source, folds, split_name)
    evaluation = cross_validation.cross_validate(source, settings, directory, chosen, listener)
    return CrossValidationResult(directory, {"run": str(directory), "evaluation": evaluation})


def resume(
    directory: Path, listener: TrainingListener | None = None, progress: StageProgress | None = None
) -> TrainingResult | CrossValidationResult:
    """Go on with the stopped run or cross-validation in ``directory``, as it began; read a finished one.

    Raises:
        InputError: it holds no such run.
    """
    require("training", *LIBRARIES)
    from pneumoscope.learning.config import TrainConfig

    file = directory / "run.json"
    if not file.exists():
        raise InputError("not a run directory", where=directory, expected="a folder with run.json")
    run = read_json(file)
    results = run["results"]
    shared: dict[str, Any] = {
        "split_name": results.get("split_name", "default"),
        "output": directory,
        "listener": listener,
        "progress": progress,
    }
    if run["command"] not in ("train", "cross-validate"):
        raise InputError(f"a run of '{run['command']}' cannot be resumed", where=directory)
    try:
        config = TrainConfig(**run["config"])
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"its configuration cannot be used: '{'.'.join(map(str, first['loc']))}': {first['msg']}",
            where=file,
            remedy="resume it with the release of pneumoscope that began it",
        ) from error
    dataset = Path(results["dataset_directory"])
    if run["command"] == "cross-validate":
        return cross_validate(dataset, folds=results["folds"], config=config, **shared)
    return train(dataset, config=config, **shared)


def _run_directory(output: Path | str | None, network: str) -> Path:
    if output is not None:
        return Path(output)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{stamp}-{re.sub(r'[^A-Za-z0-9.-]+', '-', network)}"


@dataclass(frozen=True)
class SearchResult(Result):
    """``search.json``: every trial of a hyper-parameter search, its parameters and its score."""

    @property
    def finished(self) -> list[dict[str, Any]]:
        """Complete trials, the best first."""
        complete = [row for row in self.document["trials"] if row["state"] == "complete"]
        maximize = self.document["direction"] == "maximize"
        return sorted(complete, key=lambda row: row["value"], reverse=maximize)

    def summary(self) -> dict[str, Any]:
        """Trials by state, the best one, and how much each parameter matters."""
        states = [row["state"] for row in self.document["trials"]]
        best = self.document["best"]
        return {
            "directory": str(self.directory),
            "objective": self.document["search"]["objective"],
            "trials": {state: states.count(state) for state in dict.fromkeys(states)},
            "best": None if best is None else self.document["trials"][best],
            "importances": self.document["importances"],
            "interrupted": self.document["interrupted"],
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per complete trial, the best first."""
        return [
            {"trial": row["number"], "log_loss": row["log_loss"], "auc": row["auc"], **row["parameters"]}
            for row in self.finished
        ]


TRIALS = 50
"""Trials of a search without a limit of its own: some random ones, and a few for each of ten parameters."""


def tune(
    dataset: Dataset | Path | str,
    *,
    base: Mapping[str, Any] | None = None,
    config: Path | None = None,
    space: Path | None = None,
    trials: int | None = None,
    hours: float | None = None,
    study: str | None = None,
    split_name: str = "default",
    output: Path | str | None = None,
    listener: SearchListener | None = None,
    progress: StageProgress | None = None,
    **options: Any,
) -> SearchResult:
    """Search for a better training configuration; a search in the same folder goes on.

    Args:
        dataset, split_name, progress: as for :func:`train`.
        base, config: keys, and a TOML file, of the training configuration that is varied.
        space: TOML file of the search space.
        trials: in all, earlier ones too; None: 50, or as many as fit into ``hours``.
        hours: after which no further trial begins.
        study: SQLite file or URL; None: ``study.db`` in the folder.
        output: the folder; None: below ``tuning``.
        listener: told of trials, stages, steps and epochs.
        options: other keys of :class:`SearchConfig`.
    """
    require("training", *LIBRARIES, "optuna", "tomli_w")
    from pneumoscope.learning import search
    from pneumoscope.learning.config import TrainConfig
    from pneumoscope.learning.search_space import SearchConfig, SearchSpace
    from pneumoscope.learning.training import training_set
    from pneumoscope.reporting.search_page import write_search_page

    parts = {
        "base": configured(TrainConfig, config, base or {}),
        "space": configured(SearchSpace, space, {}),
    }
    settings = configured(SearchConfig, None, {**options, **parts})
    source = open_dataset(dataset, progress)
    directory = Path(output or Path("tuning") / source.directory.resolve().stem)
    films = training_set(source, split_name, settings.base.seed)
    limit = TRIALS if trials is None and hours is None else trials
    document = search.search(films, settings, search.SearchRun(directory, study, limit, hours), listener)
    write_search_page(document, directory / "search.html")
    return SearchResult(directory, document)


@dataclass(frozen=True)
class LadderResult(Result):
    """``ladder.json``: model families under one protocol, with paired tests and a ranking with ties."""

    @property
    def failed(self) -> list[str]:
        """Rungs that could not be run."""
        return [rung["name"] for rung in self.document["rungs"] if rung["failure"]]

    def rows(self) -> list[dict[str, Any]]:
        """One row per rung that was compared."""
        from pneumoscope.reporting.ladder_page import compared_rungs, places

        place = places(self.document)
        return [
            {
                "rung": rung["name"],
                "place": place[rung["name"]],
                **{name: estimate["value"] for name, estimate in rung["estimates"].items()},
                "milliseconds": rung["milliseconds_per_film"],
            }
            for rung in compared_rungs(self.document)
        ]


def run_ladder(
    dataset: Dataset | Path | str,
    *,
    config: Path | None = None,
    only: Sequence[str] = (),
    hours: float | None = None,
    folds: int | None = None,
    weights: Mapping[str, str] | None = None,
    output: Path | str | None = None,
    listener: TrainingListener | None = None,
    progress: StageProgress | None = None,
) -> LadderResult:
    """Train and compare model families; in the same folder it goes on with what is missing.

    Args:
        dataset, listener, progress: as for :func:`train`.
        config: TOML file of the ladder; None: the one that ships.
        only: names of the wanted rungs; none: all.
        hours: begin nothing that would end later; 0 only compares.
        folds: run only the first so many.
        weights: network -> file or folder to start from.
        output: folder; None: ``runs/ladder-<data set>``.
    """
    require("training", *LIBRARIES)
    from pneumoscope.learning import ladder
    from pneumoscope.learning.ladder_config import load_ladder
    from pneumoscope.reporting.ladder_page import write_ladder

    settings = load_ladder(config, {"run_folds": folds})
    settings = settings.model_copy(update={"weights": {**settings.weights, **(weights or {})}})
    source = open_dataset(dataset, progress)
    directory = Path(output) if output else Path("runs") / f"ladder-{source.name}"
    climb = ladder.Climb(settings, tuple(only), hours)
    document = ladder.run_ladder(source, climb, directory, listener)
    write_ladder(document, directory)
    return LadderResult(directory, document)


@dataclass(frozen=True)
class QuantisationResult(Result):
    """Figures of a bundle, or of the folds of a cross-validation, in float32 and in 8-bit integers."""

    def rows(self) -> list[dict[str, Any]]:
        """One row per figure that both have: float32, int8, and the difference."""
        before, after = (self.document["estimates"][kind] for kind in ("float32", "int8"))
        return [
            {
                "figure": name,
                "float32": before[name]["value"],
                "int8": after[name]["value"],
                "difference": after[name]["value"] - before[name]["value"],
            }
            for name in before
            if name in after
        ]


def quantise(
    source: Path | str,
    dataset: Dataset | Path | str,
    output: Path,
    *,
    run: Path | None = None,
    split: str | None = None,
    name: str | None = None,
    progress: StageProgress | None = None,
) -> QuantisationResult:
    """Write the 8-bit version of a bundle, calibrated anew, or of every fold of a cross-validation.

    Args:
        source: a bundle, or the folder of a cross-validation, whose folds are scored again.
        dataset: what it was trained on.
        output: folder of the new bundle or of the folds.
        run, split: the run that trained the bundle, or the split that it was trained with; one of them.
            None: the run that the bundle lies in.
        name: of the new bundle; None: the old one's and ``-int8``.
        progress: told of stages.

    Raises:
        InputError: both ``run`` and ``split`` are given, or one of them for a cross-validation.
        DatasetError: the data set does not hold the images that the bundle was trained on.
    """
    if run is not None and split is not None:
        raise InputError("both --run and --split given", expected="one of them")
    require("quantising", "onnx", "torch")
    from pneumoscope.learning import quantisation

    films = open_dataset(dataset, progress)
    if _is_cross_validation(Path(source)):
        if run is not None or split is not None:
            raise InputError("a cross-validation has its own folds", remedy="leave --run and --split out")
        config = quantisation.QuantiseConfig(name=name)
        comparison = quantisation.quantise_folds(
            Path(source), films, output, config, of_stage(progress, "quantising folds")
        )
        return QuantisationResult(output, comparison)
    bundle = open_bundle(source)
    own = quantisation.own_films(bundle, films, run=run, split=split)
    twin = quantisation.quantise(bundle, own, output, name, of_stage(progress, "quantising"))
    kinds = {"float32": bundle, "int8": twin}
    document = {
        "films": len(own.validation),
        "bundles": {kind: one.id for kind, one in kinds.items()},
        "estimates": {kind: dict(one.document["validation"]) for kind, one in kinds.items()},
    }
    return QuantisationResult(output, document)


def _is_cross_validation(folder: Path) -> bool:
    file = folder / "run.json"
    return file.is_file() and read_json(file)["command"] == "cross-validate"
