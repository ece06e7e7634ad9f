"""The records that pass from stage to stage; each is frozen, its arrays are read-only.

A stage returns a new record rather than changing one.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import MissingExtraError
from pneumoscope.core.findings import Finding, messages

FloatArray = npt.NDArray[np.float32]

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)`` by long work; the command line draws the bar."""


def freeze(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Mark ``array`` read-only and return it."""
    array.setflags(write=False)
    return array


class Label(StrEnum):
    """What the reference standard says about an image."""

    NORMAL = "normal"
    BACTERIAL = "bacterial"
    VIRAL = "viral"
    PNEUMONIA = "pneumonia-unspecified"


class Task(StrEnum):
    """What a network tells apart."""

    BINARY = "binary"
    THREE_CLASS = "three-class"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the network's logits; the first is always ``normal``."""
        return ("normal", "pneumonia") if self is Task.BINARY else ("normal", "bacterial", "viral")

    def target(self, label: Label) -> int | None:
        """Index of ``label`` among :attr:`classes`; None when the label is too coarse for the task."""
        if label is Label.NORMAL:
            return 0
        if self is Task.BINARY:
            return 1
        return {Label.BACTERIAL: 1, Label.VIRAL: 2}.get(label)


class Verdict(StrEnum):
    """The gate's answer to *should we answer at all?*"""

    ANSWER = "ANSWER"
    WARN = "ANSWER WITH WARNING"
    REFUSE = "REFUSE"


class Decision(StrEnum):
    """The answer at an operating point."""

    POSITIVE = "POSITIVE"
    NEGATIVE = "NEGATIVE"
    ABSTAIN = "ABSTAIN"


class Etiology(StrEnum):
    """The likelier cause, given pneumonia."""

    BACTERIAL = "BACTERIAL"
    VIRAL = "VIRAL"
    UNCERTAIN = "UNCERTAIN"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a data set: a row of the manifest.

    Attributes:
        path: file, relative to the data set's root, with forward slashes.
        sha256: hash of the file's content.
        patient_id: the full patient key; two images with the same key show the same patient.
        group_id: images that share it are never parted by a split of ours (the conservative key).
        label: reference standard.
        publisher_split: ``train``, ``val`` or ``test`` as the publisher has it, or None.
        view: ``PA``, ``AP``, ``LATERAL`` or None; sex: ``F``, ``M`` or None; age in years.
        width, height: pixels of the source file; file_bytes: its length (audited as shortcuts).
    """

    path: str
    sha256: str
    patient_id: str
    group_id: str
    label: Label
    publisher_split: str | None = None
    view: str | None = None
    age_years: float | None = None
    sex: str | None = None
    site: str | None = None
    width: int | None = None
    height: int | None = None
    file_bytes: int | None = None


LUNG_SOURCE = 224
"""Least shortest side of an image whose lungs are looked for: a rib is seven pixels wide."""

CROP_MARGIN = 0.2
"""Margin round a crop in training, as a share of its side: zoom, rotation and shift seldom reach beyond."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a radiograph becomes a model input; it belongs to the bundle, never to the caller.

    Attributes:
        size: side S of the square model input, in pixels.
        fit: ``squash`` stretches both axes to S; ``letterbox`` keeps the aspect and pads with zeros;
            ``lungs`` crops to the box of both lungs and stretches that.
        exposure: ``percentile`` maps the given percentiles of the resized image or crop to 0 and 1; ``none``
            keeps the values.
        percentiles: lower and upper percentile of ``exposure``.
        segmenter: ONNX file of the lung segmenter of fit ``lungs``; None is the package's own.
    """

    size: int = 224
    fit: str = "squash"
    exposure: str = "percentile"
    percentiles: tuple[float, float] = (0.5, 99.5)
    segmenter: Path | None = field(default=None, compare=False)

    @property
    def source_size(self) -> int:
        """Shortest side, in pixels, that an image may be reduced to when it is decoded."""
        return self.size if self.fit != "lungs" else max(LUNG_SOURCE, 2 * self.size)

    @property
    def margin(self) -> int:
        """Model pixels round the crop that training keeps, so that augmentation can move it."""
        return 0 if self.fit != "lungs" else round(CROP_MARGIN * self.size)

    @property
    def context(self) -> int:
        """Side of what training keeps of an image, in pixels."""
        return self.size + 2 * self.margin


@dataclass(frozen=True, slots=True)
class Radiograph:
    """A decoded image.

    Attributes:
        pixels: (h, w) float32 in [0, 1], bright = dense (bone is white). h and w are the original size, or
            less when the file was decoded at reduced size.
        original_size: rows and columns of the image as stored (after EXIF rotation).
        pixel_spacing_mm: row and column spacing of the original grid in mm, or None.
        source: identifiers and facts of the source (format, modality, photometric interpretation, bits, ...).
        findings: what the header and the decoder have to say.
        sha256: of the file's content; None for pixels that came without a file.
    """

    pixels: FloatArray
    original_size: tuple[int, int]
    pixel_spacing_mm: tuple[float, float] | None = None
    source: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    findings: tuple[Finding, ...] = ()
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the model input lies on the image.

    Attributes:
        original_size: rows, columns of the image.
        input_size: side S of the model input.
        content: (top, left, height, width) of the image inside the model input, in model pixels; for
            ``squash`` and ``lungs`` (0, 0, S, S).
        box: (top, left, bottom, right) of the part of the image that is shown, as shares of its sides.
    """

    original_size: tuple[int, int]
    input_size: int
    content: tuple[int, int, int, int]
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def crop(self) -> tuple[int, int, int, int]:
        """The box in whole original pixels: first row and column, and those behind the last."""
        rows, columns = self.original_size
        top, left, bottom, right = self.box
        first = math.floor(top * rows), math.floor(left * columns)
        return (
            *first,
            max(first[0] + 1, math.ceil(bottom * rows)),
            max(first[1] + 1, math.ceil(right * columns)),
        )

    @property
    def scale(self) -> tuple[float, float]:
        """Model pixels per original pixel, (row, column)."""
        top, left, bottom, right = self.crop
        return self.content[2] / (bottom - top), self.content[3] / (right - left)

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Empty model pixels (top, left, bottom, right) round the image."""
        top, left, height, width = self.content
        return top, left, self.input_size - top - height, self.input_size - left - width


@dataclass(frozen=True, slots=True)
class LungField:
    """The lungs of a radiograph.

    Attributes:
        box: (top, left, bottom, right) of both lungs with a margin, as shares of the image's sides; the whole
            image where they were not found.
        state: ``found``; ``mended``, when one lung was completed by the other; ``not-found``.
        log_odds: (2, G, G) of each lung on a grid over the whole image, that on the picture's left first.
    """

    box: tuple[float, float, float, float]
    state: str
    log_odds: FloatArray


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What the network sees: array (1, S, S) float32 in [0, 1], how it lies on the image, and fit ``lungs``'
    lung field.
    """

    array: FloatArray
    geometry: Geometry
    lungs: LungField | None = None


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A named threshold on the calibrated probability of pneumonia, with what validation showed there."""

    name: str
    threshold: float
    sensitivity: float | None = None
    specificity: float | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """Whether to answer, why (refusals before warnings), and the scores behind it (feature distance, ...)."""

    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    scores: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def reasons(self) -> tuple[str, ...]:
        """The findings in English."""
        return messages(self.findings)


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """The answers that cannot be excluded at an error rate: none, one or both."""

    answers: tuple[str, ...]
    error_rate: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """A network's answer about one image.

    Attributes:
        logits: raw outputs in the order of ``Task.classes``.
        probabilities: calibrated, by class name; they sum to 1.
        probability: calibrated probability of pneumonia, 1 - probabilities["normal"].
        etiology: None when pneumonia is not likely or the bundle is binary.
        findings: why ABSTAIN or UNCERTAIN, and that POSITIVE rests on the threshold alone.
        answer_set: which of normal and pneumonia cannot be excluded; None where the bundle does not say.
        etiology_set: which of bacterial and viral; None for an image that is not positive, too.
        interval: 95 % interval of ``probability``, as far as the calibration is known; None where the bundle
            does not say.
    """

    logits: tuple[float, ...]
    probabilities: Mapping[str, float]
    probability: float
    operating_point: OperatingPoint
    decision: Decision
    etiology: Etiology | None
    findings: tuple[Finding, ...]
    bundle_id: str
    answer_set: AnswerSet | None = None
    etiology_set: AnswerSet | None = None
    interval: tuple[float, float] | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """The findings in English."""
        return messages(self.findings)


@dataclass(frozen=True, slots=True)
class NearestCase:
    """A training image that the network finds alike; nothing in it names a patient.

    Attributes:
        film: the first 16 hexadecimal digits of the SHA-256 of its file.
        label: its class, as the network learnt it.
        similarity: cosine between the codes of both images' features, -1 to 1; 1 for the same image.
        path: of the image in a local data set, or None.
    """

    film: str
    label: str
    similarity: float
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where on the image the evidence lies, and which training images look alike.

    Attributes:
        heat_map: (H, W) float32 in [0, 1] on the original pixel grid, of ``target``.
        method: how it was made.
        target: the likelier pneumonia class.
        heat_maps: the maps of all pneumonia classes by name, each like ``heat_map``.
        zones: share of the evidence in each zone, ``right upper`` to ``left lower`` (the patient's sides);
            empty for an image that is called negative.
        outside_lungs: share outside the lungs; None where the lungs were not found.
        findings: the same as sentences, in their order.
        nearest: the most similar training images, the nearest first; None where the bundle keeps none.
        mirrored: the file says that the patient's left is on the left of the picture; None: it says nothing.
    """

    heat_map: FloatArray
    method: str
    target: str
    heat_maps: Mapping[str, FloatArray] = field(default_factory=lambda: MappingProxyType({}))
    zones: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    outside_lungs: float | None = None
    findings: tuple[Finding, ...] = ()
    nearest: tuple[NearestCase, ...] | None = None
    mirrored: bool | None = None

    @property
    def sentence(self) -> str:
        """The findings in English, one sentence after the other."""
        return " ".join(messages(self.findings))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval, the count behind it and the interval's method."""

    value: float
    low: float
    high: float
    n: int
    method: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of one scoring.

    Attributes:
        n: images; patients: distinct patients among them.
        prevalence: share with pneumonia.
        estimates: by metric name.
        by_subgroup: subgroup (``sex=F``, ...) -> metric name -> estimate.
        confusion: rows are the reference, columns the decision, in the order of ``classes``.
        dataset_hash: of the manifest that was scored.
        protocol: how the images were chosen, in words (publisher's split, re-split, cross-validation).
        contaminated: True when training images were scored under ``--allow-leakage``.
    """

    n: int
    patients: int
    prevalence: float
    classes: tuple[str, ...]
    estimates: Mapping[str, Estimate]
    by_subgroup: Mapping[str, Mapping[str, Estimate]]
    confusion: tuple[tuple[int, ...], ...]
    operating_point: OperatingPoint
    dataset_hash: str
    protocol: str
    contaminated: bool = False


def data_frame(rows: Sequence[Mapping[str, Any]], columns: list[str] | None = None) -> Any:
    """``rows`` as a ``pandas.DataFrame``; pandas is imported here only.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise MissingExtraError("to_frame needs pandas", remedy="pip install pandas") from error
    return pandas.DataFrame(rows, columns=columns)
