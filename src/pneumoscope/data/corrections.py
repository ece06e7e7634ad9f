"""Labels that a reader corrected: kept beside the data set, never in place of the original.

Each time a reader's table is applied, the data set gets a numbered record (``corrections/0001.json``) that
names its predecessor's hash, and a new data set is made whose manifest bears the corrected labels. The old
manifest is not touched; whoever wants the old labels back uses the old data set.

In: a data set and a CSV with the columns ``path``, ``sha256``, ``reader_label`` and ``comment``. Out: the
record and the corrected data set.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pneumoscope.core.errors import DatasetError, InputError
from pneumoscope.core.files import sha256_file, write_json
from pneumoscope.core.records import Label, Sample
from pneumoscope.data.dataset import Dataset

UNSURE, EXCLUDE = "unsure", "exclude"
"""What a reader may write instead of a label: nothing changes, or the film is left out."""

_ANSWERS = (*(label.value for label in Label), UNSURE, EXCLUDE)
_COLUMNS = ("path", "sha256", "reader_label", "comment")


@dataclass(frozen=True, slots=True)
class Correction:
    """What a reader said of one film: a label, ``unsure`` or ``exclude``."""

    path: str
    sha256: str
    before: str
    reader_label: str
    comment: str


def read_corrections(file: Path, dataset: Dataset) -> tuple[Correction, ...]:
    """The rows of a reader's table that were filled in.

    Raises:
        InputError: the table lacks a column, names a film that the data set lacks or that has changed, says
            something that is no label, or nobody filled anything in. Every faulty row is named.
    """
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"cannot be read: {error}", where=file, expected="the CSV of 'data review'"
        ) from error
    lacking = [column for column in _COLUMNS if not rows or column not in rows[0]]
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
    """Record ``corrections`` with ``dataset`` and write the corrected data set.

    Args:
        dataset: whose manifest stays as it is.
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
            f"{changed} labels corrected and {excluded} films left out by {reader} ({record.name})",
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
        return f"row {number}: no film {row['path']}"
    if sample.sha256 != row["sha256"]:
        return f"row {number}: {row['path']} has changed since the review"
    if row["reader_label"].strip() not in _ANSWERS:
        return f"row {number}: reader_label {row['reader_label'].strip()!r}"
    return None
