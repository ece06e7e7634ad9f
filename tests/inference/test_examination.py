"""The JSON document: its published schema, real results, and the summary of a notebook."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.core.findings import Finding
from pneumoscope.inference.examination import ResultDocument, json_schema, record
from pneumoscope.inference.pipeline import examine
from tests.films import write_film
from tests.tiny_bundle import write_tiny_bundle

SCHEMA = Path(__file__).parents[2] / "docs" / "result.schema.json"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def check(document):
    """A document goes through JSON as it is, and keeps to the schema: all keys, no others."""
    again = json.loads(json.dumps(document, allow_nan=False))
    assert again == document
    TypeAdapter(ResultDocument).validate_python(again, strict=True)


def test_the_published_schema_is_that_of_the_code():
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json_schema()


def test_results_keep_to_the_schema(tmp_path, bundle):
    film = write_film(tmp_path / "film.png", 0.8)
    Image.new("L", (100, 100), 128).save(tmp_path / "blank.png")
    answered, refused = examine(film, bundle), examine(tmp_path / "blank.png", bundle)
    for document in (answered.to_dict(), refused.to_dict(), examine(film, bundle, explain=False).to_dict()):
        check(document)
    check(record(film, UnreadableFileError.of("file-empty", film)))
    assert answered.to_dict() == record(film, answered)
    assert [one["code"] for one in refused.to_dict()["findings"]] == ["blank"]


def test_each_fact_is_found_once_and_the_strictest_first(bundle):
    colours = np.random.default_rng(0).random((120, 160, 3)).cumsum(axis=0)
    result = examine(colours / colours.max(), bundle, force=True)
    codes = [finding.code for finding in result.findings]
    assert codes[0] == "colour"
    assert len(codes) == len(set(codes))
    assert result.image_findings == (Finding.refusal("colour"),)
    assert (result.file, result.sha256) == ("", "")
    check(result.to_dict())


def test_a_notebook_shows_picture_answer_and_findings(tmp_path, bundle):
    shown = examine(write_film(tmp_path / "film.png", 0.8), bundle)._repr_html_()
    assert "data:image/png;base64," in shown
    assert "POSITIVE" in shown
    assert bundle.id in shown
    Image.new("L", (100, 100), 128).save(tmp_path / "blank.png")
    refused = examine(tmp_path / "blank.png", bundle)._repr_html_()
    assert "the image is blank" in refused
    assert "probability" not in refused
