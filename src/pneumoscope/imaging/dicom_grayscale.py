"""Grey-scale transformation of DICOM: stored values to display values, in the order that the standard gives.

    modality LUT or rescale -> VOI LUT or window -> MONOCHROME1 inversion / Presentation LUT Shape

Every stage maps one number to one number, so the chain runs over the stored *levels* (at most 65,536) in
float64 and the image is one look-up in the result. Look-up tables are applied here and not through pydicom
3.0, whose ``apply_voi`` and ``apply_modality_lut`` wrap an index above 255 into a table of 8-bit entries,
refuse a negative first value for unsigned pixels, and round nothing after a rescale.
Sources: PS3.3 C.7.6.3.1.2, C.7.5.1.1.2, C.11.1, C.11.2, C.11.6; PS3.4 N.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.findings import Finding
from pneumoscope.core.records import FloatArray
from pneumoscope.imaging.header import numbers

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Levels = npt.NDArray[np.float64]

# Where an image has no window: the same percentiles as core.records.Preprocessing, so that the exposure
# normalisation which follows finds nothing left to do.
_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, slots=True)
class LookupTable:
    """A table of PS3.3 C.11.1.1.1: input ``first`` maps to ``values[0]``, outside the ends are repeated.

    Attributes:
        first: first input value mapped.
        values: outputs, float64.
        bits: bits of an output; the full scale is 2**bits - 1.
    """

    first: int
    values: Levels
    bits: int

    def __call__(self, levels: Levels) -> Levels:
        """Outputs for ``levels``, which are rounded to the nearest integer."""
        index = np.rint(levels).astype(np.int64) - self.first
        return self.values[np.clip(index, 0, len(self.values) - 1)]

    @classmethod
    def of(cls, descriptor: Sequence[int], data: Any, *, little_endian: bool, signed: bool) -> LookupTable:
        """The table of a LUT Descriptor and its LUT Data (numbers, or the bytes of an OW element).

        Raises:
            ValueError: there are fewer entries than the descriptor says.
        """
        count = (int(descriptor[0]) & 0xFFFF) or 65536  # 0 stands for 65,536
        first, bits = int(descriptor[1]), int(descriptor[2])
        if signed and first > 32767:
            first -= 65536
        if isinstance(data, bytes):
            # 8-bit entries may be packed two to a word (PS3.3 C.11.1.1.1).
            packed = len(data) < 2 * count
            kind = "u1" if packed else ("<u2" if little_endian else ">u2")
            values = np.frombuffer(data, dtype=kind, count=len(data) // np.dtype(kind).itemsize)
        else:
            values = np.asarray(data, dtype=np.int64) & 0xFFFF
            if bits <= 8 and len(values) == (count + 1) // 2 < count:
                values = np.stack([values & 0xFF, values >> 8], axis=1).ravel()
        if len(values) < count:
            raise ValueError(f"a look-up table has {len(values)} entries, its descriptor says {count}")
        values = values[:count]
        return cls(first, values.astype(np.float64), max(bits, int(values.max()).bit_length()))


def to_display(stored: npt.NDArray[Any], dataset: Dataset) -> tuple[FloatArray, list[Finding]]:
    """Pixels (H, W) float32 in [0, 1], bright = dense, and findings.

    Args:
        stored: (H, W) integers as stored.
        dataset: its data set, MONOCHROME1 or MONOCHROME2.

    Pixel Padding Value (and Range Limit) becomes black, and takes no part in the percentiles.

    Raises:
        ValueError: a look-up table is shorter than its descriptor.
    """
    lowest = int(stored.min())
    index = stored.astype(np.int64) - lowest
    counts = np.bincount(index.ravel())
    stored_levels = np.arange(lowest, lowest + len(counts))
    padding = _padding(stored_levels, dataset)
    if not (counts[~padding] > 0).any():
        padding = np.zeros_like(padding)
    seen = np.where(padding, 0, counts)
    values, notes = _modality(stored_levels.astype(np.float64), dataset)
    display, more = _voi(values, seen, dataset)
    inverse, conflict = _is_inverse(dataset)
    display = 1.0 - display if inverse else display
    display[padding] = 0.0
    return display.astype(np.float32)[index], notes + more + conflict


def palette_to_rgb(stored: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.float64]:
    """Indices (H, W) of a PALETTE COLOR picture to RGB (H, W, 3) in [0, 1] (PS3.3 C.7.6.3.1.5).

    Raises:
        ValueError: there is no plain palette in the data set (segmented ones are not read).
    """
    channels = []
    for colour in ("Red", "Green", "Blue"):
        descriptor = dataset.get(f"{colour}PaletteColorLookupTableDescriptor")
        data = dataset.get(f"{colour}PaletteColorLookupTableData")
        if descriptor is None or data is None:
            raise ValueError("the palette of the picture is missing or segmented")
        table = LookupTable.of(
            descriptor, data, little_endian=_little_endian(dataset), signed=_signed(dataset)
        )
        channels.append(table(stored.astype(np.float64)) / (2**table.bits - 1))
    return np.stack(channels, axis=-1)


def window(values: Levels, center: float, width: float, function: str = "LINEAR") -> Levels:
    """Window Center and Width to [0, 1] (PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2).

    Args:
        values: outputs of the modality stage.
        function: VOI LUT Function: LINEAR, LINEAR_EXACT or SIGMOID.

    Raises:
        ValueError: the width is below 1 (LINEAR), not positive (the others), or the function is unknown.
    """
    if not np.isfinite([center, width]).all() or width < (1 if function == "LINEAR" else np.nextafter(0, 1)):
        raise ValueError(f"window width {width:g} is out of range for {function}")
    if function == "LINEAR":
        if width == 1:
            return np.where(values > center - 0.5, 1.0, 0.0)
        return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    raise ValueError(f"VOI LUT Function '{function}' is unknown")


def _little_endian(dataset: Dataset) -> bool:
    return bool(dataset.file_meta.TransferSyntaxUID.is_little_endian)


def _signed(dataset: Dataset) -> bool:
    return int(dataset.get("PixelRepresentation") or 0) == 1


def _table(item: Dataset, dataset: Dataset) -> LookupTable | None:
    """The table of an item of a LUT sequence; None when the item lacks it."""
    if item.get("LUTDescriptor") is None or item.get("LUTData") is None:
        return None
    return LookupTable.of(
        item.LUTDescriptor, item.LUTData, little_endian=_little_endian(dataset), signed=_signed(dataset)
    )


def _modality(levels: Levels, dataset: Dataset) -> tuple[Levels, list[Finding]]:
    """PS3.3 C.11.1: a table where there is one, else slope and intercept, else the levels themselves."""
    if sequence := dataset.get("ModalityLUTSequence"):
        table = _table(sequence[0], dataset)
        if table is not None:
            return table(levels), []
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if slope == 0:
        return levels, [Finding.note("rescale-slope-zero")]
    return levels * (1.0 if slope is None else slope) + (intercept or 0.0), []


def _voi(values: Levels, counts: npt.NDArray[np.int64], dataset: Dataset) -> tuple[Levels, list[Finding]]:
    """PS3.3 C.11.2: the first table, else the first window, else percentiles of what the image holds."""
    notes: list[Finding] = []
    if sequence := dataset.get("VOILUTSequence"):
        table = _table(sequence[0], dataset)
        if table is not None:
            return table(values) / (2**table.bits - 1), notes
    try:
        display = _windowed(values, counts, dataset)
    except ValueError as error:
        notes.append(Finding.note("window-ignored", reason=str(error)))
        display = None
    return (_percentile_window(values, counts) if display is None else display), notes


def _windowed(values: Levels, counts: npt.NDArray[np.int64], dataset: Dataset) -> Levels | None:
    """The image in its first window; None when it has none.

    Raises:
        ValueError: the window is impossible, or different values of the image all come out alike in it.
    """
    center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if center is None or width is None:
        return None
    display = window(values, center, width, str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper())
    present = counts > 0
    if np.ptp(values[present]) > 0 and np.ptp(display[present]) == 0:
        raise ValueError(f"the window (center {center:g}, width {width:g}) shows nothing of the image")
    return display


def _percentile_window(values: Levels, counts: npt.NDArray[np.int64]) -> Levels:
    """Map the image's own 0.5th and 99.5th percentiles to 0 and 1; a blank image becomes 0."""
    low, high = np.quantile(
        values, [p / 100 for p in _PERCENTILES], weights=counts.astype(np.float64), method="inverted_cdf"
    )
    if high <= low:
        low, high = values[counts > 0].min(), values[counts > 0].max()
    if high <= low:
        return np.zeros_like(values)
    display: Levels = np.clip((values - low) / (high - low), 0, 1)
    return display


def _is_inverse(dataset: Dataset) -> tuple[bool, list[Finding]]:
    """True when low values are bright.

    Presentation LUT Shape INVERSE goes with MONOCHROME1 and says the same thing (PS3.3 C.8.11.3.1.2); the
    image is inverted once. Where they contradict each other the shape, which is the last stage, is followed.
    """
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1"
    shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
    if shape not in ("IDENTITY", "INVERSE") or (shape == "INVERSE") == inverse:
        return inverse, []
    tag = str(dataset.PhotometricInterpretation)
    return shape == "INVERSE", [
        Finding.note("presentation-shape-contradiction", shape=shape, photometric_interpretation=tag)
    ]


def _padding(levels: npt.NDArray[np.int64], dataset: Dataset) -> npt.NDArray[np.bool_]:
    """Which stored levels are padding (PS3.3 C.7.5.1.1.2)."""
    value = _number(dataset, "PixelPaddingValue")
    if value is None:
        return np.zeros(len(levels), dtype=bool)
    limit = _number(dataset, "PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    if _signed(dataset) and low > 32767:  # written as unsigned by mistake
        low, high = low - 65536, high - 65536
    return (levels >= low) & (levels <= high)


def _number(dataset: Dataset, keyword: str) -> float | None:
    """The first value of a numeric element; None when it is absent or empty."""
    return next(iter(numbers(dataset, keyword)), None)
