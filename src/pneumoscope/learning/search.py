"""A hyper-parameter search: trials of ordinary training runs, whose validation results choose the next.

Its folder holds ``study.db``, ``trials/<number>/``, ``trials.csv``, ``search.json`` and ``best.toml``. Called
again with the same arguments it goes on; called in several processes, they share the work.
"""

from __future__ import annotations

import json
import math
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import optuna
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.files import sha256_bytes, write_json
from pneumoscope.data.cache import build_cache
from pneumoscope.evaluation.calibration import fit_calibration
from pneumoscope.evaluation.metrics import roc_auc
from pneumoscope.inference.prediction import calibrated_probabilities
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.loop import EpochReport, TrainingListener
from pneumoscope.learning.packaging import scan
from pneumoscope.learning.pretrained import PUBLISHED
from pneumoscope.learning.search_space import Parameters, SearchConfig, check_space, suggest, trial_config
from pneumoscope.learning.search_study import (
    alone,
    count_done,
    folder_name,
    open_study,
    results,
    retry,
    study_address,
    write_results,
)
from pneumoscope.learning.training import Fitted, TrainingSet, fit_network

Floats = npt.NDArray[np.floating]
Classes = npt.NDArray[np.integer]

SMALLEST = 1e-7
"""Probabilities below are taken for this: float32 cannot tell 1 - p from 1 beyond it (numpy.finfo.eps)."""

MOST_FAILURES = 3
"""Failed trials in a row that end a search: then it is not the point of the space that fails."""

KEPT = ("config.json", "history.csv")
"""What stays of a trial; a checkpoint of MobileNetV2 with its optimiser takes 40 MB."""

FAILURES = (PneumoscopeError, RuntimeError, MemoryError)
"""What can be wrong with one trial; torch reports a lack of memory as RuntimeError."""


@dataclass(frozen=True)
class SearchRun:
    """Where a search is kept, and how long it goes on.

    Attributes:
        directory: for everything that it writes.
        study: file or URL of its database; None is ``directory/study.db``.
        trials: complete and pruned trials, in all processes and runs, after which it ends; None: no limit.
            Each further process may add one.
        hours: after which this process begins no further trial; None: no limit.
    """

    directory: Path
    study: str | None = None
    trials: int | None = None
    hours: float | None = None


class SearchListener(TrainingListener, Protocol):
    """What wants to hear of a search besides the progress of its runs."""

    def trial(self, number: int, point: Parameters) -> None:
        """Told when a trial begins."""

    def result(self, row: dict[str, Any], best: dict[str, Any] | None) -> None:
        """Told when a trial has ended: its row of ``search.json``, and that of the best so far."""


def search(
    films: TrainingSet, config: SearchConfig, run: SearchRun, listener: SearchListener | None = None
) -> dict[str, Any]:
    """Search until a limit of ``run`` is reached or the user interrupts.

    Args:
        films: what every trial learns from; its validation images, never others, score the trials.
        config: what is searched.
        run: where, and how long.
        listener: told of trials, stages, steps and epochs.

    Returns:
        The content of ``search.json``; ``interrupted`` says whether the user ended it.

    Raises:
        ConfigError: the space does not fit the base configuration, or the study holds another search.
        DatasetError: a class has no images.
        InputError: the study cannot be opened.
        PneumoscopeError, RuntimeError: several trials in a row failed; the last one's error.
    """
    films = films.usable(config.base.task)
    space = check_space(config.space, config.base, pretrained=_has_weights(config.base))
    config = config.model_copy(update={"space": space})
    with _quiet_optuna():
        with alone(run.directory):
            study = open_study(study_address(run.study, run.directory), config, _inputs(films))
            _build_caches(films, config, listener)
        trials = _Trials(films, config, run.directory, listener)
        interrupted = _run_trials(study, trials, run)
        return {**trials.write(study), "interrupted": interrupted}


class _Trials:
    """The objective: trains and scores the network of one trial, in the trial's folder."""

    def __init__(
        self, films: TrainingSet, config: SearchConfig, directory: Path, listener: SearchListener | None
    ) -> None:
        self.films = films
        self.config = config
        self.directory = directory
        self.listener = listener
        self.failed: list[BaseException] = []
        self.number = 0

    def __call__(self, trial: optuna.Trial) -> float:
        """The value of a trial; what heavy files it wrote are removed, unless the user interrupts it."""
        self.number = trial.number
        point = suggest(trial, self.config.space)
        folder = self.directory / folder_name(trial.study.trials[trial.number])
        folder.mkdir(parents=True, exist_ok=True)
        if self.listener:
            self.listener.trial(trial.number, point)
        try:
            config = trial_config(self.config.base, self.config.space, point)
            write_json(folder / "config.json", config.model_dump(mode="json"))
            fitted = fit_network(self.films, config, folder, _Watcher(trial, self.config, self.listener))
            value = self._score(trial, fitted)
        except FAILURES as error:
            trial.set_user_attr("reason", str(error).partition("\n")[0] or type(error).__name__)
            traceback.clear_frames(error.__traceback__)  # they hold the network and its batches
            self.failed.append(error)
            _clear(folder)
            raise
        except optuna.TrialPruned:
            self.failed.clear()
            _clear(folder)
            raise
        self.failed.clear()
        _clear(folder)
        return value

    def write(self, study: optuna.Study) -> dict[str, Any]:
        """Write what has been found so far; the content of ``search.json``."""
        with alone(self.directory):
            document = results(study, self.config, self.films)
            write_results(document, self.config, self.directory)
        return document

    def _score(self, trial: optuna.Trial, fitted: Fitted) -> float:
        validation = fitted.films[1]
        logits = scan(fitted.network, validation).logits
        patients = [sample.patient_id for sample in self.films.validation]
        loss = balanced_log_loss(logits, validation.targets, patients)
        auc = patient_auc(logits, validation.targets, patients)
        trial.set_user_attr("log_loss", loss)
        trial.set_user_attr("auc", auc)
        return loss if self.config.objective == "log-loss" else auc


class _Watcher:
    """Reports each epoch of a trial to the study, and ends the trial when it is behind the others."""

    def __init__(self, trial: optuna.Trial, config: SearchConfig, listener: SearchListener | None) -> None:
        self.trial = trial
        self.config = config
        self.listener = listener

    def stage(self, message: str) -> None:
        """Pass on."""
        if self.listener:
            self.listener.stage(message)

    def step(self, done: int, total: int, images_per_second: float) -> None:
        """Pass on."""
        if self.listener:
            self.listener.step(done, total, images_per_second)

    def epoch(self, report: EpochReport, epochs: int) -> None:
        """Report the epoch's figure, that of the objective before calibration."""
        if self.listener:
            self.listener.epoch(report, epochs)
        value = report.validation_loss if self.config.objective == "log-loss" else report.validation_auc
        done = report.epoch + 1
        if not math.isfinite(value):
            self._prune(f"diverged in epoch {done}")
        self.trial.report(value, done)
        if done < epochs and self.trial.should_prune():
            self._prune(f"behind the others after epoch {done}")

    def _prune(self, reason: str) -> None:
        self.trial.set_user_attr("reason", reason)
        raise optuna.TrialPruned(reason)


def _run_trials(study: optuna.Study, trials: _Trials, run: SearchRun) -> bool:
    """Run trials until a limit is reached; whether the user interrupted."""

    def told(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        document = trials.write(study)
        if trials.listener:
            rows = {row["number"]: row for row in document["trials"]}
            trials.listener.result(rows[trial.number], rows.get(document["best"]))
        if len(trials.failed) == MOST_FAILURES:
            raise trials.failed[-1]

    callbacks: list[Callable[[optuna.Study, optuna.trial.FrozenTrial], None]] = [told]
    if run.trials is not None:
        if count_done(study) >= run.trials:
            return False
        callbacks.append(MaxTrialsCallback(run.trials, states=(TrialState.COMPLETE, TrialState.PRUNED)))
    seconds = None if run.hours is None else 3600 * run.hours
    try:
        study.optimize(trials, timeout=seconds, catch=FAILURES, callbacks=callbacks, gc_after_trial=True)
    except KeyboardInterrupt:
        stopped = study.trials[trials.number]
        if stopped.state is TrialState.FAIL:
            retry(study, stopped)
        return True
    return False


def _clear(folder: Path) -> None:
    """Remove what is large or of no use any more."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in KEPT:
            path.unlink()


def _has_weights(base: TrainConfig) -> bool:
    if base.init in ("auto", "hub"):
        return base.network in PUBLISHED or base.network.startswith("hf:")
    return base.init != "random"


def _inputs(films: TrainingSet) -> dict[str, str]:
    parts = [[sample.sha256 for sample in part] for part in (films.training, films.validation)]
    return {"dataset": films.dataset.hash, "split": sha256_bytes(json.dumps(parts).encode())}


def _build_caches(films: TrainingSet, config: SearchConfig, listener: SearchListener | None) -> None:
    """Decode the images at every searched size, once, while other processes wait."""
    sizes = (config.base.size,) if "size" in config.space.fixed else config.space.size
    for size in sorted(set(sizes)):
        if listener:
            listener.stage(f"reading images at {size} pixels")
        build_cache(films.dataset, config.base.model_copy(update={"size": size}).preprocessing)


def film_weights(targets: Classes, patients: Sequence[str]) -> npt.NDArray[np.float64]:
    """(N,) weights by which every class counts the same, and every patient the same within a class.

    They sum to 1. A patient with images of two classes counts once in each.
    """
    keys = list(zip(patients, np.asarray(targets).tolist(), strict=True))
    films = Counter(keys)
    people = np.bincount([target for _, target in films])
    classes = int((people > 0).sum())
    return np.array([1 / (films[key] * people[key[1]] * classes) for key in keys])


def balanced_log_loss(logits: Floats, targets: Classes, patients: Sequence[str]) -> float:
    """Cross-entropy of the calibrated answers in nats, every class and every patient counted the same.

    The answers are calibrated first, as a bundle's are: the raw loss would reward configurations (label
    smoothing, averaging) for confidence that calibration gives all of them.

    Args:
        logits: (N, K).
        targets: (N,) class index; each class has an image.
        patients: N patient keys.
    """
    weights = film_weights(targets, patients)
    probabilities = calibrated_probabilities(logits, fit_calibration(logits, targets, weights))
    own = probabilities[np.arange(len(targets)), targets]
    return float(-(weights * np.log(np.maximum(own, SMALLEST))).sum())


def patient_auc(logits: Floats, targets: Classes, patients: Sequence[str]) -> float:
    """Area under the ROC curve of pneumonia; a patient's score is the mean over the images of one label.

    Args:
        logits: (N, K); class 0 is normal.
        targets: (N,) class index; normal images and others are both there.
        patients: N patient keys.
    """
    plain = {"method": "temperature", "temperature": 1.0}
    score = 1 - calibrated_probabilities(logits, plain)[:, 0]
    keys = list(zip(patients, (np.asarray(targets) > 0).tolist(), strict=True))
    groups, index = np.unique([f"{ill:d}{patient}" for patient, ill in keys], return_inverse=True)
    means = np.bincount(index, score) / np.bincount(index)
    found = roc_auc(np.array([group.startswith("1") for group in groups]), means)
    assert found is not None  # a training set holds every class
    return found


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep optuna's log off the terminal: a trial that is ended or fails is told to the listener."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
