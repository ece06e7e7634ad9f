"""Published backbones: features, blocks and initialisation, from written settings, a folder or the hub."""

import json

import pytest
import torch
from torch import nn
from transformers import AutoModel, MobileNetV2Config, ResNetConfig, SwinConfig, ViTConfig

from pneumoscope.core.errors import ConfigError, DownloadError
from pneumoscope.learning.backbones import ARCHITECTURES
from pneumoscope.learning.networks import NetworkConfig, create_network

# Blocks before the head: stem, repeated units, last convolution where there is one.
BLOCKS = {
    "mobilenet-v2": 1 + 16 + 1,
    "resnet-18": 1 + 8,
    "resnet-50": 1 + 16,
    "efficientnet-b0": 1 + 16 + 1,
    "convnext-tiny": 1 + 18 + 3,
}
# Parameters that torchvision's tables give for the published classifiers, without the last layer.
PARAMETERS = {
    "mobilenet-v2": 3_504_872 - 1_281_000,
    "resnet-18": 11_689_512 - 513_000,
    "resnet-50": 25_557_032 - 2_049_000,
    "efficientnet-b0": 5_288_548 - 1_281_000,
    "convnext-tiny": 28_589_128 - 769_000,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_known_backbones_are_the_published_ones(name):
    network = create_network(NetworkConfig(name=name, classes=3, size=64)).eval()
    logits, features = network(torch.rand(2, 1, 64, 64))
    assert logits.shape == (2, 3)
    assert features.shape[:1] + features.shape[2:] == (2, 2, 2)
    assert network.head_weight().shape == (3, features.shape[1])
    assert len(network.blocks()) == BLOCKS[name] + 1
    assert sum(parameter.numel() for parameter in network.backbone.parameters()) == PARAMETERS[name]
    covered = [id(parameter) for block in network.blocks() for parameter in block.parameters()]
    assert sorted(covered) == sorted(id(parameter) for parameter in network.parameters())


def test_mobilenet_features_are_those_of_transformers_at_even_and_odd_sides():
    network = create_network(NetworkConfig(size=64)).eval()
    plain = AutoModel.from_config(MobileNetV2Config()).eval()
    plain.load_state_dict(network.backbone.state_dict())
    for side in (64, 75, 98):
        films = torch.rand(2, 1, side, side)
        with torch.no_grad():
            expected = plain(films.expand(-1, 3, -1, -1) * 2 - 1).last_hidden_state
            torch.testing.assert_close(network.features(films), expected)


def test_a_finer_map_has_the_same_weights():
    coarse, fine = (
        create_network(NetworkConfig(size=64, output_stride=stride)).eval() for stride in (32, 16)
    )
    fine.load_state_dict(coarse.state_dict())
    films = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        assert coarse.features(films).shape == (2, 1280, 2, 2)
        assert fine.features(films).shape == (2, 1280, 4, 4)
    assert len(fine.blocks()) == len(coarse.blocks())


def test_without_dilation_the_map_is_as_fine():
    dilated, plain = (
        create_network(NetworkConfig(size=64, output_stride=16, dilated=dilated)).eval()
        for dilated in (True, False)
    )
    plain.load_state_dict(dilated.state_dict())
    films = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert plain.features(films).shape == dilated.features(films).shape == (1, 1280, 4, 4)
    # The last three depthwise convolutions, which reach one cell further on each side when dilated.
    assert _dilations(dilated) == [(2, 2)] * 3
    assert _dilations(plain) == []


def _dilations(network):
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return [one.dilation for one in convolutions if one.dilation != (1, 1)]


@pytest.mark.parametrize("name", ["resnet-18", "cnn-9"])
def test_a_stride_that_a_network_cannot_have_is_refused(name):
    with pytest.raises(ConfigError, match=f"'{name}' has no output stride of 16"):
        create_network(NetworkConfig(name=name, output_stride=16))


def test_batch_norms_average_over_more_than_the_last_batch():
    network = create_network(NetworkConfig(size=32))
    assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_random_mobilenet_neither_vanishes_nor_explodes():
    torch.manual_seed(0)
    network = create_network(NetworkConfig(size=64))
    with torch.no_grad():
        assert 0.1 < float(network.features(torch.rand(8, 1, 64, 64)).std()) < 10


def save_config(folder, config, preprocessor=None):
    config.save_pretrained(folder)
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return f"hf:{folder}"


def test_tokens_of_a_vision_transformer_become_a_map(tmp_path):
    config = ViTConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    name = save_config(tmp_path, config)
    network = create_network(NetworkConfig(name=name, classes=2, size=96)).eval()
    logits, features = network(torch.rand(2, 1, 96, 96))
    assert logits.shape == (2, 2)
    assert features.shape == (2, 16, 6, 6)
    tokens = network.backbone(
        network.input(torch.ones(1, 1, 96, 96)), interpolate_pos_encoding=True
    ).last_hidden_state
    # Row-major: the token after the class token and one row of six is the first of the second row.
    torch.testing.assert_close(network.features(torch.ones(1, 1, 96, 96))[0, :, 1, 0], tokens[0, 7])
    assert len(network.blocks()) == 1 + 3 + 1


def test_tokens_of_a_swin_transformer_become_a_map(tmp_path):
    config = SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4, image_size=64)
    network = create_network(NetworkConfig(name=save_config(tmp_path, config), size=64)).eval()
    assert network(torch.rand(1, 1, 64, 64))[1].shape == (1, 16, 8, 8)


SMALL_RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")


@pytest.mark.parametrize(
    ("preprocessor", "mean", "std"),
    [
        (None, 0.485, 0.229),
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, 0.1, 0.4),
        ({"image_mean": [0.5] * 3, "image_std": [0.3] * 3, "include_top": True}, 0.5, 0.09),
    ],
)
def test_input_statistics_come_from_the_folder(tmp_path, preprocessor, mean, std):
    network = create_network(NetworkConfig(name=save_config(tmp_path, SMALL_RESNET, preprocessor), size=32))
    red = network.input(torch.full((1, 1, 2, 2), 0.7))[0, 0]
    torch.testing.assert_close(red, torch.full((2, 2), (0.7 - mean) / std))


def test_a_mobilenet_folder_without_statistics_gets_those_of_mobilenet(tmp_path):
    network = create_network(NetworkConfig(name=save_config(tmp_path, MobileNetV2Config()), size=32))
    assert network.input(torch.zeros(1, 1, 1, 1)).flatten().tolist() == [-1, -1, -1]


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no usable model configuration"):
        create_network(NetworkConfig(name=f"hf:{tmp_path}"))


def test_a_text_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "bert",
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "vocab_size": 9,
            }
        )
    )
    with pytest.raises(ConfigError, match="not an image model"):
        create_network(NetworkConfig(name=f"hf:{tmp_path}"))


def test_an_unreachable_hub_says_what_to_do(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("pneumoscope.learning.backbones.snapshot_download", unreachable)
    with pytest.raises(DownloadError, match="local safetensors file or folder"):
        create_network(NetworkConfig(name="hf:owner/model"))
