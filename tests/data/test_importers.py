"""Every layout is recognised and imported; what cannot be used is listed with its reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pneumoscope.core.errors import ConfigError, DatasetError
from pneumoscope.core.records import Label, Preprocessing
from pneumoscope.data import decoding
from pneumoscope.data.cache import cache_directory
from pneumoscope.data.dataset import Dataset, Problem
from pneumoscope.data.importers import ImportOptions, import_dataset
from pneumoscope.data.layouts import parse_class_map
from tests.data.films import write_film, write_kaggle


def by_path(dataset: Dataset) -> dict[str, tuple[str, str, Label, str | None]]:
    return {s.path: (s.patient_id, s.group_id, s.label, s.publisher_split) for s in dataset.samples}


def test_kaggle_folders(tmp_path: Path) -> None:
    root = tmp_path / "films"
    write_film(root / "TRAIN" / "normal" / "IM-0115-0001.jpeg", 1)
    write_film(root / "TRAIN" / "Pneumonia" / "person1_bacteria_1.jpeg", 2)
    write_film(root / "TRAIN" / "Pneumonia" / "person1_virus_2.jpeg", 3, 80)
    write_film(root / "val" / "PNEUMONIA" / "other.png", 4)
    write_film(root / "Test" / "NORMAL" / "NORMAL2-IM-0095-0001.jpeg", 5)
    dataset = import_dataset(root, tmp_path / "set")
    assert dataset.layout == "kaggle"
    assert by_path(dataset) == {
        "TRAIN/normal/IM-0115-0001.jpeg": ("IM-0115", "IM-0115", Label.NORMAL, "train"),
        "TRAIN/Pneumonia/person1_bacteria_1.jpeg": ("person1_bacteria", "person1", Label.BACTERIAL, "train"),
        "TRAIN/Pneumonia/person1_virus_2.jpeg": ("person1_virus", "person1", Label.VIRAL, "train"),
        "val/PNEUMONIA/other.png": ("other", "other", Label.PNEUMONIA, "val"),
        "Test/NORMAL/NORMAL2-IM-0095-0001.jpeg": ("NORMAL2-IM-0095", "NORMAL2-IM-0095", Label.NORMAL, "test"),
    }
    assert dataset.notes[0] == "1 of 5 file names tell no patient; each such image is its own patient"
    virus = next(s for s in dataset.samples if s.label is Label.VIRAL)
    assert (virus.width, virus.height, virus.file_bytes) == (80, 80, dataset.file(virus).stat().st_size)
    assert Dataset.open(tmp_path / "set").samples == dataset.samples


def test_the_nested_copy_and_the_leftovers_of_the_archive_are_ignored(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    write_kaggle(archive / "chest_xray", normals=1, persons=1)
    write_kaggle(archive / "chest_xray" / "chest_xray", normals=1, persons=1)
    write_film(archive / "chest_xray" / "__MACOSX" / "train" / "NORMAL" / "IM-0001-0001.jpeg", 1)
    for name in ("._IM-0000-0001.jpeg", ".DS_Store"):
        (archive / "chest_xray" / "train" / "NORMAL" / name).write_bytes(b"\0\5\x16\7")
    dataset = import_dataset(archive, tmp_path / "set")
    assert dataset.root == (archive / "chest_xray").resolve()
    assert len(dataset.samples) == 6
    assert dataset.problems == ()
    assert dataset.notes[0] == "folders beside the split were left out: chest_xray"


def test_what_cannot_be_used_is_listed_with_its_reason(tmp_path: Path) -> None:
    root = tmp_path / "films"
    good = write_film(root / "normal" / "good.jpeg", 1)
    (root / "normal" / "half.jpeg").write_bytes(good.read_bytes()[:600])
    (root / "normal" / "empty.png").touch()
    (root / "normal" / "text.png").write_text("hello")
    (root / "normal" / "Thumbs.db").write_bytes(b"x")
    (root / "notes.txt").write_text("x")
    write_film(root / "loose.png", 2)
    write_film(root / "viral" / "deep" / "film.png", 3)
    dataset = import_dataset(root, tmp_path / "set")
    assert [s.path for s in dataset.samples] == ["normal/good.jpeg", "viral/deep/film.png"]
    reasons = {problem.path: problem.reason for problem in dataset.problems}
    assert list(reasons) == [
        "loose.png", "normal/Thumbs.db", "normal/empty.png", "normal/half.jpeg", "normal/text.png",
        "notes.txt",
    ]  # fmt: skip
    assert reasons["loose.png"] == "lies outside the class folders"
    assert reasons["notes.txt"] == "not an image file (.txt)"
    assert reasons["normal/empty.png"] == "the file is empty"
    assert all(reasons.values())
    assert Dataset.open(tmp_path / "set").problems == dataset.problems


def test_films_of_one_stem_in_two_classes_are_two_patients(tmp_path: Path) -> None:
    for label in ("normal", "pneumonia"):
        write_film(tmp_path / "films" / label / "1.png", len(label))
    dataset = import_dataset(tmp_path / "films", tmp_path / "set")
    assert [s.patient_id for s in dataset.samples] == ["normal/1", "pneumonia/1"]


def test_an_unknown_class_needs_a_meaning(tmp_path: Path) -> None:
    root = tmp_path / "films"
    for seed, name in enumerate(("normal", "COVID", "TB")):
        write_film(root / name / "film.png", seed)
    with pytest.raises(DatasetError, match=r"'COVID', 'TB'.*--map"):
        import_dataset(root, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    options = ImportOptions(class_map=parse_class_map(["covid=viral", "TB=skip"]))
    dataset = import_dataset(root, tmp_path / "set", options)
    assert {s.path: s.label for s in dataset.samples} == {
        "COVID/film.png": Label.VIRAL, "normal/film.png": Label.NORMAL
    }  # fmt: skip
    assert dataset.problems == (Problem("TB/film.png", "class 'TB' is left out by the class mapping"),)


def test_no_usable_film(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file or folder"):
        import_dataset(tmp_path / "gone", tmp_path / "set")
    (tmp_path / "films" / "normal").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no image found"):
        import_dataset(tmp_path / "films", tmp_path / "set")
    (tmp_path / "films" / "normal" / "a.png").touch()
    with pytest.raises(DatasetError, match="no usable image; of 1 files, 1: the file is empty"):
        import_dataset(tmp_path / "films", tmp_path / "set")


def test_loose_films_are_no_layout(tmp_path: Path) -> None:
    write_film(tmp_path / "films" / "a.png", 1)
    with pytest.raises(DatasetError, match="1: lies outside the class folders"):
        import_dataset(tmp_path / "films", tmp_path / "set")


def test_a_layout_can_be_forced(tmp_path: Path) -> None:
    root = write_kaggle(tmp_path / "films", normals=1, persons=1)
    with pytest.raises(DatasetError, match="unknown class names 'test', 'train'"):
        import_dataset(root, tmp_path / "set", ImportOptions(layout="folders"))
    with pytest.raises(DatasetError, match="no table that lists images"):
        import_dataset(root, tmp_path / "set", ImportOptions(layout="csv"))
    with pytest.raises(ConfigError, match="unknown layout"):
        import_dataset(root, tmp_path / "set", ImportOptions(layout="zip"))
    with pytest.raises(DatasetError, match="no folder with train"):
        import_dataset(root / "train", tmp_path / "set", ImportOptions(layout="kaggle"))


def test_the_destination_is_respected(tmp_path: Path) -> None:
    first = write_kaggle(tmp_path / "first", normals=1, persons=1)
    other = write_kaggle(tmp_path / "other", normals=2, persons=1)
    import_dataset(first, tmp_path / "set")
    with pytest.raises(DatasetError, match="holds an import of"):
        import_dataset(other, tmp_path / "set")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="holds something else"):
        import_dataset(first, tmp_path / "mine")
    with pytest.raises(DatasetError, match="into its own source"):
        import_dataset(first, first / "set")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_an_import_is_brought_up_to_date_without_decoding_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_kaggle(tmp_path / "films", normals=2, persons=1)
    before = import_dataset(root, tmp_path / "set")
    write_film(root / "train" / "NORMAL" / "IM-0900-0001.jpeg", 900)
    opened: list[Path] = []
    read = decoding.read_radiograph
    monkeypatch.setattr(
        decoding, "read_radiograph", lambda path, **options: opened.append(path) or read(path, **options)
    )
    after = import_dataset(root, tmp_path / "set")
    assert [path.name for path in opened] == ["IM-0900-0001.jpeg"]
    assert len(after.samples) == len(before.samples) + 1
    assert set(before.samples) < set(after.samples)


def test_an_import_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_kaggle(tmp_path / "films", normals=2, persons=1)
    whole = import_dataset(root, tmp_path / "whole")

    def kill(done: int, total: int) -> None:
        assert total == 8
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_dataset(root, tmp_path / "set", progress=kill)
    with pytest.raises(DatasetError, match=r"not finished.*goes on where it stopped"):
        Dataset.open(tmp_path / "set")
    opened: list[Path] = []
    read = decoding.read_radiograph
    monkeypatch.setattr(
        decoding, "read_radiograph", lambda path, **options: opened.append(path) or read(path, **options)
    )
    resumed = import_dataset(root, tmp_path / "set")
    assert len(opened) == 3
    assert resumed.samples == whole.samples
    key = Preprocessing()
    ours, theirs = (cache_directory(tmp_path / name, key) / "pixels.u8" for name in ("set", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.films
def test_real_films(tmp_path: Path) -> None:
    root = os.environ.get("PNEUMOSCOPE_DATA")
    if not root:
        pytest.skip("PNEUMOSCOPE_DATA is not set")
    films = tmp_path / "films"
    for part, label in (("train", "NORMAL"), ("train", "PNEUMONIA"), ("val", "NORMAL")):
        folder = films / part / label
        folder.mkdir(parents=True)
        for file in sorted(Path(root, "kermany_original", part, label).iterdir())[:3]:
            (folder / file.name).symlink_to(file)
    dataset = import_dataset(films, tmp_path / "set")
    assert len(dataset.samples) == 9
    assert dataset.problems == ()
    assert min(s.width or 0 for s in dataset.samples) > 224
    external = import_dataset(Path(root, "external_adult_dev"), tmp_path / "external")
    assert len(external.samples) == 132
    assert sum(s.label is Label.PNEUMONIA for s in external.samples) == 32
    assert {s.sex for s in external.samples} == {"F", "M"}
    assert {s.view for s in external.samples} == {"PA", "AP"}
