"""What is scored: the images of a split, the check for training data among them, and a count of scorings.

A bundle names its training and validation images and their patients by the first 16 hexadecimal digits of
their SHA-256. A test set that is scored again and again while a model is being changed is no test set any
more, so every scoring is entered in a ledger beside the data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pneumoscope.core.errors import BundleError, DatasetError, LeakageError
from pneumoscope.core.files import read_json, sha256_bytes, write_json
from pneumoscope.core.records import Progress, Sample
from pneumoscope.data.cache import PixelCache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.splits import TEST, TRAIN, VALIDATION, Split, split_file
from pneumoscope.evaluation.predictions import PredictionTable, tabulate
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.prediction import BATCH, calibrated_probabilities, run_network
from pneumoscope.inference.selection import bounds_of

ALL = "all"
_PUBLISHED = {TRAIN: "train", VALIDATION: "val", TEST: "test"}
_METHODS = {
    "publisher": "publisher's split",
    "fractions": "re-split by patient (seed {seed})",
    "k-fold": "k-fold split by patient (seed {seed})",
    "leave-cluster-out": "split by acquisition cluster (seed {seed})",
}


@dataclass(frozen=True, slots=True)
class Films:
    """Images to score, the part that they are, and how they were chosen, in words."""

    samples: tuple[Sample, ...]
    part: str
    protocol: str


def choose_films(dataset: Dataset, part: str | None = None, split_name: str = "default") -> Films:
    """The images of ``part``.

    Args:
        dataset: whose images.
        part: a part of the split, ``all``, or None: the test part; all images where nothing was ever split,
            as in a data set of another hospital.
        split_name: a split of the data set; without one of that name the publisher's parts are used.

    Raises:
        DatasetError: no such part, or no image in it.
    """
    if part == ALL:
        return _all_films(dataset)
    file = split_file(dataset.directory, split_name)
    if file.is_file() or split_name != "default":
        split = Split.load(file)
        chosen = part or TEST
        protocol = _METHODS.get(split.method, split.method).format(seed=split.seed)
        return Films(split.samples(dataset, chosen), chosen, f"{protocol}, part {chosen}")
    published = {sample.publisher_split for sample in dataset.samples}
    if part is None and _PUBLISHED[TEST] not in published:
        return _all_films(dataset)
    chosen = part or TEST
    samples = tuple(s for s in dataset.samples if s.publisher_split == _PUBLISHED.get(chosen, chosen))
    if not samples:
        there = [name for name, own in _PUBLISHED.items() if own in published]
        raise DatasetError(
            f"there is no part '{chosen}'",
            where=dataset.directory,
            expected=f"one of {', '.join([*there, ALL])}",
            remedy="make a split with 'pneumoscope data split', or score all images with --split all",
        )
    return Films(samples, chosen, f"publisher's split, part {chosen}")


def _all_films(dataset: Dataset) -> Films:
    parts = sorted({sample.publisher_split for sample in dataset.samples if sample.publisher_split})
    whose = f"the publisher's parts {' and '.join(parts)} together" if parts else "not split"
    return Films(dataset.samples, ALL, f"all images, {whose}")


def predict_films(
    bundle: Bundle, cache: PixelCache, samples: Sequence[Sample], *, progress: Progress | None = None
) -> PredictionTable:
    """Calibrated predictions of ``bundle`` for cached images; every image is answered, the gate is not asked.

    Args:
        bundle: network and calibration.
        cache: decoded with the bundle's preprocessing.
        samples: at least one image.
        progress: called after every batch.
    """
    logits = []
    for number, batch in enumerate(cache.batches(samples, BATCH)):
        logits.append(run_network(bundle, batch)[0])
        if progress:
            progress(number * BATCH + len(batch), len(samples))
    raw = np.concatenate(logits).astype(np.float64)
    probabilities = calibrated_probabilities(raw, bundle.document["calibration"])
    return tabulate(samples, bundle.task, raw, probabilities, bounds_of(bundle.document))


def count_scoring(ledger: Path, bundle_id: str, table: PredictionTable, protocol: str) -> int:
    """Enter a scoring into the JSON file ``ledger``; return how often this bundle was scored on these images.

    Images are the same when their contents are, whatever they are called and however they were chosen.

    Raises:
        DatasetError: the ledger is damaged.
    """
    films = sha256_bytes("\n".join(sorted(table.sha256)).encode())
    try:
        entries = read_json(ledger) if ledger.is_file() else []
        keys = [(entry["bundle"], entry["films"]) for entry in entries]
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(
            f"the ledger of scorings is damaged ({error!r})",
            where=ledger,
            remedy="restore it; without it nobody knows how often these images were scored",
        ) from error
    entry = {
        "bundle": bundle_id,
        "films": films,
        "n": len(table),
        "protocol": protocol,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(ledger, [*entries, entry])
    return keys.count((bundle_id, films)) + 1


HASH_DIGITS = 16  # 64 bits: by chance two of a million images agree once in 10 million such sets

_SHOWN = 10


def film_key(sha256: str) -> str:
    """How a bundle names an image: the first 16 digits of its content's SHA-256."""
    return sha256[:HASH_DIGITS]


def patient_key(patient_id: str) -> str:
    """How a bundle names a patient, unreadably: the first 16 digits of the SHA-256 of the id."""
    return sha256_bytes(patient_id.encode("utf-8"))[:HASH_DIGITS]


def check_leakage(document: Mapping[str, Any], samples: Sequence[Sample]) -> tuple[tuple[str, str], ...]:
    """Images that the bundle was trained or validated on, or whose patient it saw.

    Args:
        document: content of ``bundle.json``; ``films`` and ``patients`` of ``training`` and, of a
            site's, ``adaptation`` are read.
        samples: images to be scored; the full ``patient_id`` counts, not the conservative ``group_id``.

    Returns:
        (path, ``film`` or ``patient``), in the order of ``samples``; ``film`` when both hold.

    Raises:
        BundleError: the bundle does not say what it was trained on.
    """
    training = document.get("training", {})
    if "films" not in training or "patients" not in training:
        raise BundleError(
            "does not name its training images and patients",
            where=document.get("id"),
            expected="'training.films' and 'training.patients' in bundle.json",
            remedy="train again, or export the bundle with its provenance",
        )
    site = document.get("adaptation", {"films": (), "patients": ()})
    films, patients = (frozenset((*training[key], *site[key])) for key in ("films", "patients"))
    found = []
    for sample in samples:
        if film_key(sample.sha256) in films:
            found.append((sample.path, "film"))
        elif patient_key(sample.patient_id) in patients:
            found.append((sample.path, "patient"))
    return tuple(found)


def leakage_error(leaks: Sequence[tuple[str, str]], scored: int) -> LeakageError:
    """The refusal to score ``scored`` images of which :func:`check_leakage` found ``leaks``; names ten."""
    films = sum(why == "film" for _, why in leaks)
    lines = [f"{path} (same {'image' if why == 'film' else why})" for path, why in leaks[:_SHOWN]]
    if len(leaks) > _SHOWN:
        lines.append(f"and {len(leaks) - _SHOWN} more")
    return LeakageError(
        f"{len(leaks)} of {scored} images were in the bundle's training or validation data "
        f"({films} as an image, {len(leaks) - films} through the patient)",
        where="\n    ".join(lines),
        expected="images of patients that the bundle has never seen",
        remedy="score other images, or add --allow-leakage, which marks the result contaminated; where two "
        "sources merely use the same patient ids, import one of them with ids of its own",
    )
