"""What a run left behind, read back without training libraries.

In: the folder of a training run or of a cross-validation. Out: a :class:`RunFolder` that holds what was
found, and says in words what was not: a report shows a gap, it does not hide it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pneumoscope.core.errors import InputError, PneumoscopeError
from pneumoscope.core.files import read_json
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.predictions import PredictionTable, read_predictions

_KINDS = ("test", "cross-validation")
_RESCUE = "name the folder given to 'pneumoscope train DATASET -o RUN'"


@dataclass(frozen=True)
class RunFolder:
    """One run.

    Attributes:
        directory: where it lies.
        manifest: ``run.json``.
        scoring: ``test``, ``cross-validation`` or ``validation``: which films the results are about.
        evaluation: their evaluation as JSON; table: their predictions, or None.
        history: columns of ``history.csv`` as numbers (column ``stage`` left out), or None.
        bundle: ``bundle/bundle.json``, or None.
        dataset: where the films came from, or None when it is not there any more.
        audit: ``audit/audit.json`` of the data set, or None.
        split: film -> part (``train``, ...; ``fold-0``, ... for a cross-validation), or None.
        folds: the runs of a cross-validation, otherwise empty.
        missing: what was not found, as sentences.
    """

    directory: Path
    manifest: Mapping[str, Any]
    scoring: str
    evaluation: Mapping[str, Any]
    table: PredictionTable | None
    history: Mapping[str, tuple[float, ...]] | None
    bundle: Mapping[str, Any] | None
    dataset: Dataset | None
    audit: Mapping[str, Any] | None
    split: Mapping[str, str] | None
    folds: tuple[RunFolder, ...]
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run's own name, or its folder's."""
        return str(self.manifest.get("config", {}).get("name") or self.directory.resolve().name)

    def fold_of(self, path: str) -> RunFolder:
        """The run whose bundle has not seen the film: the fold that tested it, or this run itself."""
        for fold in self.folds:
            if fold.table is not None and path in fold.table.paths:
                return fold
        return self


def open_run(directory: Path) -> RunFolder:
    """Read the run in ``directory``.

    The results are those of the first of: ``evaluation/test.json``, ``evaluation/cross-validation.json``, the
    latest ``pneumoscope evaluate`` of the run's bundle that was written inside the run's folder, and
    ``evaluation/validation.json``.

    Raises:
        InputError: there is no such folder, it is no run, its ``run.json`` is damaged, or it holds no
            evaluation yet.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory)
    missing: list[str] = []
    scoring = _find_scoring(directory, manifest)
    folds = tuple(
        open_run(fold) for fold in sorted(directory.glob("fold-*")) if (fold / "run.json").is_file()
    )
    dataset = _dataset(directory, manifest, missing)
    return RunFolder(
        directory=directory,
        manifest=manifest,
        scoring=scoring.kind,
        evaluation=_json(scoring.evaluation),
        table=_table(scoring.predictions, missing),
        history=None if folds else _history(directory / "history.csv", missing),
        bundle=None if folds else _bundle(directory / "bundle" / "bundle.json", missing),
        dataset=dataset,
        audit=_audit(dataset, missing),
        split=_split(directory / "split.csv", missing),
        folds=folds,
        missing=tuple(missing),
    )


def _read_manifest(directory: Path) -> Mapping[str, Any]:
    if not directory.is_dir():
        raise InputError("no such folder", where=directory, expected="the folder of a run", remedy=_RESCUE)
    file = directory / "run.json"
    if not file.is_file():
        raise InputError(
            "not a run (no run.json)",
            where=directory,
            expected="the folder that 'train' wrote",
            remedy=_RESCUE,
        )
    manifest = _json(file)
    if manifest.get("command") == "evaluate":
        raise InputError(
            "this is an evaluation, not a training run",
            where=directory,
            expected="the folder that 'train' wrote",
            remedy=f"its report is {directory / 'evaluation.html'}",
        )
    return manifest


@dataclass(frozen=True, slots=True)
class _Scoring:
    kind: str
    evaluation: Path
    predictions: Path


def _find_scoring(directory: Path, manifest: Mapping[str, Any]) -> _Scoring:
    own = [
        _Scoring(kind, directory / "evaluation" / f"{kind}.json", directory / "predictions" / f"{kind}.csv")
        for kind in (*_KINDS, "validation")
    ]
    later = [
        _Scoring("test", folder / "evaluation.json", folder / "predictions.csv")
        for folder in _evaluations(directory, manifest)
    ]
    for scoring in (*own[:-1], *later, own[-1]):
        if scoring.evaluation.is_file():
            return scoring
    raise InputError(
        f"this run has no results (outcome: {manifest.get('outcome', 'unknown')})",
        where=directory,
        expected=f"one of {', '.join(str(scoring.evaluation.relative_to(directory)) for scoring in own)}",
        remedy="let it finish: 'pneumoscope train --resume' with this folder goes on where it stopped",
    )


def _evaluations(directory: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Folders of finished evaluations of this run's bundle inside the run's folder, the latest first."""
    bundle = manifest.get("results", {}).get("bundle")
    found = []
    for file in directory.glob("*/run.json"):
        other = _json(file)
        same = bundle is not None and other.get("inputs", {}).get("bundle") == bundle
        if other.get("command") == "evaluate" and other.get("outcome") == "done" and same:
            found.append((str(other.get("started")), file.parent))
    return [folder for _, folder in sorted(found, reverse=True)]


def _json(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except ValueError as error:
        raise InputError(f"not valid JSON ({error})", where=file, remedy="run again") from error
    if not isinstance(content, dict):
        raise InputError("not a JSON object", where=file, remedy="run again")
    return content


def _table(file: Path, missing: list[str]) -> PredictionTable | None:
    if not file.is_file():
        missing.append(
            f"The predictions ({file.parent.name}/{file.name}) are not there: no curves, no mistakes."
        )
        return None
    return read_predictions(file)


def _bundle(file: Path, missing: list[str]) -> Mapping[str, Any] | None:
    if not file.is_file():
        missing.append("The bundle is not there: no heat maps, and nothing is known of the trained network.")
        return None
    return _json(file)


def _history(file: Path, missing: list[str]) -> Mapping[str, tuple[float, ...]] | None:
    if not file.is_file():
        missing.append("The training history (history.csv) is not there: no learning curves.")
        return None
    with open(file, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    try:
        columns = [name for name in (rows[0] if rows else {}) if name != "stage"]
        return {name: tuple(float(row[name] or "nan") for row in rows) for name in columns} or None
    except (TypeError, ValueError) as error:
        raise InputError(f"damaged training history ({error})", where=file, remedy="run again") from error


def _dataset(directory: Path, manifest: Mapping[str, Any], missing: list[str]) -> Dataset | None:
    stored = manifest.get("results", {}).get("dataset_directory")
    if not stored:
        missing.append("The run does not say where its data set lies.")
        return None
    for folder in (Path(stored), directory / stored):
        if (folder / "dataset.json").is_file():
            try:
                dataset = Dataset.open(folder)
            except PneumoscopeError as error:
                missing.append(f"The data set cannot be read: {error}.")
                return None
            if dataset.hash != manifest.get("inputs", {}).get("dataset", dataset.hash):
                missing.append(
                    "The data set has changed since this run; what is said of it here is as it is now."
                )
            return dataset
    missing.append("The data set is not where it was: no films are shown, nothing is said of its audit.")
    return None


def _audit(dataset: Dataset | None, missing: list[str]) -> Mapping[str, Any] | None:
    if dataset is None:
        return None
    file = dataset.directory / "audit" / "audit.json"
    if not file.is_file():
        missing.append(
            "The data set has not been audited: duplicates, patients on both sides of a split and properties "
            "that give the label away have not been looked for. Run 'pneumoscope data audit'."
        )
        return None
    return _json(file)


def _split(file: Path, missing: list[str]) -> Mapping[str, str] | None:
    if not file.is_file():
        missing.append("The split (split.csv) is not there.")
        return None
    with open(file, newline="", encoding="utf-8") as stream:
        # The first line may be a comment with the split's method and seed.
        rows = csv.DictReader(line for line in stream if not line.startswith("#"))
        try:
            return {row["path"]: row["part"] for row in rows}
        except KeyError as error:
            raise InputError("not a split", where=file, expected="columns path, part") from error
