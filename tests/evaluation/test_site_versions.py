"""A commissioned bundle remembers what it was, and becomes that again."""

import pytest

from pneumoscope.core.errors import InputError
from pneumoscope.evaluation.commissioning import KEPT, commission, commissioned_document, rolled_back_document
from pneumoscope.inference.bundle import write_bundle
from tests.evaluation.test_commissioning import CONFIG, films
from tests.tiny_bundle import write_tiny_bundle


def test_two_versions_and_back(tmp_path):
    first = write_tiny_bundle(tmp_path / "bundle")
    bundles = [first]
    for number in (2, 3):
        before = bundles[-1].document
        result = commission(films(100, seed=number), before, CONFIG)
        document = commissioned_document(before, result, {"name": "site", "hash": "0" * 64})
        bundles.append(
            write_bundle(tmp_path / f"v{number}", first.directory / "model.onnx", document, first.arrays)
        )
    assert [bundle.id for bundle in bundles] == [first.id, f"{first.id}+2", f"{first.id}+3"]
    history = bundles[2].document["history"]
    assert [entry["before"]["id"] for entry in history] == [first.id, f"{first.id}+2"]
    assert history[0]["prevalence"] == 0.2
    for later, earlier in ((2, 1), (1, 0)):
        document = rolled_back_document(bundles[later].document)
        back = write_bundle(tmp_path / "back", first.directory / "model.onnx", document, first.arrays)
        assert back.id == bundles[earlier].id
        for key in KEPT:
            assert back.document.get(key) == bundles[earlier].document.get(key)


def test_a_first_version_has_nothing_to_go_back_to(tmp_path):
    with pytest.raises(InputError, match="first version"):
        rolled_back_document(write_tiny_bundle(tmp_path / "bundle").document)
