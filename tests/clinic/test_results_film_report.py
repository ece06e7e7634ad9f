"""The one-page report: what stands on it, that it stands alone, and that it is one page."""

from __future__ import annotations

import dataclasses
import re
import zlib
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from pneumoscope.core.findings import Finding
from pneumoscope_clinic.results.film_report import Feedback, Page, film_report_html, film_report_pdf
from tests.clinic.film_results import (
    ABSTAINED,
    FILM_ID,
    NEGATIVE,
    REFUSED,
    film_result,
    findings,
    header,
    refused,
)

FEEDBACK = Feedback(False, "normal", "No consolidation.", datetime(2026, 3, 5, tzinfo=UTC))


def _words(page: str) -> str:
    """The text of a page as it is read, spaces single."""
    body = re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", body).replace("&gt;", ">").replace("&lt;", "<")


def test_a_positive_film() -> None:
    words = _words(film_report_html(film_result(header()), page=Page(study_id="a" * 32)))
    for expected in (
        "POSITIVE", "Study " + "a" * 32, "Image " + FILM_ID, "Examined 2026-03-04 05:06 UTC",
        "not a medical device; not for primary diagnosis",
        "Probability of pneumonia 90.0 % , calibrated", "balanced, threshold 60.0 %",
        "sensitivity 90.0 % (80.0 % to 95.0 %, n = 50)", "pneumonia (at an error rate of 2.5 %)",
        "UNCERTAIN (bacterial 60.0 %, viral 30.0 %)", "Gate ANSWER",
        "neither bacterial nor viral can be excluded", "strongest in the right lower zone",
        "It knows nothing about pneumonia.", "bundle tiny@0123456789ab", "numpy 2",
        "Evidence for bacterial pneumonia",
    ):  # fmt: skip
        assert expected in words, expected


def test_what_is_said_of_the_probabilitys_interval() -> None:
    """No interval of one image is invented; the calibration error is told as what it is."""
    words = _words(film_report_html(film_result()))
    assert (
        "Over 50 validation images such probabilities were off by 90.0 % on average (expected calibration "
        "error, 95 % interval 80.0 % to 95.0 %). The bundle has no interval for a single image." in words
    )
    assert "calibration error" not in _words(
        film_report_html(dataclasses.replace(film_result(), bundle_card={}))
    )
    other = _words(film_report_html(film_result(operating_point="screening")))
    assert "sensitivity" not in other  # of the default operating point only


@pytest.mark.parametrize(
    ("changes", "there", "not_there"),
    [
        (REFUSED, ("NOT ANSWERED", "REFUSE", "the image is noise"), ("%", "Etiology", "heat map")),
        (ABSTAINED, ("ABSTAIN", "40.0 %", "normal, pneumonia (at an error rate of 2.5 %)"), ("Etiology",)),
        (NEGATIVE, ("NEGATIVE", "2.0 %", "Pneumonia is unlikely"), ("Etiology", "Reasons")),
        ({"forced": True}, ("POSITIVE (FORCED)", "answered by force"), ()),
        (
            {"findings": findings(Finding.note("bits-in-use", bits=8, full_scale=255))},
            ("About the file 8 bits are in use",),
            (),
        ),
        (
            {"answer_set": {"answers": [], "error_rate": 0.1}},
            ("neither answer fits (at an error rate of 10 %)",),
            (),
        ),
    ],
)
def test_other_answers(changes: dict[str, Any], there: tuple[str, ...], not_there: tuple[str, ...]) -> None:
    words = _words(film_report_html(film_result(**changes)))
    for expected in there:
        assert expected in words
    for unexpected in not_there:
        assert unexpected not in words


def test_the_readers_feedback() -> None:
    words = _words(film_report_html(film_result(), page=Page(feedback=FEEDBACK)))
    assert "Reader disagrees; final diagnosis: normal; No consolidation. (2026-03-05)" in words
    silent = dataclasses.replace(FEEDBACK, agrees=None, comment="")
    words = _words(film_report_html(film_result(), page=Page(feedback=silent)))
    assert "Reader final diagnosis: normal (2026-03-05)" in words


def test_it_names_no_patient() -> None:
    page = film_report_html(film_result(header(BodyPartExamined="CHEST")))
    for name in ("Doe", "Jane", "child-7", "jane-doe", "20200102", "1.2.3", "House", "A-1"):
        assert name not in page


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_it_stands_alone_and_runs_nothing() -> None:
    for nonce in (None, "abc"):
        page = film_report_html(film_result(), page=Page(style_nonce=nonce, language="fr"))
        parser = _Elements()
        parser.feed(page)
        tags = [tag for tag, _ in parser.found]
        assert not {"script", "link", "iframe", "object", "form"} & set(tags)
        for tag, attributes in parser.found:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            if tag == "img":
                assert str(attributes["src"]).startswith("data:image/jpeg;base64,")
                assert attributes["alt"]
            if tag == "style":
                assert attributes.get("nonce") == nonce
            if tag == "html":
                assert attributes["lang"] == "fr"
        assert tags.count("img") == 3
        assert tags.count("meta") == (4 if nonce is None else 3)  # as a file it forbids fetching by itself


def test_what_comes_from_outside_is_escaped() -> None:
    evil = '<img src=x onerror="alert(1)">'
    said = (Finding.warning("body-part-unknown", body_part=evil), Finding.note("photograph"))
    result = film_result(limitations=[evil], findings=findings(*said))
    page = film_report_html(
        result, page=Page(evil, dataclasses.replace(FEEDBACK, diagnosis=evil, comment=evil))
    )
    assert evil not in page
    assert "onerror=&#34;" in page


def test_it_speaks_the_readers_language() -> None:
    chinese = {
        "POSITIVE": "阳性",
        "Probability of pneumonia": "肺炎概率",
        "bacterial pneumonia": "细菌性肺炎",
    }
    seen = set()

    def texts(message: str) -> str:
        seen.add(message)
        return chinese.get(message, message)

    page = film_report_html(film_result(), texts)
    assert "阳性" in page
    assert "肺炎概率" in page
    assert {"Limits", "Operating point", "UNCERTAIN", "bacterial", "balanced", "Tests."} <= seen


PAGES = rb"/Type\s*/Page[^s]"


def _plain(pdf: bytes) -> bytes:
    """The file with its compressed object streams unpacked: page objects lie in them."""
    unpacked = [pdf]
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, flags=re.DOTALL):
        try:
            unpacked.append(zlib.decompress(stream))
        except zlib.error:
            continue
    return b"\n".join(unpacked)


@pytest.mark.parametrize("wide", [False, True])
def test_the_pdf_is_one_page_even_when_much_is_to_be_said(wide: bool) -> None:
    result = film_result(
        findings=findings(
            *[Finding.note("window-ignored", reason="its width is not a number")] * 6,
            *[Finding.warning("composed-unusually")] * 4,
        ),
        limitations=["Trained on films of one hospital; other devices and ages may shift its answers."] * 4,
    )
    if wide:
        shape = (60, 300)
        result = dataclasses.replace(result, image=np.zeros(shape, np.uint8), original_size=shape)
    talkative = dataclasses.replace(FEEDBACK, comment="A long comment. " * 200)
    pdf = film_report_pdf(result, page=Page("a" * 32, talkative))
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(PAGES, _plain(pdf))) == 1
    assert len(pdf) < 400_000


def test_a_refused_films_pdf_is_one_page_without_a_heat_map() -> None:
    plain = _plain(film_report_pdf(refused()))
    assert len(re.findall(PAGES, plain)) == 1
    assert len(re.findall(rb"/Subtype\s*/Image", plain)) == 1


def test_a_colour_image_is_said_to_be_one_once() -> None:
    said = findings(Finding.refusal("colour"), Finding.note("bits-in-use", bits=8, full_scale=255))
    words = _words(film_report_html(film_result(**{**REFUSED, "findings": said}))).lower()
    assert words.count("in colour") == 1
    assert "8 bits are in use" in words
