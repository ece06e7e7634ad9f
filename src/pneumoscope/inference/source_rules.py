"""Rules that need no training: what a film's file says about itself, and what its pixels cannot be.

In: a decoded film. Out: findings, each a verdict and a sentence for a clinician.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import FloatArray, Radiograph, Verdict
from pneumoscope.imaging.color import COLOR_WARNING
from pneumoscope.imaging.polarity import looks_inverted

Finding = tuple[Verdict, str]

# Modality, PS3.3 C.7.3.1.1.1. DR is not a defined term but common in the field.
PROJECTION_MODALITIES = frozenset({"CR", "DX", "RG", "DR"})
UNDECIDED_MODALITIES = frozenset({"", "OT", "SC"})
CHEST_WORDS = ("CHEST", "THORAX", "LUNG", "RIB", "PULM")  # PS3.16 annex L, and what devices write
LATERAL_VIEWS = frozenset({"LL", "RL", "LATERAL", "LAT"})  # PS3.3 C.8.1.1.1.2, and what devices write
DECUBITUS_OR_OBLIQUE = frozenset({"RLD", "LLD", "RLO", "LLO"})

ADULT = 18.0
"""Years from which a patient is an adult (UN Convention on the Rights of the Child, article 1)."""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is known of whom the film shows, beside the film.

    Attributes:
        age_years: as the user says; None: as the file says, if it does.
        usual_ages: lowest and highest age of the training films in years, or None.
    """

    age_years: float | None = None
    usual_ages: tuple[float, float] | None = None


# The pixel rules are coarse on purpose: measured over the films and the other pictures of the project's
# development data, each leaves a wide gap on both sides.
MIN_CONTRAST = 0.05
"""Least difference between the 1st and the 99th percentile; a black or white frame has none."""
MIN_NEIGHBOUR_CORRELATION = 0.6
"""Least correlation of neighbouring cells of a 64 x 64 reduction: anatomy is smooth, noise is not."""
MIN_GREY_LEVELS = 16
"""Fewer levels than this are a drawing, a mask or a chart."""


def inspect_source(
    radiograph: Radiograph, input_size: int, patient: Patient | None = None
) -> tuple[Finding, ...]:
    """Everything that speaks against answering, from the source alone.

    Args:
        radiograph: the film.
        input_size: side of the network's input in pixels.
        patient: whom it shows, and whom the network knows.

    Returns:
        Findings, verdict REFUSE or WARN; none when nothing is wrong. Polarity is judged only in what can
        be a chest film.
    """
    findings = [
        *_file_findings(radiograph),
        *_age_findings(radiograph, patient or Patient()),
        *_pixel_findings(radiograph, input_size),
    ]
    refused = any(verdict is Verdict.REFUSE for verdict, _ in findings)
    if not refused and looks_inverted(radiograph.pixels):
        findings.append(
            (Verdict.WARN, "the picture looks like a negative (bright lungs); check its polarity")
        )
    return tuple(findings)


def _file_findings(radiograph: Radiograph) -> Iterator[Finding]:
    source = radiograph.source
    modality = source.get("modality", "").upper()
    if source.get("format") == "DICOM" and modality not in PROJECTION_MODALITIES:
        if modality in UNDECIDED_MODALITIES:
            yield Verdict.WARN, "the file does not say that it is a radiograph"
        else:
            yield (
                Verdict.REFUSE,
                f"the file says that its modality is {modality}, not a projection radiograph",
            )
    part = source.get("body_part", "").upper()
    if part and not any(word in part for word in CHEST_WORDS):
        yield Verdict.REFUSE, f"the file says that it shows {part.lower()}, not the chest"
    view = source.get("view_position", "").upper()
    if view in LATERAL_VIEWS:
        yield Verdict.REFUSE, "the file says that it is a lateral view; the network knows frontal views only"
    if view in DECUBITUS_OR_OBLIQUE:
        yield Verdict.WARN, f"the file says that it is a decubitus or oblique view ({view})"


def _age_findings(radiograph: Radiograph, patient: Patient) -> Iterator[Finding]:
    if patient.usual_ages is None:
        return
    from pneumoscope.data.tables import to_age

    age = patient.age_years
    if age is None:
        age = to_age(radiograph.source.get("patient_age", ""))
    low, high = patient.usual_ages
    if age is None or low <= age <= high:
        return
    learnt = f"the network learnt from patients of {low:g} to {high:g} years"
    if age >= ADULT > high:
        yield Verdict.REFUSE, f"the patient is an adult ({age:g} years); {learnt}"
    else:
        yield Verdict.WARN, f"the patient is {age:g} years old; {learnt}"


def _pixel_findings(radiograph: Radiograph, input_size: int) -> Iterator[Finding]:
    pixels, shortest = radiograph.pixels, min(radiograph.original_size)
    levels = _histogram(pixels)
    if _contrast(levels) < MIN_CONTRAST:
        yield Verdict.REFUSE, "the picture is blank"
        return
    if shortest < input_size / 4:
        yield Verdict.REFUSE, f"the picture is too small to read ({shortest} pixels at its shorter side)"
    elif shortest < input_size / 2:
        yield Verdict.WARN, f"the picture is small ({shortest} pixels at its shorter side); detail is lost"
    if neighbour_correlation(pixels) < MIN_NEIGHBOUR_CORRELATION:
        yield Verdict.REFUSE, "the picture is noise"
    if np.count_nonzero(levels) < MIN_GREY_LEVELS:
        yield Verdict.REFUSE, "the picture has too few shades of grey for a radiograph"
    if COLOR_WARNING in radiograph.warnings:
        yield (
            Verdict.REFUSE,
            "the picture is in colour, and a radiograph has none; save a tinted film in grey",
        )


def _histogram(pixels: FloatArray) -> npt.NDArray[np.int64]:
    """Pixels at each of 256 grey levels; Pillow counts bytes several times faster than NumPy sorts floats."""
    from PIL import Image

    levels = np.rint(pixels * np.float32(255)).astype(np.uint8)
    return np.array(Image.fromarray(levels).histogram())


def _contrast(levels: npt.NDArray[np.int64]) -> float:
    """Difference of the 1st and 99th percentile in [0, 1], to the nearest grey level."""
    below = np.cumsum(levels)
    low, high = np.searchsorted(below, (0.01 * below[-1], 0.99 * below[-1]))
    return float(high - low) / 255


def neighbour_correlation(pixels: FloatArray) -> float:
    """Pearson correlation of horizontally neighbouring cells after reduction to 64 x 64 by area means."""
    from PIL import Image

    cells = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BOX), np.float64)
    if cells.std() == 0:
        return 0.0
    return float(np.corrcoef(cells[:, :-1].ravel(), cells[:, 1:].ravel())[0, 1])
