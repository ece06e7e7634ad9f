"""A data set on disk: the manifest, what could not be used, and where the films are.

In: a directory written by an import, or any layout that the importers know. Out: a frozen
:class:`Dataset`. The films themselves stay where they are.

On disk: ``dataset.json`` (name, layout, root, hash), ``manifest.csv`` (one row a film), ``problems.csv``,
and beside them ``cache/``, ``splits/`` and ``audit/``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.files import read_json, write_json, write_text
from pneumoscope.core.records import Label, Sample

SCHEMA_VERSION = 1
_COLUMNS = tuple(column.name for column in fields(Sample))
_NUMBERS = {"age_years": float, "width": int, "height": int, "file_bytes": int}


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
    """A manifest with its directory.

    Attributes:
        directory: holds ``dataset.json``, ``manifest.csv``, ``problems.csv``, ``cache/``, ``splits/``.
        root: the folder that ``Sample.path`` is relative to.
        name, layout: what it is called and how it was laid out.
        samples: the films, sorted by path.
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

    def file(self, sample: Sample) -> Path:
        """Where a film lies."""
        return self.root / sample.path

    def save(self) -> None:
        """Write the manifest, the problems, and last ``dataset.json``; each atomically."""
        rows = [
            {key: "" if value is None else value for key, value in asdict(s).items()} for s in self.samples
        ]
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
    def open(cls, directory: Path) -> Dataset:
        """The data set in ``directory``.

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
                f"the manifest cannot be read ({error})", where=directory, remedy="import the films again"
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
