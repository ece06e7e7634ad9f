"""The evidence pack says what the bundle says, in every view, and leaves open what nobody knows."""

import json

import pytest

from pneumoscope.core.errors import InputError
from pneumoscope.core.files import sha256_file
from pneumoscope.inference.bundle import load_bundle, shipped_bundles
from pneumoscope.reporting.evidence import (
    CHECKLISTS,
    attach,
    evidence,
    evidence_markdown,
    fill,
    load,
    write_evidence,
)
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module", params=shipped_bundles())
def shipped(request):
    return load_bundle(request.param), request.param


def test_every_figure_of_the_bundle_is_in_every_view(shipped, tmp_path):
    bundle, name = shipped
    files = {file.name: file for file in write_evidence(evidence(bundle, name), bundle, tmp_path)}
    content = json.loads(files["card.json"].read_text())
    page, text = files["card.html"].read_text(), files["card.md"].read_text()
    assert content["validation"] == bundle.document["validation"]
    assert content["operating_points"] == bundle.document["operating_points"]
    for estimate in bundle.document["validation"].values():
        for key in ("value", "low", "high"):
            assert f"{estimate[key]:.4f}" in page
            assert f"{estimate[key]:.4f}" in text
    for point in bundle.document["operating_points"]:
        assert f"{point['threshold']:.4f}" in page
        assert f"{point['threshold']:.4f}" in text
    for file in ("model.onnx", "bundle.json", "arrays.npz"):
        digest = sha256_file(bundle.directory / file)
        assert content["hashes"][file] == digest
        assert digest in page
        assert digest in text
    for limit in bundle.document["limitations"]:
        assert limit in page


def test_the_pack_comes_out_the_same_again(shipped, tmp_path):
    bundle, name = shipped
    once, again = (write_evidence(evidence(bundle, name), bundle, tmp_path / part) for part in "ab")
    for first, second in zip(once[:3], again[:3], strict=True):
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("name", "items"), [("claim-2024", 44), ("tripod-ai", 52)])
def test_checklists_are_whole(name, items):
    checklist = load(name)
    numbers = [item["number"] for item in checklist["items"]]
    assert len(numbers) == len(set(numbers)) == items
    assert all(("answer" in item) or ("open" in item) for item in checklist["items"])


def test_an_item_is_answered_or_open():
    checklist = {
        "name": "c",
        "source": "s",
        "items": [
            {"number": "1", "section": "a", "text": "t", "answer": "{known}."},
            {"number": "2", "section": "a", "text": "t", "answer": "{unknown}", "open": "Write it."},
            {"number": "3", "section": "a", "text": "t", "open": "Write that."},
            {"number": "4", "section": "a", "text": "t", "answer": "{unknown}"},
        ],
    }
    filled = fill(checklist, {"known": "Yes"})
    assert [item["answer"] for item in filled["items"][:3]] == ["Yes.", "Write it.", "Write that."]
    assert [item["status"] for item in filled["items"]] == ["answered", "open", "open", "open"]
    assert filled["answered"] == 1


def test_further_evidence_answers_more(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    figure = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 10}
    commissioning = {
        "new_bundle": "x+2",
        "verdict": "GO",
        "films": 10,
        "dataset": "here",
        "figures": {"roc_auc": figure, "mean_probability": 0.2},
    }
    stress = {
        "films": 20,
        "stresses": [{"title": "Blurred", "verdict": "fail"}, {"title": "Unchanged", "verdict": None}],
    }
    internal = {"protocol": "5-fold cross-validation", "estimates": {"roc_auc": figure}}
    bare = evidence(bundle, "tiny")
    full = evidence(bundle, "tiny", internal, {"commissioning.json": commissioning, "stress.json": stress})
    answers = {item["number"]: item for item in full["checklists"][0]["items"]}
    assert "0 of 1 checks passed, failed: Blurred" in answers["30"]["answer"]
    assert answers["32"]["answer"].startswith(
        "5-fold cross-validation: roc_auc 0.9000 (0.8000 to 1.0000, n 10)"
    )
    assert answers["33"]["answer"].startswith("GO on 10 images of here")
    for before, after in zip(bare["checklists"], full["checklists"], strict=True):
        assert after["answered"] >= before["answered"]
    assert full["checklists"][0]["answered"] == bare["checklists"][0]["answered"] + 3
    assert "**open:**" in evidence_markdown(bare)
    assert full["attached"] == ["commissioning.json", "stress.json"]


def test_every_checklist_is_in_the_pack(tmp_path):
    content = evidence(write_tiny_bundle(tmp_path / "tiny"), "tiny")
    assert len(content["checklists"]) == len(CHECKLISTS)


def test_what_is_no_json_object_is_refused(tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(InputError, match="not a JSON object"):
        attach([tmp_path / "list.json"])
    with pytest.raises(InputError, match="cannot be read"):
        attach([tmp_path / "none.json"])
