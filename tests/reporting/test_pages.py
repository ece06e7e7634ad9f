"""A page is one file: nothing to fetch, nothing unescaped, no gap."""

import base64
import re

import jinja2
import pytest

from pneumoscope import __version__
from pneumoscope.reporting import pages


@pytest.fixture
def page():
    """Render a template given as text, beside the package's own."""
    environment = pages.environment("pneumoscope.reporting").overlay()
    own = jinja2.DictLoader({"own.html": ""})

    def render(text: str, **context):
        own.mapping["own.html"] = text
        fresh = environment.overlay(loader=jinja2.ChoiceLoader([own, environment.loader]))
        return fresh.get_template("own.html").render(version=__version__, **context)

    return render


def test_every_page_carries_the_notice_the_version_and_a_policy_without_network(page):
    html = page('{% extends "base.html" %}')
    assert "Research and decision support, not a medical device" in html
    assert f"pneumoscope {__version__}" in html
    assert "default-src 'none'; img-src data:" in html
    assert not re.search(r"<script|<link|@import|url\(|https?://", html)


def test_text_is_escaped(page):
    html = page("{{ name }}", name="<script>alert(1)</script>")
    assert html == "&lt;script&gt;alert(1)&lt;/script&gt;"


def test_a_missing_value_is_an_error_not_a_gap():
    with pytest.raises(jinja2.UndefinedError, match="evaluation"):
        pages.render("evaluation.html")


def test_picture_becomes_a_data_address_and_its_words_are_escaped(page):
    html = page(
        '{% from "parts.html" import figure %}{{ figure(picture, "a < b", "two \\" quotes") }}',
        picture="<svg xmlns='http://www.w3.org/2000/svg'/>",
    )
    content = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert content is not None
    assert base64.b64decode(content[1]).startswith(b"<svg")
    assert "a &lt; b" in html
    assert "two &#34; quotes" in html


@pytest.mark.parametrize(
    ("content", "start"),
    [(b"\x89PNG\r\n", "data:image/png;base64,"), (b"\xff\xd8\xff\xe0", "data:image/jpeg;base64,")],
)
def test_raster_pictures_are_known_by_their_first_bytes(content, start):
    assert pages.data_uri(content).startswith(start)


def test_other_bytes_are_no_picture():
    with pytest.raises(ValueError, match="neither PNG nor JPEG"):
        pages.data_uri(b"GIF89a")


def test_table_aligns_numbers_and_heads_rows(page):
    html = page(
        '{% from "parts.html" import table %}{{ table(["name", "films"], rows, "Counts", [1]) }}',
        rows=[["normal", 12]],
    )
    assert "<caption>Counts</caption>" in html
    assert '<th scope="row">normal</th><td class="number">12</td>' in html


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0.97349 | percent", "97.3 %"),
        ("none | percent", "–"),
        ("0.97349 | decimals", "0.973"),
        ("0.5 | decimals(1)", "0.5"),
        ("none | decimals", "–"),
        ("5216 | grouped", "5,216"),
        ("none | grouped", "–"),
        ("3.21 | duration", "3.2 s"),
        ("65 | duration", "1 min 5 s"),
        ("3725 | duration", "1 h 2 min"),
        ("none | duration", "–"),
    ],
)
def test_numbers_are_written_for_people(page, expression, expected):
    assert page(f"{{{{ {expression} }}}}") == expected


def test_not_a_number_is_a_dash(page):
    assert page("{{ x | decimals }} {{ x | percent }}", x=float("nan")) == "– –"
