"""The bill of materials is valid CycloneDX and names the model, its data and what is installed."""

import json
from importlib import metadata

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from pneumoscope.reporting.evidence import bill_of_materials, installed_closure
from tests.tiny_bundle import write_tiny_bundle


def test_the_bill_is_valid_and_complete(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    text = bill_of_materials(bundle.document, "ab" * 32)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    model = bill["metadata"]["component"]
    assert (model["type"], model["hashes"][0]["content"]) == ("machine-learning-model", "ab" * 32)
    named = {component["name"]: component for component in bill["components"]}
    assert named["phantoms"]["type"] == "data"
    for name in ("numpy", "onnxruntime", "pneumoscope"):
        assert named[name]["version"] == metadata.version(name)
        assert named[name]["purl"] == f"pkg:pypi/{name}@{metadata.version(name)}"
    assert "torch" not in named  # the training extra takes no part in an answer


def test_the_closure_holds_requirements_of_requirements():
    names = {distribution.metadata["Name"].lower() for distribution in installed_closure("pneumoscope")}
    assert {"typer", "jinja2", "markupsafe"} <= names
    assert installed_closure("no-such-package") == []
