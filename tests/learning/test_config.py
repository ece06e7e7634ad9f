"""A training configuration says no before a run starts, not two epochs later."""

import subprocess
import sys
from pathlib import Path

import pytest

from pneumoscope.core.config import load_config
from pneumoscope.core.errors import ConfigError
from pneumoscope.core.records import Preprocessing, Task
from pneumoscope.learning.config import AugmentationConfig, TrainConfig, UnfreezeStep

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


def test_mirroring_is_off_by_default_and_says_why():
    assert AugmentationConfig().horizontal_flip is False
    assert "situs inversus" in AugmentationConfig.__doc__


def test_a_configuration_survives_its_json():
    config = TrainConfig(network="cnn-9", task="binary", init="random", augmentation={"noise": 0.1})
    assert TrainConfig(**config.model_dump(mode="json")) == config


def test_the_preprocessing_is_that_of_the_bundle():
    config = TrainConfig(size=96, fit="letterbox", exposure="none")
    assert config.preprocessing == Preprocessing(size=96, fit="letterbox", exposure="none")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stage": "frozen", "init": "random"}, "builds on pretrained weights"),
        ({"stage": "staged", "unfreeze": [{"epoch": 1, "blocks": 0}]}, "must have epoch = 0"),
        ({"stage": "staged", "unfreeze": []}, "must have epoch = 0"),
        ({"epochs": 0}, "'epochs'"),
        ({"batch_size": 1}, "'batch_size'"),
        ({"ema_decay": 1.0}, "'ema_decay'"),
        ({"name": "../elsewhere"}, "'name'"),
        ({"task": "four-class"}, "'task'"),
        ({"optimizer": "sgd"}, "unknown key 'optimizer'"),
        ({"augmentation": {"rotation": 3}}, r"unknown key 'augmentation\.rotation'"),
        ({"costs": {"missed_pneumonia": -1}}, r"'costs\.missed_pneumonia'"),
    ],
)
def test_what_cannot_work_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, overrides=values)


def test_everything_can_come_from_a_file(tmp_path):
    file = tmp_path / "train.toml"
    file.write_text(
        'network = "resnet-18"\ntask = "binary"\nstage = "staged"\nema_decay = 0.9\n'
        "[[unfreeze]]\nepoch = 0\nblocks = 0\n[[unfreeze]]\nepoch = 1\nblocks = -1\n"
        "[augmentation]\nhorizontal_flip = true\n[costs]\nmissed_pneumonia = 20\n"
    )
    config = load_config(TrainConfig, file, {"augmentation.noise": 0.0})
    assert config.unfreeze == (UnfreezeStep(epoch=0, blocks=0), UnfreezeStep(epoch=1, blocks=-1))
    assert config.augmentation == AugmentationConfig(horizontal_flip=True, noise=0.0)
    assert (config.task, config.costs.missed_pneumonia) == (Task.BINARY, 20)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_configurations_that_come_along_are_valid(file):
    load_config(TrainConfig, file)


def test_reading_a_configuration_does_not_load_torch():
    code = "import sys, pneumoscope.learning.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
