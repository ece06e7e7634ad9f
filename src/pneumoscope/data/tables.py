"""Tables that list images: a CSV of paths and labels, or the RSNA 2018 challenge's table beside DICOM files.

Column names are those met in public sets (NIH ChestX-ray, CheXpert, RSNA 2018, the metadata of the Kaggle
copy of Guangzhou).
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
from pneumoscope.core.records import Label
from pneumoscope.data.dataset import Problem
from pneumoscope.data.layouts import (
    FILM_SUFFIXES,
    SPLIT_NAMES,
    Candidate,
    ClassMap,
    ImportOptions,
    Listing,
    Skip,
    require_known,
    to_label,
    visible_files,
)
from pneumoscope.data.patients import guangzhou_etiology
from pneumoscope.imaging.header import to_age, to_view

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
    """The table in ``folder`` that lists images, or None; a folder's first such table in order of name."""
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
            "no table that lists images",
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


def read_table(source: Path, destination: Path, options: ImportOptions) -> Listing:
    """A CSV with a column of paths and one of labels; others are taken where their name is known.

    Paths are relative to the table's folder (or to a folder of images in it); absolute paths are taken as is.

    Raises:
        DatasetError: there is no such table, a column is missing, or a class name is unknown.
    """
    del destination
    table = load_table(source)
    for role in ("file", "label"):
        if role not in table.columns:
            raise DatasetError(
                f"the table has no column of {role}s",
                where=table.file,
                expected=f"one of {', '.join(COLUMNS[role])}",
                remedy="rename the column",
            )
    finder = FilmFinder(table.file.parent.resolve())
    found: list[tuple[Path, Mapping[str, str], Label]] = []
    problems, unknown = [], []
    for row in table.rows:
        name = table.cell(row, "file")
        label = _label(table, row, options.class_map)
        if not name or not table.cell(row, "label"):
            problems.append(Problem(name or "(row without a path)", "the table gives no label or no path"))
        elif label is None:
            unknown.append(table.cell(row, "label"))
        elif isinstance(label, Skip):
            problems.append(
                Problem(name, f"class '{table.cell(row, 'label')}' is left out by the class mapping")
            )
        elif (file := finder.find(name)) is None:
            problems.append(Problem(name, "no such file"))
        else:
            found.append((file, row, label))
    require_known(unknown, str(table.file))
    candidates, conflicts = _unique([_candidate(table, *entry) for entry in found])
    root = _common_root(finder.folder, [candidate.file for candidate in candidates])
    problems += [Problem(_shown(file, root), reason) for file, reason in conflicts]
    return Listing(root, "csv", tuple(candidates), tuple(problems))


def read_rsna(source: Path, destination: Path, options: ImportOptions) -> Listing:
    """The RSNA Pneumonia Detection Challenge: ``patientId, x, y, width, height, Target``, one row a box.

    An image is pneumonia when one of its rows has Target 1. Beside ``stage_2_detailed_class_info.csv`` images
    of the class *No Lung Opacity / Not Normal* are left out, for they are neither; without it they count as
    normal.
    Source: https://www.rsna.org/rsnai/ai-image-challenge/rsna-pneumonia-detection-challenge-2018

    Raises:
        DatasetError: there is no such table or a value of Target is neither 0 nor 1.
    """
    del destination
    table = load_table(source)
    targets: dict[str, bool] = {}
    for row in table.rows:
        cells = {normalise(name): (value or "").strip() for name, value in row.items()}
        if cells.get("target") not in ("0", "1"):
            raise DatasetError(
                f"Target is {cells.get('target')!r}",
                where=table.file,
                expected="0 or 1",
                remedy="correct the table",
            )
        targets[cells["patientid"]] = targets.get(cells["patientid"], False) or cells["target"] == "1"
    classes, class_map = _rsna_classes(table.file.parent), options.class_map
    finder = FilmFinder(table.file.parent.resolve())
    candidates, problems = [], []
    for identifier, target in targets.items():
        label = to_label(classes.get(identifier, str(int(target))), class_map, numeric=True) or Skip.SKIP
        file = finder.find(identifier)
        if file is None:
            problems.append(Problem(identifier, "no such file"))
        elif isinstance(label, Skip):
            reason = f"class '{classes.get(identifier, target)}' is neither normal nor pneumonia"
            problems.append(Problem(_shown(file, finder.folder), reason))
        else:
            candidates.append(Candidate(file, label, patient_id=identifier))
    note = (
        "images of the class 'No Lung Opacity / Not Normal' are left out; include them with "
        '--map "No Lung Opacity / Not Normal=normal"'
        if classes
        else "Target 0 counts as normal, although some of these images show other disease"
    )
    return Listing(finder.folder, "rsna", tuple(candidates), tuple(problems), (note,))


def to_sex(text: str) -> str | None:
    """``F`` or ``M``; None for anything else."""
    first = text.strip().upper()[:1]
    return first if first in ("F", "M") else None


def _label(table: FilmTable, row: Mapping[str, str], class_map: ClassMap) -> Label | Skip | None:
    label = to_label(table.cell(row, "label"), class_map, numeric=True)
    if label is not Label.PNEUMONIA:
        return label
    named = to_label(table.cell(row, "etiology"), {}) if table.cell(row, "etiology") else None
    if isinstance(named, Label) and named in (Label.BACTERIAL, Label.VIRAL):
        return named
    return guangzhou_etiology(Path(table.cell(row, "file")).stem) or label


def _candidate(table: FilmTable, file: Path, row: Mapping[str, str], label: Label) -> Candidate:
    return Candidate(
        file=file,
        label=label,
        patient_id=table.cell(row, "patient") or None,
        publisher_split=SPLIT_NAMES.get(table.cell(row, "split").lower()),
        view=to_view(table.cell(row, "view")),
        age_years=to_age(table.cell(row, "age")),
        sex=to_sex(table.cell(row, "sex")),
        site=table.cell(row, "site") or None,
    )


def _unique(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[tuple[Path, str]]]:
    """One candidate a file; rows that contradict each other about an image's label make it a problem."""
    labels: dict[Path, set[Label]] = {}
    for candidate in candidates:
        labels.setdefault(candidate.file, set()).add(candidate.label)
    first = {candidate.file: candidate for candidate in reversed(candidates)}
    agreed = [candidate for file, candidate in first.items() if len(labels[file]) == 1]
    conflicts = [
        (file, f"the table gives it several labels ({', '.join(sorted(found))})")
        for file, found in labels.items()
        if len(found) > 1
    ]
    return agreed, conflicts


def _common_root(folder: Path, files: Sequence[Path]) -> Path:
    """``folder`` when every image lies in it, otherwise the deepest folder that holds all."""
    return Path(os.path.commonpath([folder, *(file.parent for file in files)]))


def _shown(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def _rsna_classes(folder: Path) -> dict[str, str]:
    """Class by patientId from the challenge's second table, empty when it is not there."""
    file = next(iter(sorted(folder.glob("*detailed_class_info*.csv"))), None)
    if file is None:
        return {}
    rows = csv.DictReader(io.StringIO(read_text(file), newline=""))
    return {row["patientId"]: row["class"] for row in rows}
