"""Bundles: written whole, checked on load, and refused with the name of what is wrong."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from pneumoscope.core.errors import BundleError, ConfigError
from pneumoscope.core.files import sha256_file
from pneumoscope.core.records import Preprocessing, Task
from pneumoscope.inference.bundle import load_bundle, shipped_bundles, write_bundle
from tests.tiny_bundle import CELLS, SIZE, arrays, document, write_model, write_tiny_bundle


def rehash(directory):
    """Make SHA256SUMS agree with the files again, as an editor of a bundle could."""
    names = ("arrays.npz", "bundle.json", "model.onnx")
    (directory / "SHA256SUMS").write_text("".join(f"{sha256_file(directory / n)}  {n}\n" for n in names))


def edit(directory, change):
    """Apply ``change`` to the document and make the hashes agree."""
    content = json.loads((directory / "bundle.json").read_text())
    change(content)
    (directory / "bundle.json").write_text(json.dumps(content))
    rehash(directory)


@pytest.fixture
def directory(tmp_path):
    return write_tiny_bundle(tmp_path / "tiny").directory


def test_round_trip(directory):
    bundle = load_bundle(directory)
    assert bundle.id == f"tiny@{sha256_file(directory / 'model.onnx')[:12]}"
    assert bundle.task is Task.THREE_CLASS
    assert bundle.preprocessing == Preprocessing(SIZE, "squash", "none", (0.5, 99.5))
    assert list(bundle.operating_points) == ["balanced", "sensitive"]
    assert bundle.default_operating_point.threshold == 0.7
    assert bundle.document["schema_version"] == 1
    np.testing.assert_array_equal(bundle.arrays["head_weight"], arrays()["head_weight"])
    assert not bundle.arrays["head_weight"].flags.writeable
    json.dumps(bundle.card())


def test_loading_opens_neither_network_nor_arrays(directory):
    assert not {"session", "arrays"} & set(vars(load_bundle(directory)))


def test_the_same_content_gives_the_same_bytes(tmp_path):
    sums = [
        (write_tiny_bundle(tmp_path / name, created="2026-01-01").directory / "SHA256SUMS").read_text()
        for name in ("a", "b")
    ]
    assert sums[0] == sums[1]


def test_replaces_a_bundle_but_nothing_else(tmp_path, directory):
    assert write_tiny_bundle(directory, intended_use="Another.").document["intended_use"] == "Another."
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(BundleError, match="something else than a bundle"):
        write_tiny_bundle(other)
    assert (other / "thesis.txt").read_text() == "irreplaceable"


def test_a_refused_bundle_leaves_nothing_behind(tmp_path):
    model = write_model(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match="operating_points"):
        write_bundle(tmp_path / "new", model, document(operating_points=[]), arrays())
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("name", ["model.onnx", "bundle.json", "arrays.npz"])
def test_names_the_file_that_was_altered(directory, name):
    content = bytearray((directory / name).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / name).write_bytes(content)
    with pytest.raises(BundleError, match="damaged or altered") as caught:
        load_bundle(directory)
    assert caught.value.where == str(directory / name)


@pytest.mark.parametrize("name", ["model.onnx", "arrays.npz", "SHA256SUMS"])
def test_names_the_file_that_is_missing(directory, name):
    (directory / name).unlink()
    with pytest.raises(BundleError, match="missing from the bundle") as caught:
        load_bundle(directory)
    assert caught.value.where == str(directory / name)


@pytest.mark.parametrize(
    "line", [f"{'0' * 64}  ../secret", f"{'0' * 64}  /etc/passwd", f"{'0' * 64}  .hidden", "junk", "é"]
)
def test_refuses_a_list_of_hashes_with_paths_or_junk(directory, line):
    with open(directory / "SHA256SUMS", "a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    with pytest.raises(BundleError, match="list of"):
        load_bundle(directory)


def test_the_hashes_of_all_three_files_are_required(directory):
    lines = (directory / "SHA256SUMS").read_text().splitlines()
    (directory / "SHA256SUMS").write_text("\n".join(lines[:2]) + "\n")
    with pytest.raises(BundleError, match="not a list of the bundle's hashes"):
        load_bundle(directory)


def test_refuses_another_schema_version(directory):
    edit(directory, lambda content: content.update(schema_version=2))
    with pytest.raises(BundleError, match=r"schema version 2; expected version 1; use the release"):
        load_bundle(directory)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", "four-class"),
        ("classes", ["normal", "viral", "bacterial"]),
        ("preprocessing", {"size": 64, "fit": "squash", "exposure": "none"}),
        ("preprocessing", {"size": 64, "fit": "crop", "exposure": "none", "percentiles": [0, 100]}),
        ("preprocessing", {"size": 64, "fit": "squash", "exposure": "none", "percentiles": [99, 1]}),
        ("calibration", {"method": "temperature", "temperature": 0}),
        ("calibration", {"method": "temperature", "temperature": float("nan")}),
        ("calibration", {"method": "isotonic"}),
        ("calibration", {"method": "platt", "pneumonia": {"slope": -1.0, "offset": 0.0}}),
        ("calibration", {"method": "beta", "pneumonia": {"a": 1.0, "b": 1.0}}),
        ("calibration", {"method": "isotonic", "pneumonia": {"x": [0, 1], "y": [1, 1]}}),
        ("calibration", {"method": "isotonic", "pneumonia": {"x": [], "y": []}}),
        ("calibration", {"method": "platt", "pneumonia": {"slope": 1.0, "offset": 0.0}}),
        ("selection", []),
        ("selection", {"error_rate": 0.025, "pneumonia_from": 0.5}),
        ("etiology", {"error_rate": 0.1, "bacterial_from": 1.5, "viral_to": 0.5}),
        ("operating_points", [{"name": "a", "threshold": 0.5}, {"name": "a", "threshold": 0.6}]),
        ("operating_points", [{"name": "balanced", "threshold": 1.5}]),
        ("operating_points", ["balanced"]),
        ("default_operating_point", "none of them"),
        ("etiology", {"margin": -1}),
        ("explanation", {"method": "tea leaves"}),
        ("gate", {"warn_distance": 2.0, "refuse_distance": 1.0}),
        ("network", {"feature_shape": [2, 8]}),
        ("limitations", None),
    ],
)
def test_names_the_key_that_is_wrong(directory, key, value):
    edit(directory, lambda content: content.update({key: value}))
    with pytest.raises(BundleError, match=f"'{key}"):
        load_bundle(directory)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_refuses_a_document_that_is_no_object(directory, text):
    (directory / "bundle.json").write_text(text)
    rehash(directory)
    with pytest.raises(BundleError, match="JSON"):
        load_bundle(directory)


def test_refuses_arrays_that_do_not_fit_the_network(tmp_path):
    model = write_model(tmp_path / "model.onnx")
    for change, message in (
        ({"gate_mean": np.zeros(3)}, "gate_mean"),
        ({"gate_variances": np.array([np.nan])}, "gate_variances"),
        ({"head_weight": np.zeros((2, 2))}, "head_weight"),
    ):
        with pytest.raises(BundleError, match=message):
            write_bundle(tmp_path / "new", model, document(), {**arrays(), **change})
    lacking = {name: value for name, value in arrays().items() if name != "head_weight"}
    with pytest.raises(BundleError, match="lacks head_weight"):
        write_bundle(tmp_path / "new", model, document(), lacking)


def test_refuses_pickled_arrays(directory):
    np.savez(directory / "arrays.npz", gate_mean=np.array([{}], dtype=object))
    rehash(directory)
    with pytest.raises(BundleError, match="cannot be read"):
        _ = load_bundle(directory).arrays


def test_refuses_a_network_with_other_outputs(tmp_path):
    model = write_model(tmp_path / "model.onnx", Task.BINARY)
    with pytest.raises(BundleError, match=rf"logits \(2, 2\) and features \(2, 2, {CELLS}, {CELLS}\)"):
        write_bundle(tmp_path / "new", model, document(), arrays())
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "other", [info], [out])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), model)
    with pytest.raises(BundleError, match=r"inputs \['x'\] and outputs \['y'\]"):
        write_bundle(tmp_path / "new", model, document(), arrays())


def test_refuses_a_network_that_cannot_be_opened(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"not a network")
    with pytest.raises(BundleError, match="ONNX Runtime cannot open it"):
        write_bundle(tmp_path / "new", model, document(), arrays())


def test_an_unknown_bundle_is_answered_with_the_known_ones(tmp_path, directory):
    with pytest.raises(BundleError, match="no bundle 'nonesuch'") as caught:
        load_bundle("nonesuch")
    assert all(name in caught.value.expected for name in shipped_bundles())
    run = tmp_path / "run"
    run.mkdir()
    directory.rename(run / "bundle")
    with pytest.raises(BundleError, match=f"this is a run directory: its bundle is {run / 'bundle'}"):
        load_bundle(run)


def test_shipped_bundles_are_found_by_name(tmp_path, directory, monkeypatch):
    monkeypatch.setattr("pneumoscope.inference.bundle._SHIPPED", tmp_path)
    assert shipped_bundles() == ("tiny",)
    assert load_bundle("tiny").directory == directory


def test_an_unknown_operating_point_is_answered_with_the_known_ones(directory):
    bundle = load_bundle(directory)
    assert bundle.operating_point("sensitive").threshold == 0.6
    with pytest.raises(ConfigError, match="one of balanced, sensitive"):
        bundle.operating_point("lucky")


def test_threads_come_from_argument_then_environment(directory, monkeypatch):
    monkeypatch.setenv("PNEUMOSCOPE_THREADS", "3")
    options = load_bundle(directory).session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert load_bundle(directory, threads=1).session.get_session_options().intra_op_num_threads == 1
    monkeypatch.setenv("PNEUMOSCOPE_THREADS", "many")
    with pytest.raises(ConfigError, match="thread count 'many'"):
        _ = load_bundle(directory).session
