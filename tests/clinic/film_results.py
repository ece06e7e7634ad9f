"""Results of images, made without a network: grey shades, a heat map, and a header as devices write it."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from pneumoscope.core.findings import Finding, to_dict
from pneumoscope_clinic.results.stored_result import StoredResult
from tests.imaging.dicom_builder import radiograph, ramp

FILM_ID = "0123456789abcdef0123456789abcdef"
EXAMINED = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ROWS, COLUMNS = 120, 100
ESTIMATE = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 50, "method": "Wilson"}


def header(**elements: Any) -> Dataset:
    """A computed radiograph's header without pixels; ``elements`` are set, or removed when None."""
    dataset = radiograph(ramp(12, shape=(ROWS, COLUMNS)), 12)
    del dataset.PixelData
    values = {
        "PatientName": "Doe^Jane", "PatientBirthDate": "20200102", "StudyDate": "20260304",
        "StudyTime": "101112", "AccessionNumber": "A-1", "StudyID": "7",
        "ReferringPhysicianName": "House^Greg", "IssuerOfPatientID": "CLINIC",
        "WindowCenter": "2048", "WindowWidth": "4096",
        **elements,
    }  # fmt: skip
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)
    return dataset


def findings(*found: Finding) -> list[dict[str, Any]]:
    """As they stand in a document."""
    return [to_dict(one) for one in found]


def record(**changes: Any) -> dict[str, Any]:
    """A positive answer; ``changes`` replace keys."""
    return {
        "file": "jane-doe.dcm", "sha256": "0" * 64,
        "gate": {"verdict": "ANSWER", "reasons": [], "scores": {}},
        "probability": 0.9, "probabilities": {"normal": 0.1, "bacterial": 0.6, "viral": 0.3},
        "decision": "POSITIVE", "abstained_by": None,
        "answer_set": {"answers": ["pneumonia"], "error_rate": 0.025}, "etiology": "UNCERTAIN",
        "etiology_set": {"answers": ["bacterial", "viral"], "error_rate": 0.15},
        "operating_point": "balanced", "threshold": 0.6,
        "reasons": ["neither bacterial nor viral can be excluded at an error rate of 15 %"],
        "schema_version": 1,
        "findings": findings(
            Finding.note("both-causes-fit", error_rate=0.15),
            Finding.note("evidence-one-zone", kind="bacterial pneumonia", zone1="right lower", share1=0.8),
        ),
        "forced": False, "bundle": "tiny@0123456789ab",
        "explanation": {
            "sentence": "The evidence for bacterial pneumonia is strongest in the right lower zone (80%).",
            "target": "bacterial", "method": "occlusion", "zones": {"right lower": 0.8},
            "outside_lungs": 0.1, "mirrored": None, "nearest": None,
        },
        "heatmap": None, "warnings": [], "error": None,
        "limitations": ["It knows nothing about pneumonia."],
        "versions": {"pneumoscope": "0.1.0", "numpy": "2"},
        **changes,
    }  # fmt: skip


CARD = {
    "id": "tiny@0123456789ab", "default_operating_point": "balanced", "intended_use": "Tests.",
    "validation": {"sensitivity": ESTIMATE, "specificity": ESTIMATE, "ece": ESTIMATE},
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "gate": {"verdict": "REFUSE", "reasons": ["the image is noise"], "scores": {}},
    "probability": None, "probabilities": None, "decision": "ABSTAIN", "abstained_by": "gate",
    "answer_set": None, "etiology": None, "etiology_set": None, "operating_point": None, "threshold": None,
    "reasons": ["the image is noise"], "explanation": None,
    "findings": findings(Finding.refusal("noise")),
}  # fmt: skip
ABSTAINED: dict[str, Any] = {
    "probability": 0.4, "decision": "ABSTAIN", "abstained_by": "selection", "etiology": None,
    "answer_set": {"answers": ["normal", "pneumonia"], "error_rate": 0.025}, "etiology_set": None,
    "reasons": ["neither answer can be excluded at an error rate of 2.5 %"],
    "findings": findings(
        Finding.note("both-answers-fit", error_rate=0.025),
        Finding.note("evidence-one-zone", kind="bacterial pneumonia", zone1="right lower", share1=0.8),
    ),
}  # fmt: skip
NEGATIVE: dict[str, Any] = {
    "probability": 0.02, "decision": "NEGATIVE", "etiology": None, "etiology_set": None, "reasons": [],
    "findings": findings(Finding.note("no-zone")),
    "answer_set": {"answers": ["normal"], "error_rate": 0.025},
}  # fmt: skip


def film_result(source: Dataset | None = None, **changes: Any) -> StoredResult:
    """A result of :func:`record` with a round heat map centred at 3/4 of the height, 1/4 of the width."""
    row, column = np.mgrid[0:1:30j, 0:1:25j]
    heat = np.exp(-((row - 0.75) ** 2 + (column - 0.25) ** 2) / 0.02)
    maps = {"bacterial": np.rint(255 * heat).astype(np.uint8), "viral": np.zeros((30, 25), np.uint8)}
    answer = record(**changes)
    return StoredResult(
        film_id=FILM_ID,
        document=answer,
        bundle_card=CARD,
        image=np.rint(np.linspace(20, 200, ROWS * COLUMNS)).astype(np.uint8).reshape(ROWS, COLUMNS),
        original_size=(ROWS, COLUMNS),
        heat_maps={} if answer["explanation"] is None else maps,
        examined_at=EXAMINED,
        header=source,
    )


def refused(source: Dataset | None = None) -> StoredResult:
    return film_result(source, **REFUSED)


def violations(dataset: Dataset, folder: Path, sources_own: str = "") -> list[str]:
    """Error lines of dciodvfy about ``dataset``, except those that quote ``sources_own``, a UID of it."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("needs dciodvfy (Debian: dicom3tools)")
    file = folder / "result.dcm"
    dataset.save_as(file, enforce_file_format=True)
    found = subprocess.run(
        [program, str(file)], capture_output=True, text=True, errors="replace", check=False
    )
    errors = re.findall(r"^Error - .*$", found.stdout + found.stderr, flags=re.MULTILINE)
    if sources_own:
        own = [line for line in errors if f'"{sources_own}"' in line or f"<{sources_own}>" in line]
        summary = "Error - Dicom dataset contains invalid data values for Value Representations"
        errors = [line for line in errors if line not in own and not (own and line == summary)]
    return errors
