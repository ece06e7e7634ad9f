"""The README's commands exist with their options, its files exist, its Python runs names that exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer.main

import pneumoscope
from pneumoscope.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _commands(text: str) -> list[str]:
    found = re.findall(r"^(?:\$ | {4})(pneumoscope [^#\n]+)", text, flags=re.MULTILINE)
    return [command.strip() for command in found]


COMMANDS = [(page.name, command) for page in PAGES for command in _commands(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{p}: {c}" for p, c in COMMANDS])
def test_commands_parse(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    found = typer.main.get_command(app)
    while subcommands := getattr(found, "commands", None):
        if found.invoke_without_command and (not words or words[0].startswith("-")):
            break
        assert words[0] in subcommands, f"{page}: no command '{words[0]}'"
        found, words = subcommands[words[0]], words[1:]
    context = found.make_context("pneumoscope", [], resilient_parsing=True)
    context.resilient_parsing = False
    found.make_parser(context).parse_args(list(words))


def test_an_unknown_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        test_commands_parse("README.md", "pneumoscope predict film.png --no-such-option")


def test_the_readme_shows_every_verb() -> None:
    commands = typer.main.get_command(app).commands
    verbs = {*commands, *(f"data {name}" for name in commands["data"].commands)} - {"data"}
    assert {verb for verb in verbs if f"pneumoscope {verb} " in README} == verbs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_tree_exists() -> None:
    tree = re.search(r"```text\n(.*?)```", README, flags=re.DOTALL)
    assert tree is not None

    for line in tree[1].splitlines():
        path, inner = line.split()[0], line.startswith("  ")

        assert ((ROOT / "src/pneumoscope" if inner else ROOT) / path).is_dir(), path


def test_python_names_exist() -> None:
    assert set(re.findall(r"\bps\.(\w+)", README)) <= set(pneumoscope.__all__)


def test_configuration_page_names_every_key() -> None:
    from pneumoscope.data.splits import SplitConfig
    from pneumoscope.evaluation.evaluate import EvaluationConfig
    from pneumoscope.evaluation.shortcut_audit import ShortcutConfig
    from pneumoscope.evaluation.stress import StressConfig
    from pneumoscope.learning.config import AugmentationConfig, TrainConfig
    from pneumoscope.learning.ladder_config import LadderConfig, RungTable
    from pneumoscope.learning.search_space import SearchSpace

    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for config in (
        TrainConfig,
        AugmentationConfig,
        SplitConfig,
        EvaluationConfig,
        LadderConfig,
        RungTable,
        SearchSpace,
        StressConfig,
        ShortcutConfig,
    ):
        missing = [key for key in config.model_fields if key not in text]
        assert missing == [], config.__name__


def _clinic_keys() -> dict[str, object]:
    """Every key of the clinic's settings with its default; those of lists of tables under the list's name."""
    from pydantic import BaseModel
    from pydantic_core import PydanticUndefined

    from pneumoscope_clinic.settings import ClinicSettings, Destination, Peer

    def walk(model: type[BaseModel], prefix: str) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, field in model.model_fields.items():
            if isinstance(field.default, BaseModel):
                found.update(walk(type(field.default), f"{prefix}{name}."))
            else:
                required = field.default is PydanticUndefined
                found[prefix + name] = "required" if required else field.default
        return found

    keys = {**walk(ClinicSettings, ""), **walk(Destination, "destinations.")}
    del keys["destinations"]  # its table has a row for each key
    assert set(walk(Peer, "")) == {"ae_title", "address"}  # in the row of dicom.peers
    return keys


def test_configuration_page_has_every_key_of_a_clinic_with_its_default() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").partition("\n## serve\n")[2]
    prefix, shown = "", {}
    for keys, default in re.findall(r"^\| (.*?) \| ?(.*?) ?\|", text, flags=re.MULTILINE):
        if keys.startswith("key"):
            table = re.search(r"`\[(\w+)\]`", keys)
            prefix = f"{table[1]}." if table else "destinations." if "destination" in keys else ""
        elif keys.startswith("`"):
            names = re.findall(r"`([\w.]+)`", keys)
            values = json.loads("[" + re.sub(r"^none$", "null", default.replace("`", "")) + "]") or [
                "required"
            ]
            for name, value in zip(names, values if len(values) > 1 else values * len(names), strict=True):
                shown[prefix + name] = value

    def plain(default: object) -> object:
        """As the page has it: paths as text, an empty list as none."""
        return None if default == () else json.loads(json.dumps(default, default=str))

    expected = {name: plain(default) for name, default in _clinic_keys().items()}
    # The page leaves out what differs by the kind of destination, as if it were required.
    optional = [name for name in expected if name.startswith("destinations.") and not expected[name]]
    assert shown == {**expected, **dict.fromkeys(optional, "required")}
