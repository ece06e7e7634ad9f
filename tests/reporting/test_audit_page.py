"""The audit page: one file, nothing fetched, everything that the audit found is on it."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from pneumoscope.core.records import Preprocessing
from pneumoscope.data.audit import run_audit
from pneumoscope.data.cache import build_cache
from pneumoscope.data.importers import import_dataset
from pneumoscope.data.phantoms import WriteConfig, write_phantoms
from pneumoscope.reporting.audit_page import sheet, write_audit_page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    films = write_phantoms(folder / "films", WriteConfig(count=36, size=40))
    first = sorted((films / "train" / "NORMAL").iterdir())[0]
    (films / "train" / "NORMAL" / "IM-0999-0001.jpeg").write_bytes(first.read_bytes())
    (films / "train" / "NORMAL" / "IM-0998-<b>.jpeg").write_bytes(b"not an image")
    dataset = import_dataset(films, folder / "dataset")
    audit = run_audit(dataset)
    file = dataset.directory / "audit" / "audit.html"
    write_audit_page(audit, dataset, build_cache(dataset, Preprocessing()), file)
    return audit, file.read_text(encoding="utf-8")


def test_the_page_is_self_contained_and_small(page):
    _, html = page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert "<script" not in html
    assert len(html) < 2_000_000


def test_every_finding_problem_and_duplicate_is_on_the_page(page):
    audit, html = page
    assert audit["findings"]
    for finding in audit["findings"]:
        start = finding["text"].split("'")[0][:60]
        assert start in html.replace("&#39;", "'")
    assert "IM-0998-&lt;b&gt;.jpeg" in html
    assert "<b>.jpeg" not in html
    assert "IM-0999-0001.jpeg" in html
    for label in audit["dataset"]["classes"]:
        assert f"<h3>{label.capitalize()}</h3>" in html


def test_every_picture_has_words_for_those_who_cannot_see_it(page):
    _, html = page
    pictures = re.findall(r"<img [^>]*>", html)
    assert len(pictures) >= 8
    assert all(re.search(r'alt="[^"]{10,}"', picture) for picture in pictures)


def test_a_sheet_places_films_row_by_row():
    films = np.stack([np.full((30, 30), level, np.uint8) for level in (0, 100, 200)])
    with Image.open(io.BytesIO(sheet(films, columns=2))) as image:
        assert image.size == (304, 304)
        pixels = np.asarray(image).astype(int)
    for level, (row, column) in zip(
        (0, 100, 200, 255), ((75, 75), (75, 229), (229, 75), (229, 229)), strict=True
    ):
        assert abs(pixels[row, column] - level) <= 2
