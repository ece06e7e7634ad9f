"""Class names and MedMNIST archives mean what they say; what nobody explained is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumoscope.core.errors import ConfigError, DatasetError
from pneumoscope.core.records import Label
from pneumoscope.data.importers import ImportOptions, import_dataset
from pneumoscope.data.layouts import Skip, parse_class_map, require_known, to_label
from pneumoscope.imaging.radiograph import read_radiograph
from tests.data.films import picture


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("NORMAL", Label.NORMAL),
        ("No Finding", Label.NORMAL),
        ("no_finding", Label.NORMAL),
        ("Bacterial Pneumonia", Label.BACTERIAL),
        ("virus", Label.VIRAL),
        ("PNEUMONIA", Label.PNEUMONIA),
        ("Lung_Opacity", Label.PNEUMONIA),
        ("Infiltration|Pneumonia", Label.PNEUMONIA),
        ("COVID", None),
        ("Infiltration|Effusion", None),
        ("1", None),
    ],
)
def test_known_names(name: str, label: Label | None) -> None:
    assert to_label(name, {}) is label


@pytest.mark.parametrize(("name", "label"), [("0", Label.NORMAL), ("1.0", Label.PNEUMONIA), ("2", None)])
def test_numbers_count_where_they_are_allowed(name: str, label: Label | None) -> None:
    assert to_label(name, {}, numeric=True) is label


def test_the_users_mapping_wins() -> None:
    class_map = parse_class_map(["Lung Opacity=viral", "COVID=viral pneumonia", "TB=skip", "*=normal"])
    assert to_label("lung_opacity", class_map) is Label.VIRAL
    assert to_label("covid", class_map) is Label.VIRAL
    assert to_label("tb", class_map) is Skip.SKIP
    assert to_label("anything", class_map) is Label.NORMAL
    assert to_label("bacteria", class_map) is Label.BACTERIAL


@pytest.mark.parametrize("entry", ["COVID", "=viral", "COVID=nonsense"])
def test_a_bad_mapping_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match="class mapping"):
        parse_class_map([entry])


def test_unknown_names_are_told_with_the_remedy() -> None:
    with pytest.raises(DatasetError, match=r"'COVID', 'TB'.*--map \"COVID=LABEL\""):
        require_known(["TB", "COVID", "TB"], "folder")


def archive(file: Path, colour: bool = False, **others: Any) -> Path:
    """4 train, 2 val and 2 test images of 28 pixels."""
    arrays: dict[str, Any] = {}
    seed = 0
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        images = np.stack([picture(seed + number, 28) for number in range(count)])
        arrays[f"{part}_images"] = np.repeat(images[..., None], 3, axis=3) if colour else images
        arrays[f"{part}_labels"] = np.arange(count).reshape(-1, 1) % 2
        seed += count
    np.savez_compressed(file, **(arrays | others))
    return file


@pytest.mark.parametrize("colour", [False, True])
def test_pneumoniamnist(tmp_path: Path, colour: bool) -> None:
    dataset = import_dataset(archive(tmp_path / "pneumoniamnist.npz", colour), tmp_path / "set")
    assert (dataset.name, dataset.layout) == ("pneumoniamnist", "medmnist")
    assert dataset.root == (tmp_path / "set" / "films").resolve()
    assert [(s.path, s.label, s.publisher_split) for s in dataset.samples[:3]] == [
        ("test/test-000000.png", Label.NORMAL, "test"),
        ("test/test-000001.png", Label.PNEUMONIA, "test"),
        ("train/train-000000.png", Label.NORMAL, "train"),
    ]
    assert len({s.patient_id for s in dataset.samples}) == 8
    pixels = read_radiograph(dataset.file(dataset.samples[2])).pixels
    np.testing.assert_array_equal(np.rint(pixels * 255), picture(0, 28))


def test_colour_becomes_luma(tmp_path: Path) -> None:
    images = np.zeros((1, 28, 28, 3), np.uint8)
    images[..., 1] = 100
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=[0])
    dataset = import_dataset(tmp_path / "a.npz", tmp_path / "set")
    pixels = read_radiograph(dataset.file(dataset.samples[0])).pixels
    assert np.unique(np.rint(pixels * 255)).tolist() == [59]


def test_a_folder_that_holds_one_archive(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    archive(tmp_path / "folder" / "a.npz")
    assert len(import_dataset(tmp_path / "folder", tmp_path / "set").samples) == 8


def test_films_are_written_once(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.npz")

    def kill(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_dataset(source, tmp_path / "set", progress=kill)
    film = tmp_path / "set" / "films" / "train" / "train-000000.png"
    before = film.stat().st_mtime_ns
    assert len(import_dataset(source, tmp_path / "set").samples) == 8
    assert film.stat().st_mtime_ns == before


def test_other_labels_need_a_meaning(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.npz", test_labels=np.array([[0], [2]]))
    with pytest.raises(DatasetError, match="unknown class name '2'"):
        import_dataset(source, tmp_path / "set")
    options = ImportOptions(class_map=parse_class_map(["2=skip"]))
    dataset = import_dataset(source, tmp_path / "set", options)
    assert len(dataset.samples) == 7
    assert [problem.path for problem in dataset.problems] == ["test/test-000001.png"]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"train_labels": np.zeros((4, 14))}, "labels of shape"),
        ({"train_images": np.zeros((4, 28, 28), np.float32)}, "images are float32"),
        ({"train_images": np.zeros((4, 28, 28, 2), np.uint8)}, "images are uint8 of shape"),
        ({"train_labels": np.array([{}] * 4)}, "not a readable"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, others: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        import_dataset(archive(tmp_path / "a.npz", **others), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_damaged_and_foreign_archives(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.npz")
    source.write_bytes(source.read_bytes()[:500])
    with pytest.raises(DatasetError, match=r"not a readable \.npz"):
        import_dataset(source, tmp_path / "set")
    np.savez(tmp_path / "b.npz", x=[1])
    with pytest.raises(DatasetError, match="the archive holds x"):
        import_dataset(tmp_path / "b.npz", tmp_path / "set")
