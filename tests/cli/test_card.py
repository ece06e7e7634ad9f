"""``pneumoscope card`` prints or writes the card of a bundle."""

import pytest
import typer
from typer.testing import CliRunner

from pneumoscope.cli import documents as command
from pneumoscope.core.errors import BundleError
from pneumoscope.reporting.bundle_card import bundle_card
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture
def run():
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)

    def invoke(*arguments):
        result = CliRunner().invoke(app, ["card", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def test_the_card_is_printed_or_written(run, tmp_path):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    expected = bundle_card(bundle.document, str(bundle.directory))
    assert run(bundle.directory).stdout == expected
    result = run(bundle.directory, "--output", tmp_path / "card.md")
    assert result.stdout == ""
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == expected


def test_what_is_no_bundle_has_no_card(run, tmp_path):
    with pytest.raises(BundleError, match="no bundle"):
        run(tmp_path)


def test_the_evidence_pack_is_written(run, tmp_path):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    result = run(bundle.directory, "--out", tmp_path / "pack")
    assert result.exit_code == 0
    names = sorted(file.name for file in (tmp_path / "pack").iterdir())
    assert names == ["card.html", "card.json", "card.md", "sbom.cdx.json"]
    assert bundle.id in (tmp_path / "pack" / "card.html").read_text()
