"""The README's commands exist with their options, its links lead somewhere, its Python runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from scripts import option_tables

from pneumoscope.cli.main import app
from pneumoscope.data.phantoms import WriteConfig, write_phantoms

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
        test_commands_parse("README.md", "pneumoscope predict image.png --no-such-option")


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


def test_its_python_runs(tmp_path: Path) -> None:
    """All of it, one block after the other, on phantoms and with a small training configuration."""
    images = write_phantoms(tmp_path / "images", WriteConfig(count=120, size=160, layout="csv"))
    shutil.copy(next(images.rglob("*.png")), tmp_path / "image.png")
    small = 'network = "mlp"\ninit = "random"\nsize = 32\nepochs = 1\nthreads = 1\n'
    (tmp_path / "train.toml").write_text(small)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 2
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=tmp_path, check=False, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split()[-1] in ("POSITIVE", "NEGATIVE", "ABSTAIN")
    assert (tmp_path / "roc.png").stat().st_size > 0


def test_configuration_page_is_that_of_the_models() -> None:
    """``python -m scripts.option_tables`` rewrites its tables."""
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page.count("<!-- options ") == len(re.findall(r"^<!-- end -->$", page, flags=re.MULTILINE)) > 10
    assert option_tables.generated(page) == page
