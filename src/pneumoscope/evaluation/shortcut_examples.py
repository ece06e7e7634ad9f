"""Films to look at: what the audit hid, what the network then said, and where its heat map lies.

In: films under the audit's probes, as they were asked about. Out: an :class:`ExampleFilm` each, which a
contact sheet shows; a figure of a thousand films is worth little before some of them were looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import Explanation, FloatArray, Label, Radiograph, Sample
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.shortcut_lungs import LungMasks
from pneumoscope.evaluation.stress_films import StressPlan, StressTable
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.imaging.stress import FilmChange
from pneumoscope.inference.pipeline import examine

EACH = 3
"""Films of each class on the sheet."""


@dataclass(frozen=True, slots=True)
class ExampleFilm:
    """One film under every probe.

    Attributes:
        sample: the film.
        radiograph: its pixels.
        lungs: (2, h, w) on its own grid.
        explanation: the heat map that the bundle shows.
        changed: by title, the film under each probe.
        probabilities: by title, ``Unchanged`` among them, the probability of pneumonia.
    """

    sample: Sample
    radiograph: Radiograph
    lungs: npt.NDArray[np.bool_]
    explanation: Explanation
    changed: Mapping[str, FloatArray]
    probabilities: Mapping[str, float]


def choose_examples(
    plan: StressPlan,
    table: StressTable,
    dataset: Dataset,
    masks: LungMasks,
    probes: Sequence[FilmChange],
    seed: int = 0,
) -> tuple[ExampleFilm, ...]:
    """At most :data:`EACH` films of each class, the first by hash, classes in their usual order.

    Raises:
        UnreadableFileError: a film cannot be read any more.
    """
    by_hash = sorted(range(len(table.samples)), key=lambda row: table.samples[row].sha256)
    rows = [
        row for label in Label for row in [row for row in by_hash if table.samples[row].label is label][:EACH]
    ]
    bundles = {examiner.name: examiner.bundle for examiner in plan.examiners}
    titles = ("Unchanged", *(probe.title for probe in probes))
    examples = []
    for row in rows:
        sample = table.samples[row]
        file = dataset.file(sample)
        film = read_radiograph(file)
        answer = examine(file, bundles[table.examiners[row]], force=True, radiograph=film)
        assert answer.explanation is not None  # a forced examination always explains
        examples.append(
            ExampleFilm(
                sample=sample,
                radiograph=film,
                lungs=np.stack([masks.lung(sample.sha256, side, film.pixels.shape) for side in (0, 1)]),
                explanation=answer.explanation,
                changed={p.title: p.apply(film.pixels, sample.sha256, seed) for p in probes},
                probabilities=dict(zip(titles, table.probabilities[row].tolist(), strict=True)),
            )
        )
    return tuple(examples)
