"""The benchmarks still run: every side once on next to nothing. How fast they are is not asked here."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import bench_network, bench_prediction, bench_step, bench_training, material, measuring
from benchmarks.training_loops import train_as_pneumoscope, train_plainly

from tests.films import write_film
from tests.tiny_bundle import CELLS, SIZE, write_tiny_bundle


def run_python(code, *arguments):
    """Standard output of a fresh interpreter, which a benchmark must be: this one is too large to measure."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=measuring.ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_both_training_loops_run_on_the_same_films(tmp_path, monkeypatch, threads):
    monkeypatch.delenv(material.DATA_VARIABLE, raising=False)
    films = material.Material(**material.prepare_films("small", 20, str(tmp_path)))
    assert films.name == "phantoms, 224 px high"
    assert len(films.files) == 20
    for result in (
        train_plainly(films.dataset, "cnn-small"),
        train_as_pneumoscope(films.dataset, "cnn-small", augment=True),
    ):
        assert result["images_per_second"] > 0
        assert 0 < result["waiting_share"] < 1


def test_both_sides_of_prediction_answer_every_film(tmp_path, threads):
    network = {"name": "cnn-small", "parameters": 0, "feature_shape": [2, CELLS, CELLS]}
    bundle = write_tiny_bundle(tmp_path / "tiny", network=network).directory
    listing = tmp_path / "files.txt"
    listing.write_text("\n".join(str(write_film(tmp_path / f"{i}.png", 0.1 * i)) for i in range(3, 7)))
    shared = {"listing": str(listing), "bundle": str(bundle)}
    assert bench_prediction.predict_as_pneumoscope(**shared, explain=True)["films_per_second"] > 0
    assert bench_prediction.predict_with_torch(**shared)["films_per_second"] > 0


def test_the_cold_start_is_measured_from_outside(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "tiny").directory
    film = write_film(tmp_path / "film.png", 0.8)
    code = (
        "import sys; from pathlib import Path; from benchmarks.bench_cold_start import measure_cold_start\n"
        "image, bundle, folder = sys.argv[1:]\n"
        "print(measure_cold_start(image, bundle, Path(folder), 1, torch=False).markdown())"
    )
    table = run_python(code, film, bundle, tmp_path).splitlines()
    assert table[0].endswith("bundle tiny")
    assert [line.split(" | ")[0] for line in table[4:]] == [
        "| `pneumoscope predict FILE`",
        "| `pneumoscope predict FILE --heatmaps DIR`",
    ]
    assert [path.suffix for path in (tmp_path / "heatmaps").iterdir()] == [".png"]


def test_a_training_step_is_measured(threads):
    result = bench_step.run_steps("cnn-small", channels_last=True, bfloat16=True, size=32)
    assert result["images_per_second"] > 0


def test_every_side_of_a_network_pass_is_measured(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(bench_network, "SECONDS", 0.0)
    network = {"name": "cnn-small", "parameters": 0, "feature_shape": [2, CELLS, CELLS]}
    bundle = str(write_tiny_bundle(tmp_path / "tiny", network=network).directory)
    twin = material.prepare_twin(bundle, str(tmp_path))["bundle"]
    assert Path(twin) == tmp_path / "twin"
    for name in (bundle, twin):
        found = bench_network.time_bundle(name, 1, (1, 2))
        assert list(found) == ["batch_1", "batch_2"]
    facts = bench_network.describe(bundle)
    assert facts == {"network": "cnn-small", "size": SIZE, "classes": 3, "stride": 32}
    assert bench_network.time_torch(**facts, threads=1, batches=(2,))["batch_2"] > 0


def test_a_network_pass_is_compared_at_the_same_threads_and_batch():
    times = {
        ("VGG16, torch eager", 1): {"batch_1": 400.0, "batch_8": 300.0},
        ("net, torch eager", 1): {"batch_1": 60.0, "batch_8": 40.0, "batch_32": 50.0},
        ("reference", 1): {"batch_1": 10.0, "batch_8": 8.0, "batch_32": 10.0},
    }
    measured = {key: [measuring.Measurement(values, 1.0, 1.0)] for key, values in times.items()}
    rows = bench_network.rows_of(measured, "net, torch eager")
    assert rows[0] == ["VGG16, torch eager", "1", "400.00", "300.00", "", "", ""]
    assert rows[2] == [
        "reference", "1", "10.00", "8.00", "10.00", "6.0 / 5.0 / 5.0 (6)", "40.0 / 37.5 (40)"
    ]  # fmt: skip


def test_the_tables_name_the_goals():
    measured = measuring.Measurement({"images_per_second": 20.0, "waiting_share": 0.031}, 1.0, 512.4)
    plain = measuring.Measurement({"images_per_second": 5.0, "waiting_share": 0.5}, 1.0, 900.0)
    case = bench_training.Case("cnn-small", "small", 1, ("plain", "pneumoscope"), 2.0)
    films = material.Material("films", "", [], 0.0)
    rows = bench_training.rows_of(case, films, {"plain": [plain], "pneumoscope": [measured]})
    assert rows[1] == ["cnn-small, films", "pneumoscope", "20.0", "4.00", "2", "3.1 %", "512 MB"]
    assert measuring.Table("T", ("a", "b"), [("1", "2")], ["Said."]).markdown() == (
        "### T\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\nSaid."
    )


def test_a_side_that_fails_ends_the_benchmark():
    with pytest.raises(RuntimeError, match="no such side"):
        measuring.measure([sys.executable, "-c", "raise SystemExit('no such side')"])


def test_a_process_that_is_hidden_behind_this_one_is_not_reported():
    hold = bytearray(64 * 2**20)
    hold[::4096] = b"x" * len(hold[::4096])
    with pytest.raises(RuntimeError, match="larger than the one it measures"):
        measuring.measure([sys.executable, "-c", "pass"])


def test_the_shell_cannot_favour_a_side():
    shell = {
        "PATH": "p",
        "HOME": "h",
        "MALLOC_TRIM_THRESHOLD_": "1",
        "OMP_NUM_THREADS": "1",
        "LD_PRELOAD": "t",
    }
    assert measuring.without_tuning(shell) == {"PATH": "p", "HOME": "h"}
