"""Weights from files, folders and the hub reach their places, and those of another network are refused."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ViTConfig,
    ViTModel,
)

from pneumoscope.core.errors import DownloadError, InputError, UnreadableFileError
from pneumoscope.core.files import sha256_file
from pneumoscope.learning.networks import NetworkConfig, create_network, network_names
from pneumoscope.learning.pretrained import PUBLISHED, load_pretrained

SMALL = NetworkConfig(name="cnn-9", classes=3)


def same(first, second):
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder of MobileNetV2 with a classifier of ten classes."""
    folder = tmp_path_factory.mktemp("mobilenet")
    MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=10)).save_pretrained(folder)
    return folder


def test_weights_of_our_own_come_back_exactly(tmp_path):
    network, other = create_network(SMALL), create_network(SMALL)
    network.to(memory_format=torch.channels_last)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors", {"epoch": "3"})
    report = load_pretrained(other, tmp_path / "weights.safetensors")
    assert same(network, other)
    assert (report.missing, report.unexpected, report.share) == ((), (), 1.0)
    assert report.sha256 == sha256_file(tmp_path / "weights.safetensors")


def test_a_head_for_other_classes_is_left_random_and_reported(tmp_path):
    save_file(create_network(SMALL).state_dict(), tmp_path / "w.safetensors")
    other = create_network(NetworkConfig(name="cnn-9", classes=2))
    report = load_pretrained(other, str(tmp_path / "w.safetensors"))
    assert report.missing == report.unexpected == ("head.linear.bias", "head.linear.weight")


def test_a_folder_of_transformers_fills_the_backbone(folder, capfd):
    network = create_network(NetworkConfig(size=32))
    report = load_pretrained(network, folder)
    reference = MobileNetV2ForImageClassification.from_pretrained(folder).mobilenet_v2.state_dict()
    capfd.readouterr()
    assert all(torch.equal(value, reference[key]) for key, value in network.backbone.state_dict().items())
    assert report.missing == ("head.linear.bias", "head.linear.weight")
    assert report.share == 1.0
    assert report.sha256 == sha256_file(folder / "model.safetensors")


def test_loading_a_folder_prints_nothing(folder, capfd):
    load_pretrained(create_network(NetworkConfig(size=32)), folder)
    assert capfd.readouterr() == ("", "")


def test_the_folders_file_alone_fills_the_same(folder):
    from_folder, from_file = (create_network(NetworkConfig(size=32)) for _ in range(2))
    load_pretrained(from_folder, folder)
    report = load_pretrained(from_file, folder / "model.safetensors")
    assert same(from_folder.backbone, from_file.backbone)
    assert report.unexpected == ("backbone.bias", "backbone.weight")


def test_a_vision_transformer_folder_is_read_without_its_pooler(tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=64
    )
    ViTModel(config).save_pretrained(tmp_path)
    network = create_network(NetworkConfig(name=f"hf:{tmp_path}", size=64))
    report = load_pretrained(network, tmp_path)
    assert report.share == 1.0
    assert report.unexpected == ("backbone.pooler.dense.bias", "backbone.pooler.dense.weight")


@pytest.mark.parametrize(
    ("convolution", "dense"),
    [
        ("features.0", ("classifier.0", "classifier.3", "classifier.6")),
        ("features.0", ("pre_logits.fc1", "pre_logits.fc2", "head.fc")),
    ],
)
def test_vgg16_reads_the_names_of_torchvision_and_timm(tmp_path, convolution, dense):
    # Zeros everywhere but in the corners, so that 138 million parameters cost little.
    with torch.device("meta"):
        network = create_network(NetworkConfig(name="vgg16", classes=2))
    network.to_empty(device="cpu")
    ours = ("head.2", "head.5", "head.8")
    timm = "pre_logits.fc1" in dense
    weights = {}
    for name, value in network.state_dict().items():
        head = next((i for i, part in enumerate(ours) if name.startswith(part + ".")), None)
        theirs = (
            name.replace("convolutions.", "features.")
            if head is None
            else name.replace(ours[head], dense[head], 1)
        )
        shape = list(value.shape)
        if timm and head == 0 and value.dim() == 2:
            shape = [4096, 512, 7, 7]
        elif timm and head == 1 and value.dim() == 2:
            shape = [4096, 4096, 1, 1]
        weights[theirs] = torch.zeros(shape, dtype=torch.float16)
    weights[f"{convolution}.weight"][0, 0, 0, 0] = 2
    weights[f"{dense[0]}.weight"].view(-1)[-1] = 3
    save_file(weights, tmp_path / "vgg.safetensors")
    report = load_pretrained(network, tmp_path / "vgg.safetensors")
    assert (report.missing, report.unexpected) == ((), ())
    assert network.convolutions[0].weight[0, 0, 0, 0] == 2
    assert network.head[2].weight[-1, -1] == 3


def test_weights_of_another_network_are_refused_and_change_nothing(tmp_path, folder):
    save_file(create_network(SMALL).state_dict(), tmp_path / "w.safetensors")
    network = create_network(NetworkConfig(name="cnn-14"))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for source in (tmp_path / "w.safetensors", folder):
        with pytest.raises(InputError, match="of the network"):
            load_pretrained(network, source)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_pickles_are_not_read(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.bin")
    with pytest.raises(UnreadableFileError, match="pickled weights"):
        load_pretrained(create_network(SMALL), tmp_path / "weights.bin")
    ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]).save_pretrained(tmp_path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    network = create_network(NetworkConfig(name=f"hf:{tmp_path}", size=32))
    with pytest.raises(UnreadableFileError, match="pickled weights"):
        load_pretrained(network, tmp_path)


@pytest.mark.parametrize("source", ["no-such-file.safetensors", "./a/b", "a/b/c", "a/"])
def test_a_source_that_is_not_there_is_named(source):
    with pytest.raises(UnreadableFileError, match="no such weights"):
        load_pretrained(create_network(SMALL), source)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UnreadableFileError, match="no weights in this folder"):
        load_pretrained(create_network(SMALL), tmp_path)


def test_a_hub_name_is_downloaded_at_its_revision(monkeypatch, folder, tmp_path):
    asked = {}
    snapshot = tmp_path / "0123abc"
    snapshot.symlink_to(folder)

    def download(name, *, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(snapshot)

    monkeypatch.setattr("pneumoscope.learning.backbones.snapshot_download", download)
    report = load_pretrained(create_network(NetworkConfig(size=32)), "owner/model@v2")
    assert asked == {"name": "owner/model", "revision": "v2", "patterns": ["*.json", "*.safetensors"]}
    assert report.source == "owner/model@0123abc"


def test_an_unreachable_hub_is_a_download_error(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="--init FILE"):
        load_pretrained(create_network(SMALL), PUBLISHED["mobilenet-v2"])


def test_published_weights_are_named_for_networks_that_exist():
    assert set(PUBLISHED) < set(network_names())
