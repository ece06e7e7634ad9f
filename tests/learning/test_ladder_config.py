"""A ladder is checked as a whole before anything is trained."""

from pathlib import Path

import pytest

from pneumoscope.core.errors import ConfigError
from pneumoscope.learning.ladder_config import LadderConfig, load_ladder, make_rungs


def ladder(*rungs, **values):
    tables = [{"says": "a network", **rung} for rung in rungs]
    return LadderConfig(**{"rung": tables, **values})


def test_a_rung_is_the_base_with_its_changes():
    config = ladder(
        {"name": "mlp", "train": {"network": "mlp", "augmentation": {"noise": 0.2}}},
        base={"epochs": 3, "seed": 7, "augmentation": {"noise": 0.1, "gamma": 0.0}},
    )
    (rung,) = make_rungs(config)
    assert (rung.config.network, rung.config.name, rung.config.epochs, rung.config.seed) == (
        "mlp",
        "mlp",
        3,
        7,
    )
    assert (rung.config.augmentation.noise, rung.config.augmentation.gamma) == (0.2, 0.0)
    assert rung.changes == {"network": "mlp", "augmentation": {"noise": 0.2}}


def test_a_grid_becomes_a_rung_a_combination():
    config = ladder(
        {"name": "grid", "vary": {"optimiser": ["adamw", "sgd"], "learning_rate": [5e-4, 0.01]}},
        {"name": "mlp", "train": {"network": "mlp"}},
    )
    rungs = make_rungs(config)
    assert [rung.name for rung in rungs] == [
        "grid-adamw-0.0005", "grid-adamw-0.01", "grid-sgd-0.0005", "grid-sgd-0.01", "mlp",
    ]  # fmt: skip
    assert rungs[3].says == "a network (optimiser sgd, learning rate 0.01)"
    assert (rungs[3].config.optimiser, rungs[3].config.learning_rate) == ("sgd", 0.01)
    assert [rung.name for rung in make_rungs(config, ("grid-sgd-0.01", "mlp"))] == ["grid-sgd-0.01", "mlp"]
    assert len(make_rungs(config, ("grid",))) == 4


def test_weights_take_the_place_of_the_publishers_and_of_nothing_else():
    config = ladder(
        {"name": "hub", "train": {"network": "vgg16"}},
        {"name": "default"},
        {"name": "none", "train": {"network": "vgg16", "init": "random"}},
        weights={"vgg16": "vgg.safetensors", "mobilenet-v2": "mobile"},
    )
    assert [rung.config.init for rung in make_rungs(config)] == ["vgg.safetensors", "mobile", "random"]


@pytest.mark.parametrize(
    ("rungs", "values", "message"),
    [
        ([{"name": "a", "train": {"colour": 1}}], {}, "rung 'a': unknown key 'colour'"),
        ([{"name": "a", "train": {"epochs": 0}}], {}, "rung 'a': 'epochs'"),
        ([{"name": "a"}, {"name": "a"}], {}, "a rung is there twice"),
        ([{"name": "a", "control": "b"}], {}, "control of rung 'a': there is no rung 'b'"),
    ],
)
def test_mistakes_are_named_with_their_rung(rungs, values, message):
    with pytest.raises(ConfigError, match=message):
        make_rungs(ladder(*rungs, **values))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="no rung 'c'; expected one of a, b"):
        make_rungs(ladder({"name": "a"}, {"name": "b"}), ("c",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("folds = 5", "'rung'"),
        ("run_folds = 6\n[[rung]]\nname = 'a'\nsays = 'b'", "run_folds is 6, but there are 5 folds"),
        ("[[rung]]\nname = 'a'\nsays = 'b'\ntrain = {seed = 1}", "cannot set 'seed'"),
        ("[[rung]]\nname = 'a'\nsays = 'b'\ntrian = {}", "unknown key"),
        ("[[rung]]\nname = 'a/b'\nsays = 'b'", "name"),
    ],
)
def test_a_ladder_that_makes_no_sense_is_refused(tmp_path, text, message):
    file = tmp_path / "ladder.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_ladder(file)


def test_the_shipped_ladder_holds_every_experiment_that_it_promises():
    rungs = {rung.name: rung.config for rung in make_rungs(load_ladder())}
    assert {"mlp", "cnn-small", "cnn-9", "cnn-14", "vgg16"} <= {config.network for config in rungs.values()}
    assert (rungs["cnn-14"].checkpoint, rungs["cnn-14-last"].checkpoint) == ("best", "last")
    assert len(rungs["fine-tune-5-dense"].dense_layers) == 4, "four hidden layers and the output"
    assert rungs["fine-tune-5-dense"].stage == "full"
    assert {rungs[name].stage for name in ("frozen", "frozen-best")} == {"frozen"}
    assert (rungs["frozen"].checkpoint, rungs["frozen-best"].checkpoint) == ("last", "best")
    assert rungs["frozen-then-fine-tune"].stage == "staged"
    assert (rungs["fine-tune"].augmentation.enabled, rungs["no-augmentation"].augmentation.enabled) == (
        True,
        False,
    )
    assert (rungs["fine-tune"].imbalance, rungs["no-class-weights"].imbalance) == ("weighted-loss", "none")
    assert (rungs["fine-tune"].task, rungs["binary"].task) == ("three-class", "binary")
    grid = [config for name, config in rungs.items() if name.startswith("grid-")]
    varied = {(config.optimiser, config.learning_rate, config.batch_size) for config in grid}
    assert len(grid) == len(varied) == 8
    assert len({config.seed for config in rungs.values()}) == len({c.size for c in rungs.values()}) == 1


def test_flags_reach_the_shipped_ladder():
    assert load_ladder(overrides={"run_folds": 1}).run_folds == 1


def test_the_ladders_page_names_every_shipped_rung():
    page = (Path(__file__).parents[2] / "docs" / "ladder.md").read_text(encoding="utf-8")
    rows = [table.name if not table.vary else f"{table.name}-" for table in load_ladder().rung]
    assert [name for name in rows if f"| {name}" not in page] == []
