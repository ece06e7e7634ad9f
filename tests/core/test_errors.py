"""Errors say what, where, what else and what to do, and survive the way back from a worker process."""

import pickle
from pathlib import Path

import pytest

from pneumoscope.core import errors
from pneumoscope.core.errors import (
    BundleError,
    ConfigError,
    DatasetError,
    InputError,
    PneumoscopeError,
    UnreadableFileError,
)

KINDS = [getattr(errors, name) for name in errors.__all__]


def test_a_message_holds_all_four_parts():
    error = ConfigError("unknown key 'sise'", where=Path("a.toml"), expected="size", remedy="correct it")
    assert str(error) == "a.toml: unknown key 'sise'; expected size; correct it"
    assert (error.problem, error.where) == ("unknown key 'sise'", "a.toml")
    assert (error.expected, error.remedy) == ("size", "correct it")


def test_parts_that_are_missing_leave_no_trace():
    assert str(PneumoscopeError("it broke")) == "it broke"
    assert str(BundleError("no model", where="b")) == "b: no model"
    assert str(DatasetError("empty", remedy="import images")) == "empty; import images"


@pytest.mark.parametrize("kind", KINDS)
def test_the_exit_code_tells_whose_fault_it_was(kind):
    assert kind.exit_code == (1 if kind is PneumoscopeError else 2)
    assert issubclass(kind, PneumoscopeError)
    assert issubclass(kind, InputError) == (kind is not PneumoscopeError)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickling(kind):
    error = kind("it broke", where="film.dcm", expected="an image", remedy="look at it")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert vars(back) == vars(error)
    assert str(back) == str(error)


def test_a_caller_may_catch_the_whole_tree():
    with pytest.raises(PneumoscopeError, match="truncated"):
        raise UnreadableFileError("truncated")
