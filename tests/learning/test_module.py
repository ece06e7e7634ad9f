"""Loss, figures, schedule and stages, against numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from pneumoscope.core.errors import ConfigError
from pneumoscope.learning.module import FilmClassifier, StepPlan, learning_rate_factor
from pneumoscope.learning.networks import Network, NetworkConfig, create_network

from .phantoms import small_run


class Echo(Network):
    """Takes logits for films and gives them back."""

    def forward(self, films):
        return films, None

    def blocks(self):
        return [nn.Identity()]


@pytest.fixture
def logged(monkeypatch):
    values = {}
    monkeypatch.setattr(FilmClassifier, "log_dict", lambda _, figures: values.update(figures))
    monkeypatch.setattr(FilmClassifier, "log", lambda _, name, value, **__: values.update({name: value}))
    return values


def validated(logged, logits, targets):
    module = FilmClassifier(Echo(), small_run(), None, StepPlan(1, 1))
    for part in range(0, len(targets), 2):
        module.validation_step(
            (torch.tensor(logits[part : part + 2]), torch.tensor(targets[part : part + 2])), 0
        )
    module.on_validation_epoch_end()
    return {name: float(value) for name, value in logged.items()}


def staged(stage, **changes):
    config = small_run(stage=stage, init="somewhere", **changes)
    network = create_network(NetworkConfig(name="cnn-9"))
    return FilmClassifier(network, config, None, StepPlan(1, config.epochs))


def trainable(module):
    return [all(p.requires_grad for p in block.parameters()) for block in module.network.blocks()]


def test_the_cosine_rises_and_falls_to_zero():
    config = small_run(schedule="cosine", warmup=0.1)
    factors = [learning_rate_factor(step, 100, config) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_one_cycle_rises_over_three_tenths():
    config = small_run(schedule="one-cycle")
    assert learning_rate_factor(29, 100, config) == 1
    assert learning_rate_factor(14, 100, config) == 0.5
    assert learning_rate_factor(65, 100, config) == pytest.approx(0.5)


def test_constant_stays_after_the_warm_up():
    config = small_run(schedule="constant", warmup=0.05)
    assert [learning_rate_factor(step, 100, config) for step in (0, 4, 5, 99)] == [0.2, 1, 1, 1]


def test_a_run_of_one_step_learns_at_full_rate():
    assert learning_rate_factor(0, 1, small_run(schedule="cosine")) == 1
    assert StepPlan(0, 3).total == 1


def test_the_loss_is_weighted_and_smoothed(logged):
    weights = torch.tensor([2.0, 0.5, 1.0])
    module = FilmClassifier(Echo(), small_run(label_smoothing=0.3), weights, StepPlan(1, 1))
    logits, targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), torch.tensor([0, 1])
    log_p = logits.log_softmax(1)
    plain = [-log_p[0, 0] * 2.0, -log_p[1, 1] * 0.5]
    spread = [-(log_p[row] * weights).sum() / 3 for row in (0, 1)]
    expected = sum(0.7 * a + 0.3 * b for a, b in zip(plain, spread, strict=True)) / 2.5
    assert float(module.training_step((logits, targets), 0)) == pytest.approx(float(expected))
    assert float(logged["train_loss"]) == pytest.approx(float(expected))


def test_validation_figures(logged):
    logits = [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    figures = validated(logged, logits, [0, 1, 2, 2])
    losses = [
        -torch.tensor(row).log_softmax(0)[target].item()
        for row, target in zip(logits, [0, 1, 2, 2], strict=True)
    ]
    # Each class counts the same: the two viral films share a third.
    assert figures["validation_loss"] == pytest.approx(
        (losses[0] + losses[1] + (losses[2] + losses[3]) / 2) / 3
    )
    # p(pneumonia): 0.21, 0.79, 0.67, 0.42 -> right, right, right, wrong; the normal film is the lowest.
    assert figures["validation_accuracy"] == 0.75
    assert figures["validation_auc"] == 1.0


def test_an_auc_needs_both_kinds_of_films(logged):
    figures = validated(logged, [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [1, 2])
    assert math.isnan(figures["validation_auc"])
    assert figures["validation_loss"] == pytest.approx(
        -torch.tensor([0.0, 1.0, 0.0]).log_softmax(0)[1].item()
    )


def test_each_validation_begins_anew(logged):
    module = FilmClassifier(Echo(), small_run(), None, StepPlan(1, 1))
    for target in (1, 0):
        module.validation_step((torch.tensor([[0.0, 3.0, 0.0]]), torch.tensor([target])), 0)
        module.on_validation_epoch_end()
        assert float(logged["validation_accuracy"]) == target


@pytest.mark.parametrize(
    ("stage", "expected"), [("full", [9, 9, 9]), ("fine-tune-last", [3, 3, 3]), ("staged", [1, 2, 9])]
)
def test_what_a_stage_trains_in_each_epoch(monkeypatch, stage, expected):
    unfreeze = [{"epoch": 0, "blocks": 0}, {"epoch": 1, "blocks": 1}, {"epoch": 2, "blocks": -1}]
    module = staged(stage, last_blocks=2, unfreeze=unfreeze)
    for epoch, count in enumerate(expected):
        monkeypatch.setattr(FilmClassifier, "current_epoch", epoch)
        module.on_train_epoch_start()
        assert trainable(module) == [False] * (9 - count) + [True] * count


def test_a_frozen_network_classifies_features():
    module = staged("frozen")
    features = torch.rand(2, 256, 1, 1)
    module.eval()
    torch.testing.assert_close(module(features), module.network.classify(features))
    module.configure_optimizers()
    assert trainable(module) == [False] * 8 + [True]


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "fine-tune-last", "last_blocks": 9},
        {"stage": "staged", "unfreeze": [{"epoch": 0, "blocks": 0}, {"epoch": 2, "blocks": 9}]},
    ],
)
def test_more_blocks_than_there_are_are_refused_before_the_first_step(changes):
    with pytest.raises(ConfigError, match="0 to 8 blocks"):
        staged(**changes)


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", AdamW), ("adam", Adam), ("sgd", SGD), ("rmsprop", RMSprop)]
)
def test_optimisers_and_layer_wise_rates(name, kind):
    module = staged("full", optimiser=name, learning_rate=0.1, layer_decay=0.5, weight_decay=0.03, warmup=0)
    chosen = module.configure_optimizers()
    optimiser = chosen["optimizer"]
    assert type(optimiser) is kind
    assert chosen["lr_scheduler"]["interval"] == "step"
    rates = {group["name"]: group["initial_lr"] for group in optimiser.param_groups}
    assert rates["block-8-weights"] == 0.1
    assert rates["block-6-weights"] == pytest.approx(0.025)
    assert {group["weight_decay"] for group in optimiser.param_groups} == {0.0, 0.03}
