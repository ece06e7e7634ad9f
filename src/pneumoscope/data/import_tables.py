"""Films that a table lists: a CSV of paths and labels, or the RSNA 2018 challenge's table beside DICOM files.

In: a CSV or TSV file, or a folder that holds one. Out: a :class:`Listing`. Column names are those met in
public sets (NIH ChestX-ray, CheXpert, RSNA 2018, the metadata of the Kaggle copy of Guangzhou).
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.records import Label
from pneumoscope.data.class_names import ClassMap, Skip, require_known, to_label
from pneumoscope.data.dataset import Problem
from pneumoscope.data.film_tables import COLUMNS, FilmFinder, FilmTable, load_table, normalise, read_text
from pneumoscope.data.import_folders import SPLIT_NAMES
from pneumoscope.data.listing import Candidate, ImportOptions, Listing
from pneumoscope.data.patients import guangzhou_etiology


def read_table(source: Path, destination: Path, options: ImportOptions) -> Listing:
    """A CSV with a column of paths and one of labels; others are taken where their name is known.

    Paths are relative to the table's folder (or to a folder of films in it); an absolute path is taken as is.

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

    A film is pneumonia when one of its rows has Target 1. Beside ``stage_2_detailed_class_info.csv`` films of
    the class *No Lung Opacity / Not Normal* are left out, for they are neither; without it they count as
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
        "films of the class 'No Lung Opacity / Not Normal' are left out; include them with "
        '--map "No Lung Opacity / Not Normal=normal"'
        if classes
        else "Target 0 counts as normal, although some of these films show other disease"
    )
    return Listing(finder.folder, "rsna", tuple(candidates), tuple(problems), (note,))


def to_age(text: str) -> float | None:
    """Age in years from ``7``, ``7.5``, or DICOM's age string (``018M``, ``007Y``; PS3.5 6.2); else None."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([DWMY]?)\s*", text, re.IGNORECASE)
    if not match:
        return None
    years = float(match[1]) / {"D": 365.25, "W": 52.18, "M": 12.0}.get(match[2].upper(), 1.0)
    return round(years, 2) if years <= 120 else None


def to_sex(text: str) -> str | None:
    """``F`` or ``M``; None for anything else."""
    first = text.strip().upper()[:1]
    return first if first in ("F", "M") else None


def to_view(text: str) -> str | None:
    """``PA``, ``AP`` or ``LATERAL``; None for anything else."""
    word = text.strip().upper()
    if word in ("PA", "AP"):
        return word
    return "LATERAL" if word in ("LL", "RL", "LAT", "LATERAL", "L") else None


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
    """One candidate a file; rows that contradict each other about a film's label make it a problem."""
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
    """``folder`` when every film lies in it, otherwise the deepest folder that holds all."""
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
