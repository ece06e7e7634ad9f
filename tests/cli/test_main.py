"""The entry point: help and version, and what people see and scripts get when something is wrong."""

import sys

import pytest
from typer.testing import CliRunner

from pneumoscope import __version__
from pneumoscope.cli import main as entry
from pneumoscope.cli.main import app, main
from pneumoscope.core.errors import ConfigError, DatasetError, PneumoscopeError

COMMANDS = ("data", "train", "evaluate", "predict", "report")


def invoke(monkeypatch, *arguments):
    """What ``main`` does in a process of its own: the exit code."""
    monkeypatch.setattr(sys, "argv", ["pneumoscope", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def test_help_names_every_command_and_what_this_is_not():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(command in result.stdout for command in COMMANDS)
    assert "not a medical device" in " ".join(result.stdout.split())


@pytest.mark.parametrize("command", [*COMMANDS, "data import", "data audit", "data split", "data export"])
def test_every_command_explains_itself(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_version(monkeypatch, capsys):
    assert invoke(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"pneumoscope {__version__}\n"


def test_without_arguments_the_help_is_shown(monkeypatch, capsys):
    assert invoke(monkeypatch) in (0, 2)  # click before and after 8.2
    assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["diagnose"], ["train", "--epochs", "many"], ["predict"]])
def test_a_wrong_command_line_is_the_users_fault(monkeypatch, capsys, arguments):
    assert invoke(monkeypatch, *arguments) == 2
    assert "Usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "no-bundle", "films"], ["error:", "no-bundle"]),
        (["report", "no-run"], ["error:", "where: no-run"]),
        (["data", "split", "no-data"], ["error:", "no-data"]),
        (
            ["data", "import", "no-films", "-o", "set"],
            ["error:", "no such file or folder", "where: no-films"],
        ),
        (["train", "no-films", "--network", "mlp"], ["error:", "no-films"]),
        (["train", "x", "--config", "no.toml"], ["error: no such configuration file", "where: no.toml"]),
        (["train", "x", "--set", "sise=3"], ["error: unknown key 'sise'", "expected: one of name, network"]),
    ],
)
def test_errors_are_messages_not_tracebacks(monkeypatch, capsys, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert invoke(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert all(word in captured.err for word in words)
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [(PneumoscopeError("it broke"), 1), (DatasetError("no images"), 2), (ConfigError("no such key"), 2)],
)
def test_the_exit_code_is_the_errors(monkeypatch, capsys, error, code):
    def fail():
        raise error

    monkeypatch.setattr(entry, "app", fail)
    assert invoke(monkeypatch) == code
    assert capsys.readouterr().err == f"error: {error.problem}\n"


def test_a_mistake_of_ours_is_not_dressed_up(monkeypatch):
    def fail():
        raise ZeroDivisionError

    monkeypatch.setattr(entry, "app", fail)
    with pytest.raises(ZeroDivisionError):
        main()


def test_what_the_system_says_of_a_path_is_a_message(monkeypatch, capsys):
    def fail():
        raise PermissionError(13, "Permission denied", "/a/folder")

    monkeypatch.setattr(entry, "app", fail)
    assert invoke(monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the system refuses this path: Permission denied\n  where: /a/folder\n")
    assert "remedy: " in said


@pytest.mark.parametrize("error", [OSError("no number"), ConnectionResetError(104, "Connection reset")])
def test_an_error_of_the_system_without_a_path_is_not_dressed_up(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(entry, "app", fail)
    with pytest.raises(OSError, match=str(error.args[-1])):
        main()
