"""Blocks are frozen, rates differ by layer and step, and features computed once give the same logits."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from pneumoscope.core.errors import ConfigError
from pneumoscope.learning.networks import NetworkConfig, create_network
from pneumoscope.learning.staging import (
    compute_features,
    learning_rate_factor,
    make_optimiser,
    parameter_groups,
    set_learning_rate,
    set_trainable,
    trainable_blocks,
)

from .phantoms import small_run


@pytest.fixture
def network():
    torch.manual_seed(0)
    return create_network(NetworkConfig(name="cnn-9", classes=3))


def trainable(network):
    return [any(p.requires_grad for p in block.parameters()) for block in network.blocks()]


@pytest.mark.parametrize(("blocks", "count"), [(0, 1), (3, 4), (8, 9), (None, 9)])
def test_the_last_blocks_and_the_head_are_trained(network, blocks, count):
    set_trainable(network, blocks)
    assert trainable(network) == [False] * (9 - count) + [True] * count


def test_unfreezing_undoes_freezing(network):
    set_trainable(network, 0)
    set_trainable(network, None)
    assert all(trainable(network))
    network.train()
    assert all(module.training for module in network.modules())


def test_frozen_batch_norms_keep_their_statistics_through_training(network):
    set_trainable(network, 2)
    network.train()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    network(torch.rand(4, 1, 32, 32))
    changed = [not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]
    assert changed == [False] * 6 + [True] * 2


@pytest.mark.parametrize("blocks", [-1, 9])
def test_more_blocks_than_there_are_is_an_error(network, blocks):
    with pytest.raises(ConfigError, match="0 to 8 blocks"):
        set_trainable(network, blocks)


def test_rates_fall_from_the_head_to_the_input(network):
    groups = parameter_groups(network, 1e-3, 0.05, layer_decay=0.5)
    head = [group for group in groups if group["name"].startswith("block-8-")]
    first = [group for group in groups if group["name"].startswith("block-0-")]
    assert [group["lr"] for group in head] == [1e-3, 1e-3]
    assert [group["lr"] for group in first] == pytest.approx([1e-3 / 256, 1e-3 / 256])
    assert {group["name"]: group["weight_decay"] for group in head} == {
        "block-8-weights": 0.05,
        "block-8-norms-and-biases": 0.0,
    }


def test_every_parameter_is_in_one_group_and_norms_do_not_decay():
    network = create_network(NetworkConfig(size=32))
    groups = parameter_groups(network, 1e-3, 0.05)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters())
    decaying = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    norms = {id(p) for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    assert not decaying & norms
    assert id(network.head.linear.weight) in decaying
    assert {group["lr"] for group in groups} == {1e-3}


def test_a_step_changes_only_what_is_trained(network):
    set_trainable(network, 1)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimiser = torch.optim.AdamW(parameter_groups(network, 1e-2, 0.1))
    network(torch.rand(4, 1, 32, 32))[0].square().sum().backward()
    optimiser.step()
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if name.startswith(("head.", "groups.3.1."))}


@pytest.mark.parametrize(
    ("name", "layers", "shape"),
    [("cnn-9", (), (5, 256, 1, 1)), ("cnn-9", (8,), (5, 256, 1, 1)), ("cnn-small", (), (5, 32, 8, 8))],
)
def test_features_computed_once_give_the_same_logits(name, layers, shape):
    network = create_network(NetworkConfig(name=name, dense_layers=layers))
    films = torch.rand(5, 1, 32, 32)
    features = compute_features(network, films.split(2))
    assert features.shape == shape
    assert network.training
    network.eval()
    torch.testing.assert_close(network.classify(features), network(films)[0])
    network.classify(features).sum().backward()
    assert any(p.grad is not None for p in network.head.parameters())


@pytest.mark.parametrize(
    ("stage", "expected"),
    [("full", [9, 9, 9]), ("frozen", [1, 1, 1]), ("fine-tune-last", [3, 3, 3]), ("staged", [1, 2, 9])],
)
def test_what_a_stage_trains_in_each_epoch(network, stage, expected):
    unfreeze = [{"epoch": 0, "blocks": 0}, {"epoch": 1, "blocks": 1}, {"epoch": 2, "blocks": -1}]
    config = small_run(stage=stage, init="somewhere", last_blocks=2, unfreeze=unfreeze)
    for epoch, count in enumerate(expected):
        set_trainable(network, trainable_blocks(config, epoch))
        assert trainable(network) == [False] * (9 - count) + [True] * count


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", AdamW), ("adam", Adam), ("sgd", SGD), ("rmsprop", RMSprop)]
)
def test_optimisers_and_layer_wise_rates(network, name, kind):
    optimiser = make_optimiser(
        network, small_run(optimiser=name, learning_rate=0.1, layer_decay=0.5, weight_decay=0.03)
    )
    assert type(optimiser) is kind
    set_learning_rate(optimiser, 0.5)
    rates = {group["name"]: group["lr"] for group in optimiser.param_groups}
    assert rates["block-8-weights"] == 0.05
    assert rates["block-6-weights"] == pytest.approx(0.0125)
    assert {group["weight_decay"] for group in optimiser.param_groups} == {0.0, 0.03}


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
