"""What a layout's reader found before any film is opened.

In: nothing. Out: the records :class:`Candidate` and :class:`Listing` that every importer returns, and the
names of files that count as films.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pneumoscope.core.records import Label
from pneumoscope.data.class_names import ClassMap
from pneumoscope.data.dataset import Problem

FILM_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".dcm", ".dicom", ".dic", ".ima", "")
)
"""Endings that are tried as films; DICOM files often have none."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import.

    Attributes:
        layout: ``kaggle``, ``folders``, ``csv``, ``rsna`` or ``medmnist``; None finds out.
        class_map: the user's meanings of class names, keys normalised by ``parse_class_map``.
        name: the data set's name; None takes the source's.
        workers: processes that decode; None takes the number of processors.
    """

    layout: str | None = None
    class_map: ClassMap = field(default_factory=dict)
    name: str | None = None
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A film that a layout promises; the fields are those of Sample, before the file was opened.

    ``patient_id`` None means that the layout says nothing and the file name decides.
    """

    file: Path
    label: Label
    patient_id: str | None = None
    publisher_split: str | None = None
    view: str | None = None
    age_years: float | None = None
    sex: str | None = None
    site: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A layout read: the folder that paths are relative to, films, files that are none, and remarks."""

    root: Path
    layout: str
    candidates: tuple[Candidate, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def is_hidden(path: Path) -> bool:
    """Whether the system, not a person, put ``path`` there (``._x``, ``.DS_Store``, ``__MACOSX``)."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def visible_files(folder: Path) -> Iterator[Path]:
    """Every file under ``folder`` in sorted order, without hidden files and folders."""
    for path in sorted(folder.iterdir()):
        if is_hidden(path):
            continue
        if path.is_dir():
            yield from visible_files(path)
        elif path.is_file():
            yield path
