from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from pneumoscope.cli.data import app
from pneumoscope.core.errors import ConfigError, DatasetError
from pneumoscope.data import duplicates
from tests.data.films import write_film, write_kaggle


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
