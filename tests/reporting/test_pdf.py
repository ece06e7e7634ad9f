"""The PDF has pages, and what cannot be set is explained."""

import builtins

import pytest

from pneumoscope.core.errors import MissingExtraError
from pneumoscope.reporting.pages import render, write_pdf

PAGE = render("base.html")


@pytest.mark.filterwarnings("ignore:HarfBuzz-Subset will be required:DeprecationWarning")
def test_a_page_becomes_a_pdf(tmp_path):
    pytest.importorskip("weasyprint", reason="needs the extra 'pdf'")
    file = write_pdf(PAGE, tmp_path / "page.pdf")
    content = file.read_bytes()
    assert content.startswith(b"%PDF-")
    assert b"/Type /Page" in content or b"/ObjStm" in content


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ImportError("no weasyprint"), r"pneumoscope\[pdf\]"),
        (OSError("cannot load library 'libpango'"), "libpango-1.0-0"),
    ],
)
def test_without_weasyprint_or_pango_the_remedy_is_named(tmp_path, monkeypatch, error, remedy):
    load = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("weasyprint"):
            raise error
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=remedy):
        write_pdf(PAGE, tmp_path / "page.pdf")
    assert not (tmp_path / "page.pdf").exists()


def test_truncated_pictures_stay_errors_after_a_pdf_was_set(tmp_path):
    from PIL import ImageFile

    write_pdf("<p>Report</p>", tmp_path / "report.pdf")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
