"""The patient of a Guangzhou file name, for leak checks and, more coarsely, for splits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pneumoscope.core.records import Label
from pneumoscope.data.patients import guangzhou_etiology, guangzhou_patient


@pytest.mark.parametrize(
    ("stem", "full", "group"),
    [
        ("NORMAL2-IM-0095-0001", "NORMAL2-IM-0095", "NORMAL2-IM-0095"),
        ("IM-0115-0001", "IM-0115", "IM-0115"),
        ("IM-0500-0001-0002", "IM-0500", "IM-0500"),
        ("NORMAL2-IM-0587-0001-0002", "NORMAL2-IM-0587", "NORMAL2-IM-0587"),
        ("person1_bacteria_1", "person1_bacteria", "person1"),
        ("person1_virus_6", "person1_virus", "person1"),
        ("person1438_virus_2468_1", "person1438_virus", "person1438"),
        ("BACTERIA-1008087-0001", "BACTERIA-1008087", "patient-1008087"),
        ("VIRUS-1008087-0002", "VIRUS-1008087", "patient-1008087"),
        ("NORMAL-1049278-0001", "NORMAL-1049278", "patient-1049278"),
    ],
)
def test_guangzhou_keys(stem: str, full: str, group: str) -> None:
    patient = guangzhou_patient(stem)
    assert (patient.full, patient.group, patient.recognised) == (full, group, True)


def test_the_prefix_tells_patients_of_one_number_apart() -> None:
    assert guangzhou_patient("IM-0115-0001").full != guangzhou_patient("NORMAL2-IM-0115-0001").full


@pytest.mark.parametrize("stem", ["00000129_000", "person1", "IM-0115", "xNORMAL2-IM-0095-0001", ""])
def test_an_unknown_name_is_its_own_patient(stem: str) -> None:
    patient = guangzhou_patient(stem)
    assert (patient.full, patient.group, patient.recognised) == (stem, stem, False)


@pytest.mark.parametrize(
    ("stem", "label"),
    [
        ("person1_bacteria_1", Label.BACTERIAL),
        ("person1_virus_6", Label.VIRAL),
        ("VIRUS-1980593-0001", Label.VIRAL),
        ("BACTERIA-1008087-0001", Label.BACTERIAL),
        ("NORMAL-1049278-0001", None),
        ("IM-0115-0001", None),
    ],
)
def test_etiology(stem: str, label: Label | None) -> None:
    assert guangzhou_etiology(stem) is label


@pytest.mark.films
def test_patients_of_the_real_names() -> None:
    root = os.environ.get("PNEUMOSCOPE_DATA")
    if not root:
        pytest.skip("PNEUMOSCOPE_DATA is not set")
    patients = [guangzhou_patient(file.stem) for file in Path(root, "kermany224").rglob("*.jpeg")]
    assert len(patients) == 5216
    assert all(patient.recognised for patient in patients)
    assert len({patient.group for patient in patients}) == 2846
