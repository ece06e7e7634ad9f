"""Exported networks answer as torch does, for any batch, and the file says nothing of the machine."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from transformers import ViTConfig

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.learning.export import export_onnx
from pneumoscope.learning.networks import NetworkConfig, create_network, network_names

from . import exports


@pytest.fixture(scope="module", autouse=True)
def whole_exports():
    """Each network is traced."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.onnx, "export", exports.trace)
        yield


def trained_looking(name, size, classes=3):
    """A network whose batch norms have statistics, as after training."""
    torch.manual_seed(0)
    network = create_network(NetworkConfig(name=name, size=size, classes=classes))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def run(file, films):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(["logits", "features"], {"image": films.numpy()})


@pytest.mark.parametrize(("name", "size"), [("mobilenet-v2", 75), ("cnn-small", 48)])
def test_onnx_answers_as_torch_for_any_batch(tmp_path, name, size, capfd):
    network = trained_looking(name, size).to(memory_format=torch.channels_last)
    assert export_onnx(network, size, tmp_path / "model.onnx") <= 1e-4
    assert capfd.readouterr() == ("", "")
    assert network.training
    network.eval()
    for batch in (1, 5):
        films = torch.rand(batch, 1, size, size)
        with torch.no_grad():
            expected = network(films)
        for answer, wanted in zip(run(tmp_path / "model.onnx", films), expected, strict=True):
            np.testing.assert_allclose(answer, wanted.numpy(), atol=1e-3)
    model = onnx.load(tmp_path / "model.onnx")
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"BatchNormalization", "Pad", "Dropout"}
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_the_file_holds_no_paths_of_the_machine(tmp_path):
    export_onnx(create_network(NetworkConfig(name="cnn-small")), 32, tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    assert b".py" not in content
    assert b"stack_trace" not in content


def test_the_same_network_gives_the_same_file(tmp_path):
    network = create_network(NetworkConfig(name="cnn-small"))
    for name in ("a.onnx", "b.onnx"):
        export_onnx(network, 32, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_model_that_answers_differently_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("pneumoscope.learning.export.TOLERANCE", -1.0)
    with pytest.raises(PneumoscopeError, match="differ by"):
        export_onnx(create_network(NetworkConfig(name="cnn-small")), 32, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in network_names() if name not in ("mobilenet-v2", "cnn-small")]
)
def test_every_network_exports(tmp_path, name):
    assert export_onnx(trained_looking(name, 50), 50, tmp_path / "model.onnx") <= 1e-4


@pytest.mark.slow
def test_a_vision_transformer_exports(tmp_path):
    ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    ).save_pretrained(tmp_path)
    network = create_network(NetworkConfig(name=f"hf:{tmp_path}", size=64))
    assert export_onnx(network, 64, tmp_path / "model.onnx") <= 1e-4
