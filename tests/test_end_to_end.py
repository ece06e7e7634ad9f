"""The real command line in processes of its own, from nothing to a report, on phantoms."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

TINY = ("--network", "cnn-9", "--init", "random", "--size", "32", "--batch-size", "16", "--set", "threads=1")


def command(*arguments: object) -> list[str]:
    start = "from pneumoscope.cli.main import main; main()"
    return [sys.executable, "-W", "error", "-c", start, *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(folder: Path, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


def run_json(folder: Path, *arguments: object) -> dict:
    return json.loads(run(folder, *arguments, "--json").stdout)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with phantoms, imported, audited and split."""
    folder = tmp_path_factory.mktemp("work")
    made = run_json(folder, "data", "phantoms", "-o", "films", "--count", 72, "--size", 64)
    assert made == {"folder": "films", "count": 72, "size": 64, "seed": 0, "layout": "kaggle"}
    found = run_json(folder, "data", "import", "films", "-o", "set")
    assert (found["films"], found["layout"]) == (72, "kaggle")
    audit = run_json(folder, "data", "audit", "set")
    assert audit["dataset"]["films"] == 72
    assert (folder / "set" / "audit" / "audit.html").stat().st_size > 10_000
    split = run_json(
        folder, "data", "split", "set", "--train", 0.6, "--validation", 0.2, "--test", 0.2, "--seed", 2
    )
    assert sum(part["films"] for part in split["parts"].values()) == 72
    return folder


@pytest.fixture(scope="module")
def trained(work: Path) -> Path:
    summary = run_json(work, "train", "set", *TINY, "--epochs", 3, "-o", "run")
    assert summary["run"] == "run"
    assert summary["bundle"].startswith("run@")
    assert set(summary["validation"]["roc_auc"]) == {"value", "low", "high", "n", "method"}
    return work


def test_training_leaves_a_whole_run(trained: Path) -> None:
    folder = trained / "run"
    assert json.loads((folder / "run.json").read_text())["outcome"] == "done"
    assert {"model.onnx", "bundle.json", "arrays.npz", "SHA256SUMS"} <= {
        file.name for file in (folder / "bundle").iterdir()
    }
    with open(folder / "history.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 3


def test_evaluation_scores_the_test_part_and_refuses_what_the_bundle_has_seen(trained: Path) -> None:
    found = run_json(trained, "evaluate", "run/bundle", "set", "-o", "scored")
    assert found == json.loads((trained / "scored" / "evaluation.json").read_text())
    with open(trained / "set" / "splits" / "default.csv", newline="") as stream:
        next(stream)
        tested = sorted(row["path"] for row in csv.DictReader(stream) if row["part"] == "test")
    with open(trained / "scored" / "predictions.csv", newline="") as stream:
        assert sorted(row["path"] for row in csv.DictReader(stream)) == tested
    assert found["n"] == len(tested)
    assert found["contaminated"] is False
    refused = run(trained, "evaluate", "run/bundle", "set", "--split", "train", "-o", "leaked", code=2)
    assert "error:" in refused.stderr
    assert not (trained / "leaked").exists()


def test_the_report_is_one_page(trained: Path) -> None:
    run(trained, "report", "run")
    page = (trained / "run" / "report" / "report.html").read_text()
    assert page.startswith("<!")
    assert 'src="http' not in page


def test_prediction_answers_in_json_lines_with_heat_maps(trained: Path) -> None:
    films = sorted((trained / "films" / "test" / "PNEUMONIA").iterdir())[:3]
    result = run(
        trained, "predict", *films, "--bundle", "run/bundle", "--json", "--heatmaps", "maps", "--force"
    )
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["file"] for row in rows] == [str(film) for film in films]
    for row, film in zip(rows, films, strict=True):
        assert row["error"] is None
        assert set(row["probabilities"]) == {"normal", "bacterial", "viral"}
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["probability"] == pytest.approx(1 - row["probabilities"]["normal"])
        assert row["decision"] in ("POSITIVE", "NEGATIVE", "ABSTAIN")
        with Image.open(trained / row["heatmap"]) as picture, Image.open(film) as original:
            assert picture.width == original.width
            assert picture.height > original.height  # the legend is below the image


def test_a_file_that_is_no_film_gives_an_error_line_and_exit_code_2(trained: Path) -> None:
    (trained / "broken.jpeg").write_bytes(b"\xff\xd8\xff")
    result = run(trained, "predict", "broken.jpeg", "--bundle", "run/bundle", "--json", code=2)
    row = json.loads(result.stdout)
    assert row["error"]
    assert row["probability"] is None


def test_cross_validation(work: Path) -> None:
    tiny = ("--network", "mlp", *TINY[2:], "--epochs", 1)
    summary = run_json(work, "train", "set", *tiny, "--folds", 2, "-o", "folds")
    assert summary["evaluation"]["n"] == 72
    with open(work / "folds" / "predictions" / "cross-validation.csv", newline="") as stream:
        paths = [row["path"] for row in csv.DictReader(stream)]
    assert len(paths) == len(set(paths)) == 72
    assert {"fold-0", "fold-1"} <= {path.name for path in (work / "folds").iterdir()}


def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(trained: Path) -> None:
    """SIGKILL in the middle of an epoch, with at least one epoch behind it."""
    arguments = ("train", "set", *TINY, "--epochs", 3, "-o", "killed")
    process = subprocess.Popen(
        command(*arguments),
        cwd=trained,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        last = trained / "killed" / "checkpoints" / "last.ckpt"
        deadline = time.monotonic() + 120
        while not last.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert last.exists()
    assert json.loads((trained / "killed" / "run.json").read_text())["outcome"] == "running"
    summary = run_json(trained, "train", "--resume", "killed")
    unbroken = json.loads((trained / "run" / "run.json").read_text())["results"]
    assert summary["bundle"] == unbroken["bundle"], "the same model, to the last bit"
    with open(trained / "killed" / "history.csv", newline="") as stream:
        assert [int(row["epoch"]) for row in csv.DictReader(stream)] == [0, 1, 2]
