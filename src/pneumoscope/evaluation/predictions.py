"""The table of predictions of many images, and its CSV.

An image without a usable prediction is an error that names the image. It is never left out: an evaluation
that skips the images it cannot score looks better than it is.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import InputError
from pneumoscope.core.files import atomic_path
from pneumoscope.core.records import Label, Sample, Task, freeze
from pneumoscope.inference.selection import Bounds

_IDENTITY = ("path", "sha256", "patient_id", "label")
_SUM_TOLERANCE = 1e-4  # of probabilities to 1: float32 softmax, and CSV files rounded to five digits


@dataclass(frozen=True)
class PredictionTable:
    """One row an image.

    Attributes:
        paths: N files, as in ``Sample.path``; no path twice.
        sha256: N hashes of the files' content.
        patient_ids: N patient keys; the bootstrap resamples them.
        labels: N reference labels.
        task: what the network tells apart; its ``classes`` name the K columns.
        logits: (N, K) float64, raw outputs.
        probabilities: (N, K) float64 in [0, 1], calibrated, rows sum to 1.
        bounds: (N, 7) float64, the :class:`Bounds` of the bundle that answered each image, NaN where it has
            none; None where nothing is known of them.

    Raises:
        InputError: lengths differ, a path is repeated, or an image has a missing or impossible prediction.
    """

    paths: tuple[str, ...]
    sha256: tuple[str, ...]
    patient_ids: tuple[str, ...]
    labels: tuple[Label, ...]
    task: Task
    logits: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    bounds: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        for name in ("logits", "probabilities", "bounds"):
            if getattr(self, name) is not None:
                array = np.array(getattr(self, name), dtype=np.float64)
                object.__setattr__(self, name, freeze(array))
        self._check_lengths()
        self._check_values()

    def _check_lengths(self) -> None:
        n, classes = len(self.paths), len(self.task.classes)
        columns = (self.sha256, self.patient_ids, self.labels)
        shapes = (self.logits.shape, self.probabilities.shape)
        if any(len(column) != n for column in columns) or any(shape != (n, classes) for shape in shapes):
            raise InputError(
                f"{n} images, but logits {shapes[0]} and probabilities {shapes[1]}",
                expected=f"one row an image and {classes} columns ({', '.join(self.task.classes)})",
            )
        if self.bounds is not None and self.bounds.shape != (n, len(Bounds._fields)):
            raise InputError(f"{n} images, but bounds {self.bounds.shape}", expected="one row an image")
        if len(set(self.paths)) != n:
            seen: set[str] = set()
            twice = next(path for path in self.paths if path in seen or seen.add(path))  # type: ignore[func-returns-value]
            raise InputError("image predicted twice", where=twice, expected="one prediction an image")

    def _check_values(self) -> None:
        finite = np.isfinite(self.logits).all(axis=1) & np.isfinite(self.probabilities).all(axis=1)
        possible = ((self.probabilities >= 0) & (self.probabilities <= 1)).all(axis=1)
        possible &= np.abs(self.probabilities.sum(axis=1) - 1) <= _SUM_TOLERANCE
        for good, problem in (
            (finite, "prediction is missing or not a number"),
            (possible, "probabilities are not a distribution"),
        ):
            if not good.all():
                row = int(np.flatnonzero(~good)[0])
                raise InputError(
                    f"{problem}: {self.probabilities[row].tolist()} ({int((~good).sum())} such images)",
                    where=self.paths[row],
                    expected="a finite logit and probability for every class, summing to 1",
                    remedy="predict this image again; images are never left out of an evaluation",
                )

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def probability(self) -> npt.NDArray[np.float64]:
        """(N,) calibrated probability of pneumonia, 1 - p(normal), summed so that small ones stay exact."""
        return np.asarray(np.minimum(self.probabilities[:, 1:].sum(axis=1), 1.0))

    @property
    def positive(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the reference standard says pneumonia, of whatever cause."""
        return np.array([label is not Label.NORMAL for label in self.labels], dtype=bool)

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """(N,) class index by the reference; -1 where the label is too coarse for the task."""
        found = (self.task.target(label) for label in self.labels)
        return np.array([-1 if target is None else target for target in found], dtype=np.int64)

    def select(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> PredictionTable:
        """The table of some rows, by mask (N,) or by index."""
        index = np.arange(len(self))[rows].tolist()
        return PredictionTable(
            paths=tuple(self.paths[i] for i in index),
            sha256=tuple(self.sha256[i] for i in index),
            patient_ids=tuple(self.patient_ids[i] for i in index),
            labels=tuple(self.labels[i] for i in index),
            task=self.task,
            logits=self.logits[index],
            probabilities=self.probabilities[index],
            bounds=None if self.bounds is None else self.bounds[index],
        )


def tabulate(
    samples: Sequence[Sample],
    task: Task,
    logits: npt.NDArray[np.floating],
    probabilities: npt.NDArray[np.floating],
    bounds: Bounds | None = None,
) -> PredictionTable:
    """The table of ``samples`` and their (N, K) logits and calibrated probabilities, in the same order.

    ``bounds`` are those of the bundle that answered all of them.
    """
    return PredictionTable(
        paths=tuple(sample.path for sample in samples),
        sha256=tuple(sample.sha256 for sample in samples),
        patient_ids=tuple(sample.patient_id for sample in samples),
        labels=tuple(sample.label for sample in samples),
        task=task,
        logits=np.asarray(logits, dtype=np.float64),
        probabilities=np.asarray(probabilities, dtype=np.float64),
        bounds=None if bounds is None else np.tile(np.array(bounds, dtype=np.float64), (len(samples), 1)),
    )


def concatenate(tables: Iterable[PredictionTable]) -> PredictionTable:
    """One table of several, for example of the held-out folds of a cross-validation.

    Raises:
        InputError: no table, different tasks, or an image in two tables.
    """
    parts = list(tables)
    if not parts or any(part.task is not parts[0].task for part in parts):
        raise InputError("tables cannot be pooled", expected="at least one table, all of the same task")
    return PredictionTable(
        paths=tuple(path for part in parts for path in part.paths),
        sha256=tuple(digest for part in parts for digest in part.sha256),
        patient_ids=tuple(patient for part in parts for patient in part.patient_ids),
        labels=tuple(label for part in parts for label in part.labels),
        task=parts[0].task,
        logits=np.concatenate([part.logits for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        bounds=_pooled_bounds(parts),
    )


def _pooled_bounds(parts: Sequence[PredictionTable]) -> npt.NDArray[np.float64] | None:
    """Bounds of all images, NaN in the tables that have none."""
    if all(part.bounds is None for part in parts):
        return None
    blank = len(Bounds._fields)
    return np.concatenate([np.full((len(p), blank), np.nan) if p.bounds is None else p.bounds for p in parts])


def write_predictions(file: Path, table: PredictionTable) -> None:
    """Write ``table`` as CSV, atomically; numbers are written so that reading gives back the same bits.

    Columns: path, sha256, patient_id, label, probability, p_<class>..., logit_<class>..., and where they are
    known the bounds, empty where a bundle has none.
    """
    header = (*_IDENTITY, "probability", *_number_columns(table.task))
    numbers = np.column_stack([table.probability, table.probabilities, table.logits]).tolist()
    if table.bounds is not None:
        header += Bounds._fields
        numbers = [
            [*row, *("" if np.isnan(bound) else bound for bound in bounds)]
            for row, bounds in zip(numbers, table.bounds.tolist(), strict=True)
        ]
    with atomic_path(file) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        identity = zip(table.paths, table.sha256, table.patient_ids, table.labels, strict=True)
        for film, values in zip(identity, numbers, strict=True):
            writer.writerow([*map(str, film), *(value if value == "" else repr(value) for value in values)])


def read_predictions(file: Path) -> PredictionTable:
    """The table that :func:`write_predictions` wrote.

    Raises:
        InputError: no such file, columns missing, an unknown label, or an image without a usable prediction.
    """
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            header = tuple(reader.fieldnames or ())
            rows = list(reader)
    except FileNotFoundError as error:
        raise InputError("no such table of predictions", where=file) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a CSV file: {error}", where=file) from error
    task = _task_of(header, file)
    values = np.array([_numbers(row, task, file) for row in rows], dtype=np.float64)
    classes = len(task.classes)
    values = values.reshape(len(rows), 2 * classes)
    return PredictionTable(
        paths=tuple(row["path"] for row in rows),
        sha256=tuple(row["sha256"] for row in rows),
        patient_ids=tuple(row["patient_id"] for row in rows),
        labels=tuple(_label(row, file) for row in rows),
        task=task,
        logits=values[:, classes:],
        probabilities=values[:, :classes],
        bounds=_bounds(rows, file) if set(Bounds._fields) <= set(header) else None,
    )


def _number_columns(task: Task) -> tuple[str, ...]:
    return (*(f"p_{name}" for name in task.classes), *(f"logit_{name}" for name in task.classes))


def _task_of(header: tuple[str, ...], file: Path) -> Task:
    for task in Task:
        if set(_IDENTITY) | set(_number_columns(task)) <= set(header):
            return task
    raise InputError(
        f"columns {', '.join(header) or 'none'} are not those of predictions",
        where=file,
        expected=f"{', '.join(_IDENTITY)}, probability, then p_<class> and logit_<class> of a task",
    )


def _bounds(rows: Sequence[Mapping[str, str | None]], file: Path) -> npt.NDArray[np.float64]:
    try:
        found = [[float(row[name] or "nan") for name in Bounds._fields] for row in rows]
    except ValueError as error:
        raise InputError(f"a bound is not a number: {error}", where=file) from error
    return np.array(found, dtype=np.float64).reshape(len(rows), len(Bounds._fields))


def _numbers(row: Mapping[str, str | None], task: Task, file: Path) -> list[float]:
    found: list[float] = []
    for column in _number_columns(task):
        text = row[column]
        try:
            found.append(float(text or ""))
        except ValueError as error:
            raise InputError(
                f"'{column}' of image {row['path']} is {text!r}",
                where=file,
                expected="a number for every image",
                remedy="predict this image again; images are never left out of an evaluation",
            ) from error
    return found


def _label(row: Mapping[str, str], file: Path) -> Label:
    try:
        return Label(row["label"])
    except ValueError as error:
        raise InputError(
            f"label of image {row['path']} is {row['label']!r}",
            where=file,
            expected=f"one of {', '.join(Label)}",
        ) from error
