"""A data set on disk: the manifest of labelled radiographs, what could not be used, and corrected labels.

On disk: ``dataset.json`` (name, layout, root, hash), ``manifest.csv`` (one row an image), ``problems.csv``,
and beside them ``cache/``, ``splits/`` and ``audit/``. The images themselves stay where they are.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pneumoscope.core.errors import DatasetError, InputError, UnreadableFileError
from pneumoscope.core.files import read_json, sha256_file, write_json, write_text
from pneumoscope.core.records import Label, Sample, data_frame
from pneumoscope.imaging.radiograph import read_radiograph

SCHEMA_VERSION = 1
_COLUMNS = tuple(column.name for column in fields(Sample))
_NUMBERS = {"age_years": float, "width": int, "height": int, "file_bytes": int}
_THUMBNAILS, _THUMBNAIL_SIDE = 3, 96  # images a class in a notebook, and pixels of the longer side


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that could not be used, relative to the root where it lies under it, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Header:
    """What ``dataset.json`` says; ``complete`` False marks an import under way."""

    name: str
    layout: str
    source: Path
    root: Path
    complete: bool = False
    content: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Labelled radiographs: a manifest with its directory. ``len`` and iteration go over the samples.

    Attributes:
        directory: holds ``dataset.json``, ``manifest.csv``, ``problems.csv``, ``cache/``, ``splits/``.
        root: the folder that ``Sample.path`` is relative to.
        name, layout: what it is called and how it was laid out.
        samples: the images, sorted by path.
        problems: files that were found and not used, each with its reason.
        notes: what the importer had to assume, as sentences.
        source: what was imported (a folder, a table, an ``.npz`` file).
    """

    directory: Path
    root: Path
    name: str
    layout: str
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    source: Path | None = None

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the sorted rows (path, sha256, patient, label): the identity of the content."""
        digest = hashlib.sha256()
        for row in sorted((s.path, s.sha256, s.patient_id, str(s.label)) for s in self.samples):
            digest.update("\x1f".join(row).encode() + b"\n")
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def file(self, sample: Sample) -> Path:
        """The image file of ``sample``."""
        return self.root / sample.path

    @property
    def counts(self) -> dict[str, int]:
        """Images by label."""
        return count_labels(self.samples)

    def by_publisher_split(self) -> dict[str, tuple[Sample, ...]]:
        """Samples by the part that the publisher put them in: ``train``, ``val``, ``test``, or ``none``."""
        parts = defaultdict(list)
        for sample in self.samples:
            parts[sample.publisher_split or "none"].append(sample)
        return {part: tuple(parts[part]) for part in ("train", "val", "test", "none") if part in parts}

    def to_dict(self) -> dict[str, Any]:
        """Counts, places and remarks as plain values for JSON."""
        return {
            "dataset": str(self.directory),
            "name": self.name,
            "layout": self.layout,
            "root": str(self.root),
            "hash": self.hash,
            **describe_samples(self.samples),
            "publisher_split": {
                part: describe_samples(samples) for part, samples in self.by_publisher_split().items()
            },
            "problems": len(self.problems),
            "problem_reasons": dict(Counter(problem.reason for problem in self.problems).most_common()),
            "notes": list(self.notes),
        }

    def to_frame(self) -> Any:
        """The manifest as a ``pandas.DataFrame``, one row an image.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        rows = [{**asdict(sample), "label": str(sample.label)} for sample in self.samples]
        return data_frame(rows, list(_COLUMNS))

    def _repr_html_(self) -> str:
        """For notebooks: images a class, with the first few as thumbnails."""
        rows = "".join(
            f"<tr><td>{label}</td><td>{count:,}</td><td>{self._thumbnails(label)}</td></tr>"
            for label, count in self.counts.items()
        )
        return (
            f"<table><caption>{escape(self.name)}: {len(self):,} images of "
            f"{len({sample.patient_id for sample in self.samples}):,} patients</caption>"
            f"<tr><th>class</th><th>images</th><th></th></tr>{rows}</table>"
        )

    def _thumbnails(self, label: str) -> str:
        """The first images of ``label`` as HTML; those that cannot be read any more are left out."""
        shown = []
        for sample in [sample for sample in self.samples if sample.label == label][:_THUMBNAILS]:
            try:
                pixels = read_radiograph(self.file(sample), min_size=_THUMBNAIL_SIDE).pixels
            except (OSError, UnreadableFileError):
                continue
            image = Image.fromarray(np.rint(255 * pixels).astype(np.uint8))
            image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
            image.save(content := io.BytesIO(), format="PNG")
            source = base64.b64encode(content.getvalue()).decode()
            shown.append(f'<img alt="{escape(sample.path)}" src="data:image/png;base64,{source}">')
        return "".join(shown)

    def save(self) -> None:
        """Write the manifest, the problems, and last ``dataset.json``; each atomically."""
        rows = [asdict(sample) for sample in self.samples]
        write_text(self.directory / "manifest.csv", _to_csv(_COLUMNS, rows))
        write_text(
            self.directory / "problems.csv", _to_csv(("path", "reason"), [asdict(p) for p in self.problems])
        )
        content = {
            "hash": self.hash,
            "films": len(self.samples),
            "problems": len(self.problems),
            "notes": self.notes,
        }
        source = self.source or self.root
        write_header(self.directory, Header(self.name, self.layout, source, self.root, True, content))

    @classmethod
    def open(cls, directory: Path | str) -> Dataset:
        """Open the data set in ``directory``, which an import made.

        Raises:
            DatasetError: there is none, its import was not finished, or a file of it is damaged.
        """
        directory = Path(directory)
        header = read_header(directory)
        if not header.get("complete"):
            raise DatasetError(
                "the import of this data set was not finished",
                where=directory,
                remedy=f"run 'pneumoscope data import {header.get('source', 'FOLDER')} -o {directory}' "
                "again; it goes on where it stopped",
            )
        try:
            samples = tuple(_to_sample(row) for row in _from_csv(directory / "manifest.csv"))
            problems = tuple(
                Problem(row["path"], row["reason"]) for row in _from_csv(directory / "problems.csv")
            )
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DatasetError(
                f"the manifest cannot be read ({error})", where=directory, remedy="import the images again"
            ) from error
        return cls(
            directory=directory,
            root=locate(directory, header["root"]),
            name=header["name"],
            layout=header["layout"],
            samples=samples,
            problems=problems,
            notes=tuple(header.get("notes", ())),
            source=locate(directory, header["source"]),
        )


def count_labels(samples: Iterable[Sample]) -> dict[str, int]:
    """Images by label, in the order of :class:`Label`; labels of no image are left out."""
    counts = Counter(sample.label for sample in samples)
    return {label.value: counts[label] for label in Label if counts[label]}


def describe_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    """How many images (``films``) and patients, and the images by label (``classes``)."""
    patients = len({sample.patient_id for sample in samples})
    return {"films": len(samples), "patients": patients, "classes": count_labels(samples)}


def read_header(directory: Path) -> dict[str, Any]:
    """``dataset.json`` of ``directory``.

    Raises:
        DatasetError: there is none, or it is damaged or of another schema.
    """
    file = Path(directory) / "dataset.json"
    if not file.is_file():
        raise DatasetError(
            "not a data set (no dataset.json)",
            where=directory,
            remedy="make one with 'pneumoscope data import FOLDER -o DATASET'",
        )
    try:
        header = read_json(file)
        version = header["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"damaged dataset.json ({error})", where=file, remedy="import again") from error
    if version != SCHEMA_VERSION:
        raise DatasetError(
            f"data set of schema {version}",
            where=file,
            expected=f"schema {SCHEMA_VERSION}",
            remedy="import again",
        )
    return dict(header)


def write_header(directory: Path, header: Header) -> None:
    """Write ``dataset.json``."""
    write_json(
        directory / "dataset.json",
        {
            "schema_version": SCHEMA_VERSION,
            "name": header.name,
            "layout": header.layout,
            "source": _portable(directory, header.source),
            "root": _portable(directory, header.root),
            "complete": header.complete,
            **header.content,
        },
    )


def locate(directory: Path, stored: str) -> Path:
    """The path that :func:`write_header` stored, seen from ``directory``."""
    path = Path(stored)
    return path if path.is_absolute() else (directory.resolve() / path).resolve()


def _portable(directory: Path, target: Path) -> str:
    """``target`` relative to ``directory`` when they can be moved together, otherwise absolute.

    They can when they share a folder below the first level (``/home/ann``, not ``/``).
    """
    here, there = directory.resolve(), Path(target).resolve()
    common = Path(os.path.commonpath([here, there]))
    return Path(os.path.relpath(there, here)).as_posix() if len(common.parts) > 2 else str(there)


def _to_csv(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _from_csv(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _to_sample(row: Mapping[str, str]) -> Sample:
    values: dict[str, Any] = {column: row[column] or None for column in _COLUMNS}
    for column, kind in _NUMBERS.items():
        if values[column] is not None:
            values[column] = kind(values[column])
    values["label"] = Label(row["label"])
    return Sample(**values)


UNSURE, EXCLUDE = "unsure", "exclude"
"""What a reader may write instead of a label: nothing changes, or the image is left out."""

_ANSWERS = (*(label.value for label in Label), UNSURE, EXCLUDE)
_REVIEW_COLUMNS = ("path", "sha256", "reader_label", "comment")


@dataclass(frozen=True, slots=True)
class Correction:
    """What a reader said of one image: a label, ``unsure`` or ``exclude``."""

    path: str
    sha256: str
    before: str
    reader_label: str
    comment: str


def read_corrections(file: Path, dataset: Dataset) -> tuple[Correction, ...]:
    """The rows of a reader's table that were filled in.

    Raises:
        InputError: the table lacks a column, names an image that the data set lacks or that has changed, says
            something that is no label, or nobody filled anything in. Every faulty row is named.
    """
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"cannot be read: {error}", where=file, expected="the CSV of 'data review'"
        ) from error
    lacking = [column for column in _REVIEW_COLUMNS if not rows or column not in rows[0]]
    if lacking:
        raise InputError(f"lacks {', '.join(lacking)}", where=file, expected="the CSV of 'data review'")
    samples = {sample.path: sample for sample in dataset.samples}
    filled = [(number, row) for number, row in enumerate(rows, 2) if (row["reader_label"] or "").strip()]
    faults = [fault for number, row in filled if (fault := _fault(number, row, samples))]
    if faults or not filled:
        raise InputError(
            "; ".join(faults[:10]) or "nobody filled in reader_label",
            where=file,
            expected=f"in reader_label one of {', '.join(_ANSWERS)}, or nothing",
            remedy="correct the table; nothing was applied",
        )
    return tuple(
        Correction(
            row["path"], row["sha256"], samples[row["path"]].label.value, row["reader_label"].strip(),
            row["comment"] or "",
        )
        for _, row in filled
    )  # fmt: skip


def apply_corrections(
    dataset: Dataset, corrections: Sequence[Correction], reader: str, directory: Path
) -> Dataset:
    """Record ``corrections`` with ``dataset`` and write the corrected data set; the old one stays as it is.

    The record ``DATASET/corrections/0001.json`` and its successors name each the hash of the one before.

    Args:
        dataset: what the reader looked at.
        corrections: at least one.
        reader: who looked.
        directory: of the corrected data set; must be new.

    Raises:
        DatasetError: ``directory`` is not empty, or an earlier record was changed.
    """
    if directory.exists() and any(directory.iterdir()):
        raise DatasetError("the folder is not empty", where=directory, remedy="choose a new one")
    folder = dataset.directory / "corrections"
    earlier = sorted(folder.glob("[0-9]*.json"))
    record = folder / f"{len(earlier) + 1:04}.json"
    said = {correction.path: correction.reader_label for correction in corrections}
    samples = tuple(_corrected(s, said.get(s.path)) for s in dataset.samples if said.get(s.path) != EXCLUDE)
    changed = sum(new.label is not old for new, old in zip(samples, _labels(dataset, said), strict=True))
    excluded = len(dataset.samples) - len(samples)
    new = replace(
        dataset,
        directory=directory,
        name=f"{dataset.name}-corrected",
        samples=samples,
        notes=(
            *dataset.notes,
            f"{changed} labels corrected and {excluded} images left out by {reader} ({record.name})",
        ),
    )
    write_json(
        record,
        {
            "schema_version": 1,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "reader": reader,
            "dataset_hash": dataset.hash,
            "corrected_hash": new.hash,
            "previous": sha256_file(earlier[-1]) if earlier else None,
            "corrections": [asdict(correction) for correction in corrections],
        },
    )
    directory.mkdir(parents=True, exist_ok=True)
    new.save()
    return new


def _labels(dataset: Dataset, said: Mapping[str, str]) -> list[Label]:
    return [sample.label for sample in dataset.samples if said.get(sample.path) != EXCLUDE]


def _corrected(sample: Sample, answer: str | None) -> Sample:
    return sample if answer in (None, UNSURE) else replace(sample, label=Label(answer))


def _fault(number: int, row: Mapping[str, str], samples: Mapping[str, Sample]) -> str | None:
    sample = samples.get(row["path"])
    if sample is None:
        return f"row {number}: no image {row['path']}"
    if sample.sha256 != row["sha256"]:
        return f"row {number}: {row['path']} has changed since the review"
    if row["reader_label"].strip() not in _ANSWERS:
        return f"row {number}: reader_label {row['reader_label'].strip()!r}"
    return None
