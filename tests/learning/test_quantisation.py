"""8-bit weights: which of them keep all 8 bits, and that sums of pairs cannot overflow."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pneumoscope.learning.quantisation import quantise_model

SIDE = 16


@pytest.fixture
def source(tmp_path):
    """A pointwise, a depthwise and a pointwise convolution, pooled, and a linear head."""
    random = np.random.default_rng(0)
    weights = {
        "widen": random.normal(size=(8, 1, 1, 1)),
        "depthwise": random.normal(size=(8, 1, 3, 3)),
        "mix": random.normal(size=(6, 8, 1, 1)),
        "head": random.normal(size=(6, 2)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "widen"], ["wide"], name="a"),
        helper.make_node("Conv", ["wide", "depthwise"], ["deep"], name="b", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["deep", "mix"], ["features"], name="c"),
        helper.make_node("ReduceMean", ["features", "axes"], ["pooled"], name="d", keepdims=0),
        helper.make_node("Gemm", ["pooled", "head"], ["logits"], name="e"),
    ]
    shapes = {"image": ["n", 1, SIDE, SIDE], "logits": ["n", 2], "features": ["n", 6, SIDE, SIDE]}
    image, logits, features = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    )
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    constants.append(numpy_helper.from_array(np.array([2, 3], np.int64), "axes"))
    graph = helper.make_graph(nodes, "net", [image], [logits, features], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def films():
    return np.random.default_rng(1).random((6, 1, SIDE, SIDE), np.float32)


def largest(file):
    """Largest magnitude of each int8 weight, by the name of what it was made from."""
    found = {}
    for item in onnx.load(file).graph.initializer:
        if item.data_type == TensorProto.INT8 and len(item.dims) > 1:
            found[item.name.removesuffix("_quantized")] = int(
                np.abs(numpy_helper.to_array(item).astype(int)).max()
            )
    return found


def test_only_depthwise_weights_take_all_8_bits(source, films, tmp_path):
    quantise_model(source, [films], tmp_path / "int8.onnx")
    assert largest(tmp_path / "int8.onnx") == {"widen": 64, "depthwise": 127, "mix": 64}
    # Two products of the largest uint8 and such a weight still fit into 16 bits.
    assert 2 * 255 * 64 < 2**15 <= 2 * 255 * 127


def test_a_head_is_quantised_when_asked_for(source, films, tmp_path):
    quantise_model(source, [films], tmp_path / "int8.onnx", keep_head=False)
    assert largest(tmp_path / "int8.onnx")["head"] == 64


def test_the_answers_are_near_and_batches_do_not_matter(source, films, tmp_path):
    quantise_model(source, [films], tmp_path / "whole.onnx")
    quantise_model(source, [films[:4], films[4:]], tmp_path / "parts.onnx")
    assert (tmp_path / "whole.onnx").read_bytes() == (tmp_path / "parts.onnx").read_bytes()
    (logits, features), (rounded, near) = (
        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"image": films})
        for file in (source, tmp_path / "whole.onnx")
    )
    assert near.dtype == np.float32
    np.testing.assert_allclose(near, features, atol=0.02 * np.ptp(features))
    np.testing.assert_allclose(rounded, logits, atol=0.02 * np.ptp(features))


def test_a_failure_leaves_no_file_behind(source, films, tmp_path):
    with pytest.raises(Exception, match="Got: 8 Expected: 16"):
        quantise_model(source, [films[:, :, :8, :8]], tmp_path / "int8.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
