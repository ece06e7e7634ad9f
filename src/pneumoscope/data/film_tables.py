"""Tables that list films: how they are found and read, and how a cell leads to a file.

In: CSV, TSV or semicolon-separated files with the column names of public sets (NIH ChestX-ray, CheXpert,
RSNA 2018, the metadata of the Kaggle copy of Guangzhou). Out: a :class:`FilmTable` and a
:class:`FilmFinder`.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pneumoscope.core.errors import DatasetError
from pneumoscope.data.listing import FILM_SUFFIXES, visible_files

# In order of preference; compared in lower case with every run of other characters as one underscore.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "file": (
        "file", "path", "image", "filename", "file_name", "filepath", "file_path", "image_path", "image_file",
        "image_index", "image_id", "image_name", "x_ray_image_name", "img", "films", "film",
    ),
    "label": (
        "label", "class", "class_name", "labels", "category", "diagnosis", "finding", "finding_labels",
        "target", "pneumonia",
    ),
    "etiology": ("etiology", "cause", "label_1_virus_category", "pathogen"),
    "patient": ("patient_id", "patient", "patientid", "subject_id", "subject"),
    "age": ("age_years", "age", "patient_age", "patientage"),
    "sex": ("sex", "gender", "patient_sex", "patient_gender", "patientsex"),
    "view": ("view", "view_position", "viewposition", "ap_pa", "projection"),
    "site": ("site", "hospital", "institution", "source"),
    "split": ("split", "publisher_split", "dataset_type", "subset", "partition", "fold"),
}  # fmt: skip
_TABLES = (".csv", ".tsv")


@dataclass(frozen=True, slots=True)
class FilmTable:
    """A table that was read: its file, its rows by column name, and the column of each role of COLUMNS."""

    file: Path
    rows: tuple[Mapping[str, str], ...]
    columns: Mapping[str, str]

    def cell(self, row: Mapping[str, str], role: str) -> str:
        """What ``row`` says in the column of ``role``; empty where there is no such column."""
        return (row.get(self.columns.get(role, "")) or "").strip()


def find_table(folder: Path) -> Path | None:
    """The table in ``folder`` that lists films, or None; a folder's first such table in order of name."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix.lower() in _TABLES and not file.name.startswith("."):
            columns = _roles(_header(file))
            if _is_rsna(_header(file)) or {"file", "label"} <= set(columns):
                return file
    return None


def table_layout(file: Path) -> str:
    """``rsna`` or ``csv`` by the table's columns.

    Raises:
        DatasetError: the file is no table.
    """
    if file.suffix.lower() not in (*_TABLES, ".txt"):
        raise DatasetError("not a data set", where=file, expected="a folder, a CSV table or an .npz file")
    return "rsna" if _is_rsna(_header(file)) else "csv"


class FilmFinder:
    """Finds the file that a cell names: as a path, below the folder by name, with or without its ending."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, Path] | None = None

    def find(self, name: str) -> Path | None:
        """The file, or None."""
        path = Path(os.path.normpath(self.folder / name.replace("\\", "/")))
        if path.is_file():
            return path
        if self._by_name is None:
            self._by_name = {}
            for file in visible_files(self.folder):
                if file.suffix.lower() in FILM_SUFFIXES:
                    self._by_name.setdefault(file.name, file)
                    self._by_name.setdefault(file.stem, file)
        return self._by_name.get(path.name)


def load_table(source: Path) -> FilmTable:
    """The table ``source``, or the one in the folder ``source``.

    Raises:
        DatasetError: there is none, or it has no rows.
    """
    file = source if source.is_file() else find_table(source)
    if file is None:
        raise DatasetError(
            "no table that lists films",
            where=source,
            expected=f"a CSV with a column of files ({', '.join(COLUMNS['file'][:4])}, ...) and one of "
            f"labels ({', '.join(COLUMNS['label'][:4])}, ...)",
        )
    text = read_text(file)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    rows = tuple(row for row in reader if any(value for value in row.values()))
    if not rows:
        raise DatasetError("the table has no rows", where=file)
    return FilmTable(file, rows, _roles(reader.fieldnames or ()))


def read_text(file: Path) -> str:
    """A file's text: UTF-8 with or without byte order mark, otherwise Latin-1 as old spreadsheets write."""
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return max(",;\t", key=first.count)


def _header(file: Path) -> Sequence[str]:
    first = read_text(file).partition("\n")[0]
    return next(csv.reader([first], delimiter=_delimiter(first)), [])


def normalise(name: str) -> str:
    """A column's name as COLUMNS has it."""
    return re.sub(r"[^a-z0-9]+", "_", (name or "").lower()).strip("_")


def _roles(header: Sequence[str]) -> dict[str, str]:
    """The column of each role: the first of the role's names that the table has."""
    present = {normalise(name): name for name in reversed(header)}
    roles = {
        role: next((present[name] for name in names if name in present), None)
        for role, names in COLUMNS.items()
    }
    return {role: column for role, column in roles.items() if column is not None}


def _is_rsna(header: Sequence[str]) -> bool:
    return {"patientid", "target", "x", "y"} <= {normalise(name) for name in header}
