"""What the sandbox does with untrusted bytes: examine an image, or draw it.

An image is parsed and hashed once; what is returned holds no code: plain values and bytes.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import PneumoscopeError, UnreadableFileError
from pneumoscope.core.files import sha256_bytes
from pneumoscope.core.findings import Finding, Value
from pneumoscope.core.records import Radiograph
from pneumoscope.imaging.decoding import collected_warnings, library_findings
from pneumoscope.imaging.header import to_age
from pneumoscope.imaging.photograph import is_photograph, photographed_film
from pneumoscope.imaging.radiograph import image_format, read_radiograph
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.examination import Examination, record
from pneumoscope.inference.pipeline import examine
from pneumoscope_clinic.worker.deidentification import (
    coarse_age,
    deidentified,
    identifying_texts,
    identity_header,
    scrubbed,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

FILM_NAME = "film"
"""What an image is called in records and messages, whatever its file was called."""

MAP_SIDE = 512
"""Longest side of a stored heat map in pixels; the network's own map is far coarser."""

_STORED_FACTS = ("format", "modality", "body_part", "view_position", "laterality",
"photometric_interpretation",
                 "bits_stored", "manufacturer", "device", "transfer_syntax", "sop_class_uid")  # fmt: skip
_LONGEST_FACT, _LONGEST_PROBLEM = 64, 400
"""Characters; of a fact as of a value of the VR LO (PS3.5 table 6.2-1)."""
_SAME_AGE = 1.5
"""Years; what is stated in whole years may be a year off."""
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def examine_film(
    content: bytes, bundle: Bundle, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Take an image through the line.

    Args:
        content: its bytes.
        bundle: examines.
        options: ``age_years`` of a patient whose image does not say it, ``operating_point``, ``force``;
            absent or None as in ``examine``.
            ``photograph``: the picture is a photograph of a film, which is told by its EXIF, too.

    Returns:
        Plain values (``record``, ``facts``, ``drift``, ``names``, ``original_size``, ``age_years``, ``sex``)
        and bytes (``film`` de-identified; ``identity`` of DICOM; ``map:<class>``, raw uint8, of shape
        ``map_shape``).

    Raises:
        UnreadableFileError: the bytes are no readable image; its text does not name the patient.
    """
    try:
        return _examined(content, bundle, options)
    except PneumoscopeError as error:
        names = _names(content)
        texts = [None if text is None else scrubbed(text, names) for text in (error.expected, error.remedy)]
        problem = _QUOTED.sub("…", scrubbed(error.problem, names))[:_LONGEST_PROBLEM]
        cleaned = type(error)(problem, expected=texts[0], remedy=texts[1])
        cleaned.code = error.code
        cleaned.params = {
            name: _QUOTED.sub("…", scrubbed(value, names))[:_LONGEST_PROBLEM]
            if isinstance(value, str)
            else value
            for name, value in error.params.items()
        }
        raise cleaned from None


def _examined(
    content: bytes, bundle: Bundle, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    content, notes = _film_alone(content, bool(options.get("photograph")))
    dataset, library = _parsed(content)
    film = read_radiograph(content if dataset is None else dataset, min_size=bundle.preprocessing.source_size)
    if dataset is not None:
        film = replace(film, sha256=sha256_bytes(content), findings=(*film.findings, *library))
    age, contradiction = _age(film, options)
    header = {} if dataset is None else identity_header(dataset)
    names = identifying_texts(header)
    film = replace(film, findings=_anonymous((*film.findings, *notes, *contradiction), names))
    examination = examine(
        content,
        bundle,
        force=bool(options.get("force")),
        operating_point=options.get("operating_point"),
        age_years=age,
        radiograph=film,
    )
    blobs = {"film": deidentified(content if dataset is None else dataset, film.source["format"])}
    if header:
        blobs["identity"] = json.dumps(header).encode()
    shape = _add_maps(blobs, examination)
    values = {
        "record": _record(examination),
        "facts": _facts(film, names),
        "drift": drift_numbers(film, examination),
        "names": {
            key: film.source.get(key) for key in ("study_instance_uid", "sop_instance_uid", "patient_id")
        },
        "age_years": age,
        "sex": film.source.get("patient_sex") if film.source.get("patient_sex") in ("F", "M", "O") else None,
        "map_shape": shape,
    }
    return values, blobs


def draw_picture(content: bytes) -> npt.NDArray[np.uint8]:
    """The image for the eye, (H, W) uint8 on its original grid, bright = dense.

    Raises:
        UnreadableFileError: the bytes are no readable image.
    """
    return np.rint(read_radiograph(content).pixels * 255).astype(np.uint8)


def drift_numbers(film: Radiograph, examination: Examination) -> dict[str, float]:
    """What monitoring compares: exposure of the image (0 to 1), size in pixels, the gate's scores."""
    sample = film.pixels[::4, ::4]
    low, middle, high = (float(value) for value in np.percentile(sample, (5, 50, 95)))
    return {
        "exposure_low": low,
        "exposure_median": middle,
        "exposure_high": high,
        "mean": float(sample.mean()),
        "contrast": float(sample.std()),
        "rows": float(film.original_size[0]),
        "columns": float(film.original_size[1]),
        **{name: float(value) for name, value in examination.gate.scores.items()},
    }


def _film_alone(content: bytes, is_said: bool) -> tuple[bytes, tuple[Finding, ...]]:
    """The image on a photograph with a warning, or the image as it is."""
    if image_format(content) in (None, "DICOM") or not (is_said or is_photograph(content)):
        return content, ()
    return photographed_film(content), (Finding.note("photograph"),)


def _parsed(content: bytes) -> tuple[Dataset | None, list[Finding]]:
    """The data set of a DICOM file, and what the library says of it; None for an image of another kind."""
    if image_format(content) != "DICOM":
        return None, []
    from pneumoscope.imaging.dicom import parse_dataset

    try:
        with collected_warnings() as library:
            dataset = parse_dataset(content)
    except (UnreadableFileError, MemoryError):
        raise
    except Exception as error:  # a damaged file can fail anywhere in pydicom, with any exception
        raise UnreadableFileError.of("dicom-undecodable", reason=type(error).__name__) from error
    return dataset, library_findings("pydicom", library)


def _names(content: bytes) -> set[str]:
    """What a DICOM image may name its patient by, as far as its header can be read."""
    import pydicom

    if image_format(content) != "DICOM":
        return set()
    # pydicom raises many kinds of errors for many kinds of damage; what it cannot read it does not quote.
    with contextlib.suppress(Exception), collected_warnings():
        header = pydicom.dcmread(io.BytesIO(content), force=True, stop_before_pixels=True)
        return identifying_texts(identity_header(header))
    return set()


def _record(examination: Examination) -> dict[str, Any]:
    """The flat record with card, limits and versions."""
    row = record(Path(FILM_NAME), replace(examination, file=FILM_NAME))
    row["limitations"] = list(examination.limitations)
    row["versions"] = dict(examination.versions)
    return row


def _anonymous(findings: tuple[Finding, ...], names: set[str]) -> tuple[Finding, ...]:
    """Findings whose parameters do not name the patient, and do not quote the file where a library speaks."""

    def clean(finding: Finding, value: Value) -> Value:
        if not isinstance(value, str):
            return value
        text = scrubbed(value, names)
        return _QUOTED.sub("…", text) if finding.code == "library-warning" else text

    return tuple(
        replace(one, params={name: clean(one, value) for name, value in one.params.items()})
        for one in findings
    )


def _facts(film: Radiograph, names: set[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        name: scrubbed(film.source[name], names)[:_LONGEST_FACT]
        for name in _STORED_FACTS
        if name in film.source
    }
    facts["rows"], facts["columns"] = film.original_size
    if film.pixel_spacing_mm:
        facts["pixel_spacing_mm"] = list(film.pixel_spacing_mm)
    return facts


def _age(film: Radiograph, options: Mapping[str, Any]) -> tuple[float | None, tuple[Finding, ...]]:
    """Age in years, what the file says before what the request says, and a note where they contradict."""
    said, asked = to_age(film.source.get("patient_age", "")), options.get("age_years")
    if said is None:
        return None if asked is None else coarse_age(asked), ()
    said = coarse_age(said)
    if asked is None or abs(said - coarse_age(asked)) <= _SAME_AGE:
        return said, ()
    return said, (Finding.note("age-contradiction", age=said, stated=coarse_age(asked)),)


def _add_maps(blobs: dict[str, bytes], examination: Examination) -> list[int] | None:
    """Add the heat maps, reduced to at most MAP_SIDE pixels a side; returns their shape."""
    if examination.explanation is None:
        return None
    from PIL import Image

    shape = None
    maps = dict(examination.explanation.heat_maps) or {
        examination.explanation.target: examination.explanation.heat_map
    }
    for name, heat_map in maps.items():
        scale = min(1.0, MAP_SIDE / max(heat_map.shape))
        rows, columns = (max(1, round(side * scale)) for side in heat_map.shape)
        small = Image.fromarray(heat_map).resize((columns, rows), Image.Resampling.BOX)
        blobs[f"map:{name}"] = np.rint(np.clip(np.asarray(small), 0, 1) * 255).astype(np.uint8).tobytes()
        shape = [rows, columns]
    return shape


def encode_picture(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A picture (H, W) uint8 as JPEG for the screen."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=92)
    return out.getvalue()
