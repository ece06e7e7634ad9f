"""Exported arrays and folders hold what the data set holds, and nothing is overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.records import Label, Preprocessing
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.decoding import decode_films
from pneumoscope.data.export import LABEL_CODES, export_folders, export_npz
from pneumoscope.data.importers import import_dataset
from pneumoscope.data.splits import Split, SplitConfig, split_dataset
from tests.data.films import write_film, write_kaggle


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return import_dataset(write_kaggle(tmp_path / "films"), tmp_path / "set")


@pytest.fixture
def split(dataset: Dataset) -> Split:
    return split_dataset(dataset, SplitConfig(train=0.6, validation=0.2, test=0.2))


def test_arrays(dataset: Dataset, split: Split, tmp_path: Path) -> None:
    files = export_npz(dataset, split, tmp_path / "out", size=32)
    assert [file.name for file in files] == ["train.npz", "validation.npz", "test.npz"]
    seen: list[str] = []
    for part, file in zip(split.names, files, strict=True):
        samples = split.samples(dataset, part)
        with np.load(file, allow_pickle=False) as arrays:
            images = arrays["images"]
            assert (images.shape, images.dtype) == ((len(samples), 32, 32, 1), np.float32)
            assert arrays["flat"].shape == (len(samples), 1024)
            np.testing.assert_array_equal(arrays["flat"].reshape(images.shape), images)
            assert images.min() == 0
            assert images.max() == 1
            assert arrays["paths"].tolist() == [s.path for s in samples]
            assert arrays["patient_ids"].tolist() == [s.patient_id for s in samples]
            assert arrays["labels"].tolist() == [LABEL_CODES[s.label] for s in samples]
            assert arrays["label_names"].tolist() == [str(s.label) for s in samples]
            assert arrays["pneumonia"].tolist() == [int(s.label is not Label.NORMAL) for s in samples]
            (film,) = decode_films([dataset.file(samples[0])], Preprocessing(size=32))
            np.testing.assert_array_equal(np.rint(images[0, ..., 0] * 255), film.pixels)
            seen += arrays["paths"].tolist()
    assert sorted(seen) == [s.path for s in dataset.samples]


def test_arrays_without_a_split(dataset: Dataset, tmp_path: Path) -> None:
    (file,) = export_npz(dataset, None, tmp_path / "out", size=16)
    assert file.name == "all.npz"
    with pytest.raises(DatasetError, match="8 to 1024"):
        export_npz(dataset, None, tmp_path / "out", size=4)


@pytest.mark.parametrize("link", [False, True])
def test_folders_can_be_imported_again(dataset: Dataset, split: Split, tmp_path: Path, link: bool) -> None:
    folders = export_folders(dataset, split, tmp_path / "out", link=link)
    assert [folder.name for folder in folders] == ["train", "val", "test"]
    again = import_dataset(tmp_path / "out", tmp_path / "again")
    assert again.problems == ()
    theirs = {Path(s.path).name: (s.sha256, s.patient_id, s.label, s.publisher_split) for s in again.samples}
    assert theirs == {
        Path(s.path).name: (s.sha256, s.patient_id, s.label, split.parts[s.path].replace("validation", "val"))
        for s in dataset.samples
    }
    film = dataset.samples[0]
    written = next((tmp_path / "out").rglob(Path(film.path).name))
    assert os.path.samefile(written, dataset.file(film)) is link


def test_films_of_one_name_keep_apart(tmp_path: Path) -> None:
    write_film(tmp_path / "films" / "bacterial" / "1.png", 1)
    write_film(tmp_path / "films" / "viral" / "1.png", 2)
    dataset = import_dataset(tmp_path / "films", tmp_path / "set")
    (folder,) = export_folders(dataset, None, tmp_path / "out")
    assert sorted(p.name for p in (folder / "PNEUMONIA").iterdir()) == ["bacterial-1.png", "viral-1.png"]


def test_files_that_are_there_are_kept(dataset: Dataset, tmp_path: Path) -> None:
    export_folders(dataset, None, tmp_path / "out")
    export_folders(dataset, None, tmp_path / "out")
    target = next((tmp_path / "out" / "NORMAL").iterdir())
    target.write_bytes(b"mine")
    with pytest.raises(DatasetError, match="another image of this name"):
        export_folders(dataset, None, tmp_path / "out")
    assert target.read_bytes() == b"mine"
