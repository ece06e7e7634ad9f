"""Every network gives logits and its last feature map, and says what its head weighs."""

import pytest
import torch
from torch import nn

from pneumoscope.core.errors import ConfigError
from pneumoscope.learning.networks import NetworkConfig as Config
from pneumoscope.learning.networks import PooledHead, create_network, network_names

OWN = ("mlp", "cnn-small", "cnn-9", "cnn-14")


def weight_layers(network: nn.Module) -> int:
    return sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in network.modules())


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("side", [32, 75])
def test_own_networks_take_films_of_any_side(name, side):
    network = create_network(Config(name=name, classes=2)).eval()
    logits, features = network(torch.rand(3, 1, side, side))
    assert logits.shape == (3, 2)
    assert features.dim() == 4
    torch.testing.assert_close(network.classify(features), logits)


@pytest.mark.parametrize(("name", "layers"), [("mlp", 3), ("cnn-small", 3), ("cnn-9", 9), ("cnn-14", 14)])
def test_own_networks_have_the_weight_layers_of_their_names(name, layers):
    assert weight_layers(create_network(Config(name=name))) == layers


def test_vgg16_is_configuration_d():
    with torch.device("meta"):
        network = create_network(Config(name="vgg16", classes=1000))
    assert weight_layers(network) == 16
    # Simonyan and Zisserman, table 2: 138 million parameters.
    assert sum(parameter.numel() for parameter in network.parameters()) == 138_357_544
    assert len(network.blocks()) == 14
    assert network.head_weight() is None


def test_vgg16_refuses_films_that_it_would_pool_away():
    with pytest.raises(ConfigError, match="at least 32"):
        create_network(Config(name="vgg16", size=16))


@pytest.mark.parametrize("name", OWN)
def test_blocks_cover_every_parameter_once_and_end_with_the_head(name):
    network = create_network(Config(name=name))
    blocks = network.blocks()
    covered = [id(parameter) for block in blocks for parameter in block.parameters()]
    assert sorted(covered) == sorted(id(parameter) for parameter in network.parameters())
    assert blocks[-1] is network.head


def test_head_weight_makes_the_map_whose_mean_is_the_logit():
    network = create_network(Config(name="cnn-9", classes=3)).eval()
    logits, features = network(torch.rand(2, 1, 48, 48))
    maps = torch.einsum("kc,nchw->nkhw", network.head_weight(), features)
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + network.head.linear.bias, logits)


def test_only_networks_with_a_pooled_map_have_a_head_weight():
    given = {name: create_network(Config(name=name)).head_weight() is not None for name in OWN}
    assert given == {"mlp": False, "cnn-small": False, "cnn-9": True, "cnn-14": True}


def test_the_networks_learn():
    films = torch.rand(16, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(16) % 2
    films[targets == 1, :, :16] *= 0.2
    for name in OWN:
        torch.manual_seed(0)
        network = create_network(Config(name=name, classes=2, dropout=0))
        optimiser = torch.optim.Adam(network.parameters(), 1e-3)
        for _ in range(15):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(films)[0], targets)
            loss.backward()
            optimiser.step()
        assert loss < 0.2, name


def test_dropout_is_that_of_the_configuration():
    assert create_network(Config(name="cnn-9", dropout=0.35)).head.dropout.p == 0.35
    assert isinstance(create_network(Config(name="cnn-9")).head, PooledHead)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        create_network(Config(name="lenet"))
    assert all(name in str(caught.value) for name in network_names())


@pytest.mark.parametrize("name", [*OWN, "vgg16"])
def test_hidden_dense_layers_come_before_the_output(name):
    plain = create_network(Config(name=name, size=32, dense_layers=(6,)))
    deep = create_network(Config(name=name, size=32, dense_layers=(6, 5, 4, 3))).eval()
    assert weight_layers(deep.head) == 5, "five dense layers are four hidden ones and the output"
    assert weight_layers(deep) == weight_layers(plain) + 3
    logits, features = deep(torch.rand(2, 1, 32, 32))
    assert logits.shape == (2, 3)
    torch.testing.assert_close(deep.classify(features), logits)
    assert deep.head_weight() is None, "a head that is not linear gives no class-activation map"
