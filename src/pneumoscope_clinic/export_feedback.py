"""Export of confirmed studies as a training data set.

De-identified, with consent, under a stated licence.

Grey PNG files of 8 bits without a header, burned-in text covered, patients by keyed hashes that are the
same in every export of an installation. ``export.json`` says under which licence and with which consent. An
export into the folder of an earlier one updates it: new images come in, those whose consent was withdrawn
go.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from pneumoscope.core.errors import DatasetError, InputError, PneumoscopeError
from pneumoscope.core.files import read_json, sha256_bytes, write_bytes, write_json
from pneumoscope.core.records import Label, Progress, Sample
from pneumoscope.data.dataset import Dataset, Problem, read_header
from pneumoscope.data.tables import to_sex
from pneumoscope.imaging.burned_in_text import mask_text
from pneumoscope.imaging.header import to_view
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Feedback, Film, Study, now

LAYOUT = "clinic-feedback"
"""In ``dataset.json``: how the images lie."""

FACTS = "export.json"

CONSENT = "Each image's last feedback says that the image may be used for training."

NO_CONSENT = "there is no consent to training"

_KEY_DIGITS = 16  # 64 bits: no two of a million patients share a key (birthday bound 3e-8)

Picture = Callable[[bytes], npt.NDArray[np.uint8]]
"""Decodes a stored image to (H, W) uint8, bright = dense, as ``Sandbox.picture`` does."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is exported.

    Attributes:
        licence: under which the images may be used, in words or as an SPDX identifier.
        since: only images with feedback from then on, and those of the earlier export; None: all.
        min_readers: readers who must have given the same diagnosis.
        diagnoses: only these labels; empty: all.
        name: of the data set.
    """

    licence: str
    since: datetime | None = None
    min_readers: int = 1
    diagnoses: tuple[Label, ...] = ()
    name: str = "clinic"


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of it: the data set, images new to it, images that went, and why others were left out."""

    dataset: Dataset
    added: int
    removed: int
    left_out: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Word:
    """A reader's last word on an image."""

    diagnosis: str
    consent: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An image with its feedback; ``name`` and ``patient`` are keyed hashes."""

    film: Film
    name: str
    patient: str
    words: tuple[_Word, ...]


def export_feedback(
    store: Store,
    destination: Path,
    wishes: Wishes,
    picture: Picture,
    *,
    actor: str,
    progress: Progress | None = None,
) -> Exported:
    """Write or update the data set in ``destination``.

    Args:
        store: the clinic's.
        destination: a new or empty folder, or that of an earlier export.
        wishes: licence and choice.
        picture: decodes a stored image.
        actor: for the audit log.
        progress: called with the number of images done.

    Raises:
        InputError: there is no licence, or no image may be exported.
        DatasetError: the destination holds something else.
    """
    if not wishes.licence.strip():
        raise InputError(
            "an export needs a licence",
            expected="terms of use, for instance 'CC-BY-4.0' or 'internal use only'",
            remedy="give it with --licence",
        )
    _require_own(destination)
    earlier = _earlier(destination)
    chosen, problems = _choose(store, wishes, earlier)
    if not chosen:
        raise InputError(
            f"no image may be exported{_reasons(problems)}",
            expected="images with a final diagnosis, whose last feedback consents to training",
        )
    samples, added = [], 0
    for done, (candidate, label) in enumerate(chosen, start=1):
        try:
            samples.append(_sample(store, candidate, label, destination, earlier, picture))
            added += candidate.name not in earlier
        except PneumoscopeError as error:
            problems.append(Problem(f"films/{candidate.name}.png", error.problem))
        if progress:
            progress(done, len(chosen))
    removed = _remove_others(destination, {Path(sample.path).name for sample in samples})
    return _finish(store, destination, wishes, actor, samples, problems, (added, removed))


def _finish(
    store: Store,
    destination: Path,
    wishes: Wishes,
    actor: str,
    samples: Sequence[Sample],
    problems: Sequence[Problem],
    changes: tuple[int, int],
) -> Exported:
    notes = (f"Licence: {wishes.licence.strip()}", f"Consent: {CONSENT}", "Text in the pictures is covered.")
    dataset = Dataset(
        directory=destination,
        root=destination,
        name=wishes.name,
        layout=LAYOUT,
        samples=tuple(sorted(samples, key=lambda sample: sample.path)),
        # Who did not consent is counted, and named nowhere, not even by a keyed hash.
        problems=tuple(sorted((p for p in problems if p.reason != NO_CONSENT), key=lambda p: p.path)),
        notes=notes,
    )
    left_out = dict(Counter(problem.reason for problem in problems).most_common())
    facts = {
        "licence": wishes.licence.strip(),
        "consent": CONSENT,
        "made_at": now().isoformat(timespec="seconds"),
        "min_readers": wishes.min_readers,
        "since": None if wishes.since is None else wishes.since.isoformat(),
        "films": len(samples),
        "patients": len({sample.patient_id for sample in samples}),
        "left_out": left_out,
        "dataset_hash": dataset.hash,
        "sources": {Path(sample.path).stem: sample.sha256 for sample in dataset.samples},
    }
    write_json(destination / FACTS, facts)
    dataset.save()
    with store.write() as session:
        audit_log.append(
            store,
            session,
            actor,
            "feedback.exported",
            dataset.hash,
            films=len(samples),
            licence=wishes.licence.strip(),
        )
    return Exported(dataset, *changes, left_out)


def _choose(
    store: Store, wishes: Wishes, earlier: Mapping[str, str]
) -> tuple[list[tuple[_Candidate, Label]], list[Problem]]:
    """Images that may be exported with their labels, and the others with reasons."""
    chosen, problems = [], []
    for candidate in _candidates(store):
        last = max(candidate.words, key=lambda word: word.at)
        if wishes.since is not None and last.at < wishes.since and candidate.name not in earlier:
            continue
        reason = _objection(candidate, last, wishes)
        if reason is None:
            chosen.append((candidate, Label(last.diagnosis)))
        else:
            problems.append(Problem(f"films/{candidate.name}.png", reason))
    return chosen, problems


def _objection(candidate: _Candidate, last: _Word, wishes: Wishes) -> str | None:
    """Why an image is left out; None when it is not."""
    diagnoses = {word.diagnosis for word in candidate.words}
    checks = (
        (not last.consent, NO_CONSENT),
        (len(diagnoses) > 1, f"readers disagree ({', '.join(sorted(diagnoses))})"),
        (last.diagnosis not in set(Label), "the diagnosis is no class of the data set"),
        (len(candidate.words) < wishes.min_readers, f"fewer than {wishes.min_readers} readers"),
        (
            bool(wishes.diagnoses) and last.diagnosis not in wishes.diagnoses,
            "another diagnosis was asked for",
        ),
        (candidate.film.pixels_gone, "the pixels were deleted"),
    )
    return next((reason for applies, reason in checks if applies), None)


def _candidates(store: Store) -> Iterator[_Candidate]:
    """Every image with feedback; the same bytes sent twice are one image, with all that was said of both."""
    grouped: dict[str, list[tuple[Film, Study, Feedback]]] = defaultdict(list)
    with store.read() as session:
        rows = session.execute(
            select(Film, Study, Feedback)
            .join(Study, Study.id == Film.study_id)
            .join(Feedback, Feedback.film_id == Film.id)
            .order_by(Feedback.id)
        )
        for film, study, feedback in rows.unique():
            grouped[film.sha256].append((film, study, feedback))
    for digest, rows_of_film in grouped.items():
        kept = next((row for row in rows_of_film if not row[0].pixels_gone), rows_of_film[0])
        words = {f.user_id: _Word(f.diagnosis, f.consent, f.created_at) for _, _, f in rows_of_film}
        patient = kept[1].patient_key or kept[1].id
        yield _Candidate(
            film=kept[0],
            name=store.cipher.pseudonym(digest, "export-film")[:_KEY_DIGITS],
            patient=store.cipher.pseudonym(patient, "export-patient")[:_KEY_DIGITS],
            words=tuple(words.values()),
        )


def _sample(
    store: Store,
    candidate: _Candidate,
    label: Label,
    destination: Path,
    earlier: Mapping[str, str],
    picture: Picture,
) -> Sample:
    """Write an image, unless it is there as it was written, and give its row."""
    film, path = candidate.film, f"films/{candidate.name}.png"
    file = destination / path
    if not (file.is_file() and sha256_bytes(file.read_bytes()) == earlier.get(candidate.name)):
        content = store.blobs.get("films", film.id)
        if content is None:
            raise InputError("the pixels were deleted")
        write_bytes(file, _png(_covered(picture(content))))
    content = file.read_bytes()
    width, height = _png_size(content)
    return Sample(
        path=path,
        sha256=sha256_bytes(content),
        patient_id=candidate.patient,
        group_id=candidate.patient,
        label=label,
        view=to_view(str(film.facts.get("view_position", ""))),
        age_years=film.age_years,
        sex=to_sex(film.sex or ""),
        width=width,
        height=height,
        file_bytes=len(content),
    )


def _covered(film: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    pixels, mask = mask_text((film / np.float32(255)).astype(np.float32))
    return np.where(mask, np.rint(pixels * 255), film).astype(np.uint8)


def _png(film: npt.NDArray[np.uint8]) -> bytes:
    """A grey PNG with no chunk but those that it is decoded by."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(film).save(out, "PNG", optimize=False)
    return out.getvalue()


def _png_size(content: bytes) -> tuple[int, int]:
    """Width and height of a PNG (3rd ed., 11.2.1: the header is the first chunk)."""
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def _require_own(destination: Path) -> None:
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    if (destination / FACTS).is_file() and read_header(destination)["layout"] == LAYOUT:
        return
    raise DatasetError(
        "the destination holds something else",
        where=destination,
        expected="a new folder or that of an earlier export",
    )


def _earlier(destination: Path) -> Mapping[str, str]:
    """Hashes of the images of an earlier export by name."""
    file = destination / FACTS
    sources: Mapping[str, Any] = read_json(file)["sources"] if file.is_file() else {}
    return {name: str(digest) for name, digest in sources.items()}


def _remove_others(destination: Path, names: set[str]) -> int:
    """Delete images of an earlier export that are not in this one."""
    others = [file for file in (destination / "films").glob("*.png") if file.name not in names]
    for file in others:
        file.unlink()
    return len(others)


def _reasons(problems: Sequence[Problem]) -> str:
    counts = Counter(problem.reason for problem in problems)
    return "".join(f"; {count}: {reason}" for reason, count in counts.most_common())
