"""Made-up figures of a shortcut audit, and a bundle that reads brightness alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pneumoscope.core.records import Label, Preprocessing, Verdict
from pneumoscope.evaluation.shortcut_maps import STEPS, MapFigures
from pneumoscope.evaluation.shortcut_probes import shortcut_probes
from pneumoscope.evaluation.stress import StressTable
from tests.evaluation.films import sample
from tests.evaluation.test_shortcut_lungs import masks_of, rectangles

FILMS = 40


def made_up_probes() -> tuple:
    return shortcut_probes(masks_of(rectangles()), Preprocessing(64, "squash", "percentile"))


def made_up_table(columns: dict[str, np.ndarray] | None = None, **facts: Any) -> StressTable:
    """40 images, every second ill, of two folds; right everywhere but in the given columns."""
    ill = np.arange(FILMS) % 2 == 1
    samples = tuple(sample(n, Label.VIRAL if ill[n] else Label.NORMAL, **facts) for n in range(FILMS))
    names = ("unchanged", *(probe.name for probe in made_up_probes()))
    right = np.where(ill, 0.9, 0.1) + np.arange(FILMS) / 1000
    values = np.stack([(columns or {}).get(name, right) for name in names], axis=1)
    verdicts = tuple((Verdict.ANSWER,) * len(names) for _ in range(FILMS))
    examiners = ("fold-0",) * 20 + ("fold-1",) * 20
    return StressTable(samples, names, examiners, np.full(FILMS, 0.5), values, verdicts)


def made_up_maps() -> tuple[MapFigures, ...]:
    """Two images: maps with 60 % and 40 % of their evidence in lungs of 25 %."""
    falling, rising = np.linspace(1, 0, STEPS + 1), np.linspace(0, 1, STEPS + 1)
    curves = {"deletion": falling**2, "random deletion": falling, "insertion": rising,
              "random insertion": rising**2}  # fmt: skip
    one = MapFigures(
        sample(1), "fold-0", "class-activation", energy=0.6, lungs=0.25, wide_energy=0.8, wide=0.5,
        agreement=(0.5, 0.6), curves=curves,
    )  # fmt: skip
    return one, replace(one, sample=sample(3), energy=0.4)
