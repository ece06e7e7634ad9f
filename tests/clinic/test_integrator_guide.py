"""The commands of the integrator's guide, run in their order against a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clinic.films import dicom_film, png_film
from tests.clinic.serving import Serving, serving
from tests.tiny_bundle import write_tiny_bundle

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "integrator-guide.md").read_text(encoding="utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
PYTHON = re.findall(r"^```python\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("guide")
    bundle = write_tiny_bundle(folder / "tiny")
    (folder / "film.png").write_bytes(png_film(0.8))
    (folder / "film.dcm").write_bytes(dicom_film(0.2))
    with serving(folder, "--port", "0", "--workers", "1", "--bundle", str(bundle.directory)) as running:
        yield running


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_shell_commands(server: Serving) -> None:
    folder = server.log.parent
    script = "\n".join(["set -eu", *SHELL]).replace(ADDRESS, server.url)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["sh", "-c", script],
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    said = run.stdout.splitlines()
    assert said[:2] == ["done POSITIVE", "done"]
    given, live, ready = (json.loads(part) for part in re.findall(r"\{.*?\}(?=\{|$)", "".join(said[2:])))
    assert (given["diagnosis"], given["agrees"]) == ("viral", True)
    assert (live["status"], ready["status"]) == ("ok", "ok")
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")
    assert (folder / "heat.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "study.fhir.json").read_text())["resourceType"] == "Bundle"
    assert len(json.loads((folder / "batch.json").read_text())["films"]) == 2
    assert len(json.loads((folder / "studies.json").read_text())["studies"]) >= 2
    metrics = (folder / "metrics.txt").read_text()
    named = set(re.findall(r"^\| `(pneumoscope_\w+)", GUIDE, flags=re.MULTILINE))
    assert named == set(re.findall(r"^# HELP (\w+)", metrics, flags=re.MULTILINE))


def test_the_python_example(
    server: Serving, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(server.log.parent)
    (example,) = PYTHON
    exec(compile(example.replace(ADDRESS, server.url), "guide", "exec"), {"token": server.secret})

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("POSITIVE 0.9")
    assert all(re.match(r"[0-9a-f]{32} 20\d\d-", line) for line in lines[1:])
    assert len(lines) >= 2


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    from pneumoscope_clinic.settings import load_settings

    (example,) = re.findall(r"^```toml\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
    file = tmp_path / "clinic.toml"
    file.write_text(example.replace("/etc/pneumoscope", str(tmp_path)))
    (tmp_path / "fhir.token").write_text("secret")
    settings = load_settings(file, None, {})

    assert [one.name for one in settings.destinations] == ["pacs", "records"]
    assert settings.dicom.peers[0].ae_title == "CR1"
