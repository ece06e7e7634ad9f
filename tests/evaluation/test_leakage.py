"""Test images and patients that a bundle was trained on are found and refused, and nobody else is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pneumoscope.core.errors import BundleError
from pneumoscope.core.files import sha256_bytes
from pneumoscope.evaluation.scoring import check_leakage, film_key, leakage_error, patient_key

from .films import sample

SEEN = [sample(number, patient=f"seen-{number}") for number in range(5)]
DOCUMENT = {
    "id": "tiny@0",
    "training": {
        "films": [film_key(one.sha256) for one in SEEN],
        "patients": [patient_key(one.patient_id) for one in SEEN],
    },
}


def test_keys_are_those_of_the_bundle() -> None:
    assert film_key("0123456789abcdef" * 4) == "0123456789abcdef"
    assert patient_key("père-1") == sha256_bytes("père-1".encode())[:16]


def test_new_films_of_new_patients_are_clean() -> None:
    assert check_leakage(DOCUMENT, [sample(9, patient="new")]) == ()


def test_a_seen_film_and_a_seen_patient_are_found_in_order() -> None:
    copied = replace(sample(7, patient="new"), sha256=SEEN[2].sha256)
    related = sample(8, patient="seen-1")
    both = replace(related, path="films/both.png", sha256=SEEN[1].sha256)
    found = check_leakage(DOCUMENT, [related, sample(9, patient="new"), copied, both])
    assert found == ((related.path, "patient"), (copied.path, "film"), (both.path, "film"))


def test_the_conservative_group_accuses_nobody() -> None:
    assert check_leakage(DOCUMENT, [replace(sample(9, patient="new"), group_id="seen-1")]) == ()


def test_a_bundle_without_provenance_cannot_be_trusted() -> None:
    with pytest.raises(BundleError, match="does not name its training images"):
        check_leakage({"id": "x", "training": {}}, [])


def test_the_refusal_names_ten_films_and_exits_with_2() -> None:
    leaks = [(f"films/{number}.png", "film" if number < 3 else "patient") for number in range(14)]
    error = leakage_error(leaks, scored=20)
    assert error.exit_code == 2
    assert "14 of 20 images" in error.problem
    assert "3 as an image, 11 through the patient" in error.problem
    assert error.where is not None
    assert error.where.count("films/") == 10
    assert error.where.endswith("and 4 more")
    assert "--allow-leakage" in str(error)
