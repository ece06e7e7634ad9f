"""Made-up predictions for the tests of the evaluation layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pneumoscope.core.files import sha256_bytes
from pneumoscope.core.records import Label, Sample, Task
from pneumoscope.evaluation.predictions import PredictionTable, tabulate

LABELS = (Label.NORMAL, Label.BACTERIAL, Label.VIRAL)


def sample(number: int, label: Label = Label.NORMAL, patient: str | None = None, **facts: object) -> Sample:
    patient = f"patient-{number}" if patient is None else patient
    digest = sha256_bytes(f"image {number}".encode())
    return Sample(f"films/{number:05d}.png", digest, patient, patient, label, **facts)  # type: ignore[arg-type]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def draw_samples(n: int, seed: int = 0, films_a_patient: int = 2) -> list[Sample]:
    """Patients of one class each, one normal to one bacterial to one viral, with age and sex."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(3, size=n)
    return [
        sample(
            number,
            LABELS[classes[number // films_a_patient]],
            f"patient-{number // films_a_patient}",
            age_years=float(number % 30),
            sex="FM"[number % 2],
        )
        for number in range(n)
    ]


def draw_table(
    n: int, seed: int = 0, *, skill: float = 2.0, task: Task = Task.THREE_CLASS
) -> PredictionTable:
    """Predictions of a network whose own class stands out by ``skill``; the larger, the better."""
    samples = draw_samples(n, seed)
    rng = np.random.default_rng(seed + 1)
    logits = rng.normal(size=(n, len(task.classes)))
    logits[np.arange(n), [task.target(one.label) for one in samples]] += skill
    return tabulate(samples, task, logits, softmax(logits))


def binary_table(
    probability: Sequence[float], positive: Sequence[bool], patients: Sequence[str] | None = None
):
    """A binary table with given probabilities of pneumonia."""
    p = np.asarray(probability, dtype=float)
    samples = [
        sample(number, Label.PNEUMONIA if ill else Label.NORMAL, patients[number] if patients else None)
        for number, ill in enumerate(positive)
    ]
    both = np.column_stack([1 - p, p])
    return tabulate(samples, Task.BINARY, np.log(np.clip(both, 1e-9, 1)), both)
