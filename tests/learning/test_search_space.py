"""The space of a search: what it takes, what a point of it stands for, and how augmentation is scaled."""

import subprocess
import sys

import pytest

from pneumoscope.core.config import load_config
from pneumoscope.core.errors import ConfigError
from pneumoscope.learning.config import AugmentationConfig, TrainConfig
from pneumoscope.learning.search_space import (
    SearchSpace,
    base_parameters,
    check_space,
    scale_augmentation,
    suggest,
    trial_config,
)

BASE = TrainConfig()
SPACE = SearchSpace()


class Lowest:
    """A trial that draws the lower end or the first choice, and remembers what it was asked."""

    def __init__(self):
        self.asked = {}

    def suggest_float(self, name, low, high, *, log=False):
        self.asked[name] = (low, high, log)
        return low

    def suggest_categorical(self, name, choices):
        self.asked[name] = choices
        return choices[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat = [1]", r"unknown key 'learning_rat'.*learning_rate"),
        ("learning_rate = {low = 1, high = 0.1}", "low is 1, above high, 0.1"),
        ("learning_rate = {low = 0, high = 0.1, log = true}", "logarithmic range must begin above 0"),
        ("learning_rate = {low = 0.1}", r"'learning_rate\.high'"),
        ("optimiser = ['adagrad']", "'optimiser.0'"),
        ("size = []", "'size'"),
        ("fixed = ['colour']", "'fixed' names colour; it can name optimiser, "),
        ("dense_layers = [12]", r"'dense_layers\.0'"),
        ("= 3", "not valid TOML"),
    ],
)
def test_a_space_that_cannot_be_is_refused(tmp_path, text, message):
    file = tmp_path / "space.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(SearchSpace, file)
    assert caught.value.where == str(file)
    assert caught.value.exit_code == 2


def test_something_must_be_searched():
    with pytest.raises(ConfigError, match="nothing to search"):
        load_config(SearchSpace, overrides={"fixed": list(SPACE.searched())})


def test_a_file_changes_what_is_drawn(tmp_path):
    file = tmp_path / "space.toml"
    file.write_text(
        'batch_size = [8]\ndense_layers = [[64, 32], []]\nfixed = ["size", "stage"]\n'
        "dropout = {low = 0.1, high = 0.1}\n"
    )
    trial = Lowest()
    point = suggest(trial, load_config(SearchSpace, file))
    assert trial.asked["batch_size"] == (8,)
    assert trial.asked["dense_layers"] == ("64-32", "none")
    assert trial.asked["dropout"] == (0.1, 0.1, False)
    assert trial.asked["learning_rate"] == (5e-5, 3e-3, True)
    assert not {"size", "stage", "fixed", "sgd_rate_factor"} & set(point)


def test_a_point_is_the_base_with_its_values():
    point = {
        "optimiser": "sgd", "learning_rate": 0.00123456, "batch_size": 16, "dropout": 0.1,
        "augmentation_strength": 0.5, "ema_decay": 0.0, "dense_layers": "512-128", "stage": "frozen",
    }  # fmt: skip
    config = trial_config(BASE, SPACE, point)
    changed = {name for name in TrainConfig.model_fields if getattr(config, name) != getattr(BASE, name)}
    assert changed == {*point, "augmentation"} - {"augmentation_strength"}
    assert config.learning_rate == 0.03705, "30 times that of the others, both to four digits"
    assert config.dense_layers == (512, 128)
    assert config.augmentation.rotation_degrees == 6.0
    assert trial_config(BASE, SPACE, {"dense_layers": "none"}).dense_layers == ()


def test_a_point_that_no_run_can_have_is_an_error():
    with pytest.raises(ConfigError, match=r"no training run can have batch_size = 1"):
        trial_config(BASE, SPACE, {"batch_size": 1})


def test_the_base_is_a_point_of_its_space():
    point = base_parameters(BASE, SPACE)
    assert set(point) == set(SPACE.searched())
    assert trial_config(BASE, SPACE, point) == BASE
    sgd = TrainConfig(optimiser="sgd", learning_rate=0.03, ema_decay=None)
    point = base_parameters(sgd, SPACE)
    assert (point["learning_rate"], point["ema_decay"]) == (pytest.approx(0.001), 0.0)
    assert trial_config(sgd, SPACE, point) == sgd.model_copy(update={"ema_decay": 0.0})


def test_values_outside_of_the_space_are_left_to_the_sampler():
    assert set(SPACE.searched()) - set(base_parameters(TrainConfig(size=64, dropout=0.6), SPACE)) == {
        "size", "dropout",
    }  # fmt: skip


def test_stages_that_nobody_asked_for_need_weights():
    random = TrainConfig(init="random")
    assert check_space(SPACE, random, pretrained=False).stage == ("full",)
    assert check_space(SPACE, BASE, pretrained=True) == SPACE
    mixing = TrainConfig(mixing={"mixup_probability": 0.5})
    assert check_space(SPACE, mixing, pretrained=True).stage == ("full", "fine-tune-last", "staged")
    for base in (random, BASE):
        with pytest.raises(ConfigError, match="pretrained weights"):
            check_space(SearchSpace(stage=("frozen",)), base, pretrained=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": [32, 1]}, "batch_size = 1"),
        ({"dropout": {"low": 0, "high": 1}}, "dropout = 1"),
        ({"size": [8]}, "size = 8"),
        ({"dense_layers": [[0]]}, "dense_layers = '0'"),
    ],
)
def test_every_end_of_the_space_is_tried_before_a_trial(values, message):
    with pytest.raises(ConfigError, match=message):
        check_space(SearchSpace(**values), BASE, pretrained=True)


def test_teachers_are_not_trained_in_every_trial():
    with pytest.raises(ConfigError, match="teachers of 'distillation'"):
        check_space(SPACE, TrainConfig(distillation={}), pretrained=True)


def test_strength_scales_what_is_0_without_change_and_raises_factors_to_its_power():
    full = AugmentationConfig()
    half, double = scale_augmentation(full, 0.5), scale_augmentation(full, 2)
    assert (half.rotation_degrees, double.rotation_degrees) == (6.0, 24.0)
    assert (half.erasing_probability, double.erasing_probability) == (0.125, 0.5)
    assert half.erasing_area == 0.06
    assert double.soften_scale == pytest.approx(0.4**2)
    assert half.soften_scale == pytest.approx(0.4**0.5, abs=1e-4)
    assert double.horizontal_flip is False
    assert scale_augmentation(full, 1) == full
    assert scale_augmentation(full, 0).enabled is False


def test_strength_stays_within_the_bounds_of_each_field():
    most = scale_augmentation(AugmentationConfig(), 1000)
    assert (most.rotation_degrees, most.translation, most.noise) == (180, 0.5, 1)
    assert most.erasing_probability == 1
    assert most.scale == pytest.approx(0.15 + 0.95 * 0.85), "1 itself is excluded"
    assert most.soften_scale == pytest.approx(0.05 * 0.4), "0 is excluded"


def test_every_number_of_the_augmentation_is_scaled():
    """A new field that is neither nothing at 0 nor says ``no_change`` would stay as it is unnoticed."""
    numbers = [name for name, field in AugmentationConfig.model_fields.items() if field.annotation is float]
    start = AugmentationConfig(**dict.fromkeys(numbers, 0.25))
    scaled = scale_augmentation(start, 0.5)
    assert [name for name in numbers if getattr(scaled, name) == getattr(start, name)] == []


def test_a_space_needs_neither_torch_nor_optuna():
    code = (
        "import sys, pneumoscope.learning.search_space; sys.exit(bool({'torch', 'optuna'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
