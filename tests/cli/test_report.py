"""The command ``pneumoscope report`` prints where the page is and works without torch."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from pneumoscope.cli import documents
from pneumoscope.core.errors import InputError
from tests.reporting.runs import write_dataset, write_run


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return write_run(folder / "run", write_dataset(folder / "data", 24))


@pytest.fixture
def app():
    app = typer.Typer()
    documents.register(app)
    app.callback()(lambda: None)
    return app


def test_the_page_is_written_and_named(app, run_directory, tmp_path):
    result = CliRunner().invoke(app, ["report", str(run_directory), "-o", str(tmp_path / "page.html")])
    assert result.exit_code == 0
    assert "page.html" in result.output.replace("\n", "")
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.filterwarnings("ignore:HarfBuzz-Subset will be required:DeprecationWarning")
def test_the_pdf_lies_beside_the_page(app, run_directory, tmp_path):
    pytest.importorskip("weasyprint", reason="needs the extra 'pdf'")
    result = CliRunner().invoke(
        app, ["report", str(run_directory), "--pdf", "-o", str(tmp_path / "page.html")]
    )
    assert result.exit_code == 0
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")


def test_no_run_is_an_input_error(app, tmp_path):
    result = CliRunner().invoke(app, ["report", str(tmp_path / "absent")])
    assert isinstance(result.exception, InputError)


def test_torch_is_not_imported(run_directory, tmp_path):
    code = f"""
import sys
from pathlib import Path
from pneumoscope.reporting.run_report import write_run_report
write_run_report(Path({str(run_directory)!r}), file=Path({str(tmp_path / "p.html")!r}))
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.html").is_file()
