"""One-page report of a result as HTML or A4 PDF, in the reader's language.

It names no patient: it carries the study and image numbers by which the clinic finds the patient.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope import __version__
from pneumoscope.core.findings import Severity
from pneumoscope.inference.overlay import colours, overlay
from pneumoscope.reporting.pages import data_uri, environment, write_pdf
from pneumoscope_clinic.results.messages import (
    Translate,
    answer_sentence,
    evidence_sentence,
    image_messages,
    interval_sentence,
    reasons,
)
from pneumoscope_clinic.results.stored_result import StoredResult, on_grid

SIDE = 900
"""Longest side of a picture on the page in pixels: 270 dots an inch at the 85 mm it has on paper."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a reader said about the answer.

    Attributes:
        agrees: with the answer; None where only a diagnosis was given.
        diagnosis: the final one, in the words of the page.
        comment: free text.
        given_at: with a time zone.
    """

    agrees: bool | None
    diagnosis: str
    comment: str
    given_at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """What stands on the page beside the result.

    Attributes:
        study_id: our study number; None leaves it out.
        feedback: of the reader, if any.
        language: of ``texts``, as an HTML language tag.
        style_nonce: of the Content-Security-Policy under which the page is served; None for a file.
    """

    study_id: str | None = None
    feedback: Feedback | None = None
    language: str = "en"
    style_nonce: str | None = None


def film_report_html(result: StoredResult, translate: Translate = str, page: Page | None = None) -> str:
    """The page as HTML; every value is escaped, and what a template lacks is an error.

    Args:
        result: of any image, answered or not.
        translate: translates a message; ``str`` leaves English.
        page: what else stands on it.
    """
    page = page or Page()
    return (
        environment("pneumoscope_clinic.results")
        .get_template("film_report.html")
        .render(
            _=translate,
            page=page,
            result=result,
            record=result.document,
            version=__version__,
            examined_at=f"{result.examined_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
            answer=answer_sentence(result.document, translate),
            evidence=evidence_sentence(result.document, translate),
            interval=interval_sentence(result.document, translate),
            reasons=reasons(result.document, translate),
            notes=image_messages(result.document, translate, (Severity.NOTE,)),
            pictures=_pictures(result),
            point=_validated_point(result),
            calibration=result.bundle_card.get("validation", {}).get("ece"),
        )
    )


def film_report_pdf(result: StoredResult, translate: Translate = str, page: Page | None = None) -> bytes:
    """The page as an A4 PDF of one page.

    Args: as :func:`film_report_html`.

    Raises:
        MissingExtraError: WeasyPrint or Pango is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.pdf"
        return write_pdf(film_report_html(result, translate, page), file).read_bytes()


def _validated_point(result: StoredResult) -> dict[str, Any] | None:
    """Sensitivity and specificity on validation images; cards have them at the default operating point."""
    card = result.bundle_card
    if not card or result.document["operating_point"] != card["default_operating_point"]:
        return None
    found = {key: card["validation"].get(key) for key in ("sensitivity", "specificity")}
    return found if all(found.values()) else None


def _pictures(result: StoredResult) -> dict[str, str]:
    """``film`` and, of an explained one, ``heat_map`` and ``scale``, as data addresses; they fit the page."""
    from PIL import Image

    if result.image is None:
        raise ValueError("a report needs the image")
    rows, columns = result.original_size
    scale = min(1.0, SIDE / max(rows, columns))
    size = max(1, round(rows * scale)), max(1, round(columns * scale))
    small = np.array(Image.fromarray(result.image).resize((size[1], size[0]), Image.Resampling.LANCZOS))
    pictures = {"film": _jpeg(small)}
    if result.heat_map is not None:
        pictures["heat_map"] = _jpeg(overlay(small, on_grid(result.heat_map, size)))
        shades = np.rint(colours(np.linspace(0, 1, 256, dtype=np.float32)))
        pictures["scale"] = _jpeg(np.repeat(shades[None].astype(np.uint8), 8, axis=0))
    return pictures


def _jpeg(pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=88)
    return data_uri(stream.getvalue())
