"""The data commands: what they write, print for people and print for machines."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pneumoscope.cli.data import app
from pneumoscope.core.errors import ConfigError, DatasetError, InputError
from pneumoscope.core.files import read_json
from pneumoscope.core.records import Task
from pneumoscope.data import duplicates
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.splits import Split, split_file
from pneumoscope.evaluation.predictions import tabulate, write_predictions
from tests.data.films import write_film, write_kaggle
from tests.data.test_acquisition import dataset as dataset  # a fixture
from tests.learning.phantoms import phantom_dataset


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def run_json(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    assert isinstance(content, dict)
    return content


@pytest.fixture
def films(tmp_path: Path) -> Path:
    root = write_kaggle(tmp_path / "films")
    (root / "train" / "NORMAL" / "empty.jpeg").touch()
    return root


def test_import_tells_what_it_found(films: Path, tmp_path: Path) -> None:
    found = run_json("import", films, "-o", tmp_path / "set")
    assert found["films"] == 20
    assert found["classes"] == {"normal": 8, "bacterial": 6, "viral": 6}
    assert found["patients"] == 20
    assert {part: counts["films"] for part, counts in found["publisher_split"].items()} == {
        "train": 10, "test": 10,
    }  # fmt: skip
    assert found["problem_reasons"] == {"the file is empty": 1}
    shown = run("import", films, "-o", tmp_path / "set").stdout
    for word in (
        "films (kaggle)",
        "train",
        "8 (40%)",
        "Files not used: 1",
        "problems.csv",
        "pneumoscope train",
    ):
        assert word in shown


def test_import_with_a_mapping(tmp_path: Path) -> None:
    write_film(tmp_path / "films" / "COVID" / "a.png", 1)
    with pytest.raises(DatasetError, match="--map"):
        run("import", tmp_path / "films", "-o", tmp_path / "set")
    found = run_json(
        "import", tmp_path / "films", "-o", tmp_path / "set", "--map", "COVID=viral", "--layout", "folders",
        "--name", "mine", "--workers", 1,
    )  # fmt: skip
    assert (found["classes"], found["name"], found["layout"]) == ({"viral": 1}, "mine", "folders")


def test_split(films: Path, tmp_path: Path) -> None:
    run("import", films, "-o", tmp_path / "set")
    made = run_json(
        "split", tmp_path / "set", "--seed", 3, "--train", 0.6, "--validation", 0.2, "--test", 0.2
    )
    assert (made["method"], made["seed"]) == ("fractions", 3)
    assert sum(part["films"] for part in made["parts"].values()) == 20
    assert Path(made["file"]) == tmp_path / "set" / "splits" / "default.csv"
    assert Path(made["file"]).is_file()
    shown = run("split", tmp_path / "set", "--method", "k-fold", "--folds", 2, "--name", "two").stdout
    assert "fold-1" in shown
    assert (tmp_path / "set" / "splits" / "two.csv").is_file()
    shown = run("split", tmp_path / "set", "--method", "publisher", "--name", "theirs").stdout
    assert "too few to choose a threshold" in " ".join(shown.split())


def test_split_takes_a_configuration_and_flags_win(films: Path, tmp_path: Path) -> None:
    (tmp_path / "split.toml").write_text('method = "k-fold"\nfolds = 2\nseed = 4\n')
    made = run_json("split", _imported(films, tmp_path), "--config", tmp_path / "split.toml", "--seed", 5)
    assert (made["method"], made["seed"], list(made["parts"])) == ("k-fold", 5, ["fold-0", "fold-1"])
    with pytest.raises(ConfigError, match="add up"):
        run("split", tmp_path / "set", "--train", 0.5)


def test_split_keeps_duplicates_together(films: Path, tmp_path: Path) -> None:
    copy = films / "test" / "NORMAL" / "IM-0999-0001.jpeg"
    copy.write_bytes((films / "train" / "NORMAL" / "IM-0000-0001.jpeg").read_bytes())
    made = run_json("split", _imported(films, tmp_path))
    assert made["duplicates"] == {"exact": 1}
    assert (tmp_path / "set" / "audit" / "duplicates.json").is_file()


def test_export(films: Path, tmp_path: Path) -> None:
    dataset = _imported(films, tmp_path)
    made = run_json("export", dataset, "--format", "npz", "-o", tmp_path / "arrays", "--size", 16)
    assert [Path(file).name for file in made["written"]] == ["train.npz", "validation.npz", "test.npz"]
    with np.load(made["written"][0]) as arrays:
        assert arrays["images"].shape == (made["parts"]["train"]["films"], 16, 16, 1)
    shown = run("export", dataset, "--format", "folders", "-o", tmp_path / "folders", "--link").stdout
    assert "Written:" in shown
    assert len(list((tmp_path / "folders").rglob("*.jpeg"))) == 20
    with pytest.raises(DatasetError, match="no such split"):
        run("export", dataset, "--format", "npz", "-o", tmp_path / "x", "--split", "other")


def test_a_folder_of_films_is_imported_on_the_way(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = run_json("split", "films")
    assert made["dataset"].startswith("datasets/films-")
    assert run_json("split", "films") == made


def test_audit(films: Path, tmp_path: Path) -> None:
    dataset = _imported(films, tmp_path)
    audit = run_json("audit", dataset)
    assert audit["dataset"]["films"] == 20
    assert json.loads((dataset / "audit" / "audit.json").read_text()) == audit
    assert (dataset / "audit" / "audit.html").read_text().startswith("<!")
    run("split", dataset)
    shown = run("audit", dataset, "--split", "default").stdout
    assert "films: audit" in shown
    assert "audit.html" in shown


def test_phantoms_can_be_imported_from_each_layout(tmp_path: Path) -> None:
    for layout in ("kaggle", "csv", "dicom"):
        made = run_json("phantoms", "-o", tmp_path / layout, "--count", 6, "--size", 32, "--layout", layout)
        assert made["count"] == 6
        found = run_json("import", tmp_path / layout, "-o", tmp_path / f"{layout}-set")
        assert found["films"] == 6
        assert found["layout"] == {"dicom": "rsna"}.get(layout, layout)


def test_nothing_is_searched_twice(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = _imported(films, tmp_path)
    first = run_json("split", dataset)
    monkeypatch.delattr(duplicates, "_find")
    assert run_json("split", dataset) == first


def _imported(films: Path, tmp_path: Path) -> Path:
    run("import", films, "-o", tmp_path / "set")
    return tmp_path / "set"


def test_clusters_are_written_shown_and_left_out_whole(dataset: Dataset) -> None:
    folder = dataset.directory / "acquisition"
    shown = run("clusters", dataset.directory).stdout
    assert "pneumonia told from normal by exposure alone: AUC" in shown
    with open(folder / "clusters.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows] == [sample.path for sample in dataset.samples]
    assert {row["sha256"] for row in rows} == {sample.sha256 for sample in dataset.samples}
    assert read_json(folder / "acquisition.json")["count"] == 2
    assert json.loads(run("clusters", dataset.directory, "--json").stdout) == read_json(
        folder / "acquisition.json"
    )

    found = json.loads(
        run("split", dataset.directory, "--method", "leave-cluster-out", "--name", "c", "--json").stdout
    )
    split = Split.load(split_file(dataset.directory, "c"))
    assert split.parts == {row["path"]: f"fold-{row['cluster']}" for row in rows}
    assert found["parts"]["fold-0"]["films"] == 20


def test_the_page_shows_every_cluster_in_one_file(dataset: Dataset) -> None:
    run("clusters", dataset.directory, "--count", 3)
    page: Path = dataset.directory / "acquisition" / "acquisition.html"
    html = page.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert "<script" not in html
    for number, item in enumerate(read_json(page.with_name("acquisition.json"))["clusters"]):
        assert f'<h2 id="cluster-{number}">' in html
        assert item["telling"][0]["title"][1:] in html
    assert html.count("A sheet of chest radiographs of this cluster.") == 3


def run_review(*arguments):
    result = CliRunner().invoke(app, ["review", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def reviewed(tmp_path):
    """A data set and a run whose networks doubt one label."""
    import numpy as np

    dataset = phantom_dataset(tmp_path / "films", count=12)
    targets = [Task.THREE_CLASS.target(sample.label) for sample in dataset.samples]
    logits = 4.0 * np.eye(3)[targets]
    logits[0] = 4.0 * np.eye(3)[(targets[0] + 1) % 3]
    powers = np.exp(logits)
    table = tabulate(dataset.samples, Task.THREE_CLASS, logits, powers / powers.sum(axis=1, keepdims=True))
    write_predictions(tmp_path / "run" / "predictions" / "cross-validation.csv", table)
    return dataset, tmp_path / "run"


def test_the_doubtful_film_is_shown_and_corrected(reviewed, tmp_path):
    dataset, folder = reviewed
    result = run_review(dataset.directory, folder, "-o", tmp_path / "out", "--count", 3)
    assert "1 probable label errors and 3 hard images" in result.stdout
    page = (tmp_path / "out" / "review.html").read_text()
    assert page.count("<img") == 4
    assert f"labelled <strong>{dataset.samples[0].label}</strong>" in page
    table = tmp_path / "out" / "review.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert rows[0]["path"] == dataset.samples[0].path
    assert rows[0]["reader_label"] == ""
    rows[0]["reader_label"] = rows[0]["suggested"]
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    run_review(dataset.directory, "--apply", table, "--reader", "Dr. A", "-o", tmp_path / "new")
    corrected = {sample.path: sample.label for sample in Dataset.open(tmp_path / "new").samples}
    assert corrected[rows[0]["path"]] == rows[0]["suggested"]


def test_blind_pages_and_tables_show_no_label(reviewed, tmp_path):
    dataset, folder = reviewed
    run_review(dataset.directory, folder, "-o", tmp_path / "out", "--blind")
    assert "labelled" not in (tmp_path / "out" / "review.html").read_text()
    header = (tmp_path / "out" / "review.csv").read_text().splitlines()[0]
    assert header == "path,sha256,reader_label,comment"


def test_what_is_missing_is_said(reviewed, tmp_path):
    dataset, folder = reviewed
    with pytest.raises(InputError, match="no predictions"):
        run_review(dataset.directory, tmp_path)
    with pytest.raises(ConfigError, match="either RUN or --apply"):
        run_review(dataset.directory)
    with pytest.raises(ConfigError, match="needs --reader and --output"):
        run_review(dataset.directory, "--apply", folder)
