"""Test films that a bundle has seen: looked for before anything is scored.

In: a bundle's ``bundle.json``, which names its training and validation films and their patients by the first
16 hexadecimal digits of their SHA-256, and the samples to be scored. Out: the offending films, each with why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pneumoscope.core.errors import BundleError, LeakageError
from pneumoscope.core.files import sha256_bytes
from pneumoscope.core.records import Sample

HASH_DIGITS = 16  # 64 bits: by chance two of a million films agree once in 10 million such sets

_SHOWN = 10


def film_key(sha256: str) -> str:
    """How a bundle names a film: the first 16 digits of its content's SHA-256."""
    return sha256[:HASH_DIGITS]


def patient_key(patient_id: str) -> str:
    """How a bundle names a patient, unreadably: the first 16 digits of the SHA-256 of the id."""
    return sha256_bytes(patient_id.encode("utf-8"))[:HASH_DIGITS]


def check_leakage(document: Mapping[str, Any], samples: Sequence[Sample]) -> tuple[tuple[str, str], ...]:
    """Films that the bundle was trained or validated on, or whose patient it saw.

    Args:
        document: content of ``bundle.json``; ``training.films`` and ``training.patients`` are read.
        samples: films to be scored; the full ``patient_id`` counts, not the conservative ``group_id``.

    Returns:
        (path, ``film`` or ``patient``), in the order of ``samples``; ``film`` when both hold.

    Raises:
        BundleError: the bundle does not say what it was trained on.
    """
    training = document.get("training", {})
    if "films" not in training or "patients" not in training:
        raise BundleError(
            "does not name its training films and patients",
            where=document.get("id"),
            expected="'training.films' and 'training.patients' in bundle.json",
            remedy="train again, or export the bundle with its provenance",
        )
    films, patients = frozenset(training["films"]), frozenset(training["patients"])
    found = []
    for sample in samples:
        if film_key(sample.sha256) in films:
            found.append((sample.path, "film"))
        elif patient_key(sample.patient_id) in patients:
            found.append((sample.path, "patient"))
    return tuple(found)


def leakage_error(leaks: Sequence[tuple[str, str]], scored: int) -> LeakageError:
    """The refusal to score ``scored`` films of which :func:`check_leakage` found ``leaks``; names ten."""
    films = sum(why == "film" for _, why in leaks)
    lines = [f"{path} (same {why})" for path, why in leaks[:_SHOWN]]
    if len(leaks) > _SHOWN:
        lines.append(f"and {len(leaks) - _SHOWN} more")
    return LeakageError(
        f"{len(leaks)} of {scored} films were in the bundle's training or validation data "
        f"({films} as a film, {len(leaks) - films} through the patient)",
        where="\n    ".join(lines),
        expected="films of patients that the bundle has never seen",
        remedy="score other films, or add --allow-leakage, which marks the result contaminated; where two "
        "sources merely use the same patient ids, import one of them with ids of its own",
    )
