"""Opened networks answer as ONNX Runtime does; gradients and random weights do what their definitions say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from pneumoscope.core.errors import BundleError
from pneumoscope.core.records import Label, Radiograph
from pneumoscope.data.phantom_drawing import draw_phantom
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.inference.bundle import Bundle, load_bundle
from pneumoscope.inference.prediction import run_network
from pneumoscope.learning.export import export_onnx
from pneumoscope.learning.network import NetworkConfig
from pneumoscope.learning.networks import create_network
from pneumoscope.learning.opened_network import OPERATORS, OpenedNetwork, open_network, unknown_operators
from tests.tiny_bundle import SIZE, SLOPES, write_tiny_bundle


@pytest.fixture(scope="module")
def reference() -> Bundle:
    return load_bundle("reference")


@pytest.fixture(scope="module")
def films(reference: Bundle) -> np.ndarray:
    size = reference.preprocessing.size
    return np.random.default_rng(0).random((2, 1, size, size), dtype=np.float32)


def test_the_shipped_network_answers_as_before(reference: Bundle, films: np.ndarray) -> None:
    with torch.inference_mode():
        opened = open_network(reference)(torch.from_numpy(films))
    for own, expected in zip(opened, run_network(reference, films), strict=True):
        assert np.abs(own.numpy() - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_network_in_8_bits_can_be_opened(films: np.ndarray) -> None:
    bundle = load_bundle("reference-int8")
    size = bundle.preprocessing.size
    some = np.random.default_rng(1).random((1, 1, size, size), dtype=np.float32)
    network = open_network(bundle)
    with torch.inference_mode():
        logits, _ = network(torch.from_numpy(some))
    expected, _ = run_network(bundle, some)
    assert np.abs(logits.numpy() - expected).max() < 0.1  # a sum on the edge rounds either way
    assert np.abs(network.integrated_gradients(some[0], 1)).sum() > 0


def test_a_network_of_the_ladder_can_be_opened(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_network(NetworkConfig(name="cnn-9", size=32)).eval()
    export_onnx(network, 32, tmp_path / "model.onnx")
    films = torch.rand(2, 1, 32, 32)
    opened = OpenedNetwork(onnx.load(tmp_path / "model.onnx"))
    with torch.inference_mode():
        for own, expected in zip(opened(films), network(films), strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4)


RNG = np.random.default_rng(3)
FILM = RNG.normal(size=(2, 4, 6, 6)).astype(np.float32)
ROW = FILM[0, 0]


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [
        ("Add", [FILM, weights(4, 1, 1)], {}),
        ("AveragePool", [FILM], {"kernel_shape": [2, 3], "strides": [2, 3]}),
        ("Clip", [FILM, np.float32(-0.5), np.float32(0.5)], {}),
        ("Concat", [FILM, FILM], {"axis": 1}),
        ("Conv", [FILM, weights(8, 1, 3, 3), weights(8)],
         {"pads": [0, 1, 2, 0], "strides": [2, 1], "dilations": [1, 2], "group": 4}),
        ("DequantizeLinear", [RNG.integers(-99, 99, (4, 6)).astype(np.int8), np.float32([0.1, 0.2, 0.3, 0.4]),
         np.array([0, 1, -2, 3], np.int8)], {"axis": 0}),
        ("Div", [FILM, np.float32(3)], {}),
        ("Gelu", [FILM], {}),
        ("Gemm", [ROW, weights(3, 6), weights(3)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
        ("Gemm", [ROW, weights(6, 3)], {"transA": 1}),
        ("LayerNormalization", [FILM, weights(6), weights(6)], {"axis": -1, "epsilon": 1e-3}),
        ("MatMul", [FILM, weights(6, 5)], {}),
        ("MaxPool", [FILM], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
        ("Mul", [FILM, FILM], {}),
        ("Neg", [FILM], {}),
        ("QuantizeLinear", [FILM, np.float32(0.011), np.array(-3, np.int8)], {}),
        ("QuantizeLinear", [FILM, np.float32(0.01), np.array(5, np.uint8)], {}),
        ("ReduceMean", [FILM, integers(2, 3)], {"keepdims": 0}),
        ("ReduceMean", [FILM, integers(-1)], {}),
        ("Relu", [FILM], {}),
        ("Reshape", [FILM, integers(2, -1)], {}),
        ("Sigmoid", [FILM], {}),
        ("Sub", [FILM, weights(6)], {}),
        ("Transpose", [FILM], {"perm": [0, 2, 3, 1]}),
        ("Unsqueeze", [ROW, integers(0, -1)], {}),
    ],
)  # fmt: skip
def test_operators_are_those_of_onnx_runtime(kind: str, inputs: list[np.ndarray], attributes: dict) -> None:
    names = [f"input{n}" for n in range(len(inputs))]
    node = helper.make_node(kind, names, ["output"], **attributes)
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(v).dtype), np.shape(v))
        for name, v in zip(names, inputs, strict=True)
    ]
    out = helper.make_empty_tensor_value_info("output")
    graph = helper.make_graph([node], "one", values, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, dict(zip(names, map(np.asarray, inputs), strict=True)))[0]
    read = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    found = OPERATORS[kind]([torch.from_numpy(np.array(value)) for value in inputs], read)
    assert found.shape == expected.shape
    # Halves of a quantum round either way, as the division is done in another order.
    tolerance = 1.0 if kind == "QuantizeLinear" else 1e-5
    assert np.abs(found.numpy() - expected).max() <= tolerance
    assert (np.abs(found.numpy() - expected) > 1e-5).mean() < 0.01


def test_every_operator_is_tested() -> None:
    marks = test_operators_are_those_of_onnx_runtime.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for mark in marks for case in mark.args[1]} == set(OPERATORS)


def test_integrated_gradients_of_a_linear_network_are_exact(tmp_path: Path) -> None:
    network = open_network(write_tiny_bundle(tmp_path / "tiny"))
    film = np.random.default_rng(2).random((1, SIZE, SIZE), dtype=np.float32)
    found = network.integrated_gradients(film, 1)
    assert found == pytest.approx(SLOPES["bacterial"] * (film[0] - film.mean()) / SIZE**2, abs=1e-7)
    assert network.integrated_gradients(film, 2) == pytest.approx(found / 3, abs=1e-7)


def test_integrated_gradients_sum_to_the_change_of_the_answer(reference: Bundle) -> None:
    drawn = draw_phantom(Label.BACTERIAL, np.random.default_rng(0), 224)
    film = to_model_input(Radiograph(drawn.pixels, drawn.pixels.shape), reference.preprocessing).array
    found = open_network(reference).integrated_gradients(film, 1)
    logits, _ = run_network(reference, np.stack([film, np.full_like(film, film.mean())]))
    log_odds = logits[:, 1] - logits[:, 0]
    assert found.sum() == pytest.approx(log_odds[0] - log_odds[1], rel=0.15, abs=0.1)


def test_random_weights_change_the_features(reference: Bundle, films: np.ndarray) -> None:
    network = open_network(reference)
    _, features = run_network(reference, films[:1])
    untouched = network.randomised_features(films[:1], 0.0, 0)
    assert np.abs(untouched - features).max() < 1e-4 * np.abs(features).max()
    last, every = (network.randomised_features(films[:1], share, 0) for share in (1 / 3, 1.0))
    assert np.abs(last - features).max() > 0.1
    assert not np.allclose(last, every)
    assert np.array_equal(every, network.randomised_features(films[:1], 1.0, 0))
    assert not np.array_equal(every, network.randomised_features(films[:1], 1.0, 1))


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    assert unknown_operators(bundle) == ()
    model = onnx.load(bundle.directory / "model.onnx")
    model.graph.node.append(helper.make_node("Softsign", ["logits"], ["other"]))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    onnx.save(model, elsewhere / "model.onnx")
    changed = replace(bundle, directory=elsewhere)
    assert unknown_operators(changed) == ("Softsign",)
    with pytest.raises(BundleError, match="Softsign"):
        open_network(changed)
