"""Configurations: file and flags together, and an error that names the key when something is wrong."""

import pytest
from pydantic import Field, ValidationError

from pneumoscope.core.config import Config, load_config
from pneumoscope.core.errors import ConfigError


class Inner(Config):
    noise: float = Field(0.1, ge=0, le=1)
    blur: float = 0.0


class Outer(Config):
    size: int = 224
    name: str = "run"
    inner: Inner = Inner()
    steps: tuple[Inner, ...] = ()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text('size = 64\nname = "mine"\n[inner]\nnoise = 0.5\nblur = 0.2\n', encoding="utf-8")
    return path


def test_defaults():
    assert load_config(Outer) == Outer()


def test_the_file_wins_over_defaults_and_flags_win_over_the_file(file):
    assert load_config(Outer, file) == Outer(size=64, name="mine", inner=Inner(noise=0.5, blur=0.2))
    config = load_config(Outer, file, {"size": 32, "name": None, "inner.noise": 0.0})
    assert config == Outer(size=32, name="mine", inner=Inner(noise=0.0, blur=0.2))


def test_a_flag_may_name_a_table_that_the_file_does_not_have():
    assert load_config(Outer, overrides={"inner.blur": 1.0}).inner == Inner(blur=1.0)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Outer().size = 3


@pytest.mark.parametrize(
    ("overrides", "problem", "expected"),
    [
        ({"sise": 3}, "unknown key 'sise'", "one of size, name, inner, steps"),
        ({"size": "large"}, "'size'.*'large'", None),
        ({"inner.noise": 2}, r"'inner.noise'.*less than or equal to 1.*got 2", None),
    ],
)
def test_errors_name_the_key(file, overrides, problem, expected):
    with pytest.raises(ConfigError, match=problem) as caught:
        load_config(Outer, file, overrides)
    assert caught.value.where == str(file)
    assert caught.value.expected == expected
    assert caught.value.remedy


def test_an_unknown_key_in_a_table_is_named_with_the_keys_of_that_table():
    with pytest.raises(ConfigError, match=r"unknown key 'inner\.noize'") as caught:
        load_config(Outer, overrides={"inner.noize": 0.1})
    assert caught.value.expected == "one of noise, blur"


def test_an_unknown_key_in_a_list_of_tables_is_named():
    with pytest.raises(ConfigError, match=r"unknown key 'steps\.0\.noize'") as caught:
        load_config(Outer, overrides={"steps": [{"noize": 0.1}]})
    assert caught.value.expected is None


def test_a_flag_that_reaches_into_a_plain_value_is_an_error():
    with pytest.raises(ConfigError, match=r"'size\.noise'"):
        load_config(Outer, overrides={"size": 3, "size.noise": 1})


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(Outer, tmp_path / "none.toml")


def test_a_folder_is_no_configuration(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(Outer, tmp_path)


@pytest.mark.parametrize("content", [b"size = = 3", b"\xff\xfe\x00"])
def test_a_file_that_is_not_toml(file, content):
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="not valid TOML") as caught:
        load_config(Outer, file)
    assert caught.value.where == str(file)
