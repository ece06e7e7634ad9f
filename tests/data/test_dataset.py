"""A data set is saved and opened again, damage is refused, and labels are corrected in a copy of it."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pneumoscope.core.errors import DatasetError, InputError, MissingExtraError
from pneumoscope.core.files import read_json, sha256_file
from pneumoscope.core.records import Label, Sample
from pneumoscope.data.dataset import Dataset, Problem, apply_corrections, locate, read_corrections
from pneumoscope.data.importers import open_or_import
from tests.data.films import dataset_of, sample, write_film, write_kaggle
from tests.learning.phantoms import phantom_dataset

FILM = Sample(
    "NORMAL/Björk, 1.png", "a" * 64, "p1", "g1", Label.NORMAL, "train", "PA", 3.5, "F", "Canton", 7, 8, 9
)  # fmt: skip
BARE = Sample("b.png", "b" * 64, "p2", "p2", Label.PNEUMONIA)


def test_save_and_open(tmp_path: Path) -> None:
    root = tmp_path / "films"
    problems = (Problem("x.txt", 'no, "image"'),)
    dataset = Dataset(tmp_path / "set", root, "name", "csv", (FILM, BARE), problems, ("a note",), root)
    dataset.save()
    opened = Dataset.open(tmp_path / "set")
    assert opened == replace(dataset, root=root.resolve(), source=root.resolve())
    assert opened.file(BARE) == root.resolve() / "b.png"


def test_the_manifest_is_readable_by_anything(tmp_path: Path) -> None:
    replace(dataset_of((FILM,)), directory=tmp_path).save()
    lines = (tmp_path / "manifest.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == (
        "path,sha256,patient_id,group_id,label,publisher_split,view,age_years,sex,site,width,height,file_bytes"
    )
    assert lines[1] == f'"NORMAL/Björk, 1.png",{"a" * 64},p1,g1,normal,train,PA,3.5,F,Canton,7,8,9'


def test_the_hash_is_of_the_content() -> None:
    both = dataset_of((FILM, BARE))
    assert dataset_of((BARE, FILM)).hash == both.hash
    assert dataset_of((FILM,)).hash != both.hash
    for change in ({"label": Label.VIRAL}, {"patient_id": "q"}, {"sha256": "c" * 64}, {"path": "c.png"}):
        assert dataset_of((FILM, replace(BARE, **change))).hash != both.hash
    assert dataset_of((FILM, replace(BARE, view="AP"))).hash == both.hash


def test_data_set_and_films_can_be_moved_together(tmp_path: Path) -> None:
    Dataset(tmp_path / "old" / "set", tmp_path / "old" / "films", "n", "csv", (BARE,)).save()
    (tmp_path / "old").rename(tmp_path / "new")
    assert Dataset.open(tmp_path / "new" / "set").root == (tmp_path / "new" / "films").resolve()


def test_a_root_that_shares_nothing_is_absolute() -> None:
    assert locate(Path("/home/ann/set"), "/media/films") == Path("/media/films")


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no dataset\.json"):
        Dataset.open(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        Dataset.open(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(DatasetError, match="schema 99"):
        Dataset.open(tmp_path)


def test_a_damaged_manifest(tmp_path: Path) -> None:
    replace(dataset_of((FILM,)), directory=tmp_path).save()
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        manifest.read_text(encoding="utf-8").replace("normal", "unheard-of"), encoding="utf-8"
    )
    with pytest.raises(DatasetError, match="manifest cannot be read"):
        Dataset.open(tmp_path)


def test_open_or_import_imports_once(tmp_path: Path) -> None:
    films = write_kaggle(tmp_path / "films", normals=1, persons=1)
    first = open_or_import(films, workspace=tmp_path / "sets")
    assert first.directory.parent == tmp_path / "sets"
    assert first.directory.name.startswith("films-")
    before = (first.directory / "manifest.csv").stat().st_mtime_ns
    again = open_or_import(films, workspace=tmp_path / "sets")
    assert again.hash == first.hash
    assert (first.directory / "manifest.csv").stat().st_mtime_ns == before
    assert open_or_import(first.directory).hash == first.hash


def test_a_data_set_counts_and_iterates_and_tells_itself_in_plain_values() -> None:
    dataset = dataset_of((FILM, BARE))
    assert len(dataset) == 2
    assert list(dataset) == [FILM, BARE]
    assert dataset.counts == {"normal": 1, "pneumonia-unspecified": 1}
    assert dataset.by_publisher_split() == {"train": (FILM,), "none": (BARE,)}
    told = json.loads(json.dumps(dataset.to_dict()))
    assert (told["films"], told["patients"], told["classes"]) == (2, 2, dataset.counts)
    assert told["publisher_split"]["train"] == {"films": 1, "patients": 1, "classes": {"normal": 1}}


def test_a_notebook_shows_the_classes_and_the_first_images_that_can_be_read(tmp_path: Path) -> None:
    samples = tuple(sample(f"{number}<.png", f"p{number}") for number in range(5))
    for one in samples[1:]:
        write_film(tmp_path / one.path, seed=1)
    html = dataset_of((*samples, BARE), tmp_path)._repr_html_()
    assert "<td>normal</td><td>5</td>" in html
    assert "<td>pneumonia-unspecified</td><td>1</td>" in html
    assert html.count('src="data:image/png;base64,') == 2  # the first three but one that is not there
    assert "1&lt;.png" in html


def test_a_frame_has_the_columns_of_the_manifest() -> None:
    pandas = pytest.importorskip("pandas")
    frame = dataset_of((FILM, BARE)).to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["label"]) == ["normal", "pneumonia-unspecified"]
    assert list(frame.columns)[:3] == ["path", "sha256", "patient_id"]


def test_without_pandas_a_frame_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="needs pandas"):
        dataset_of((FILM,)).to_frame()


@pytest.fixture
def dataset(tmp_path):
    return phantom_dataset(tmp_path / "films", count=6)


def write(file, rows):
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, ["path", "sha256", "reader_label", "comment"])
        writer.writeheader()
        writer.writerows(rows)
    return file


def row(sample, label="", comment=""):
    return {"path": sample.path, "sha256": sample.sha256, "reader_label": label, "comment": comment}


def test_labels_change_in_a_new_data_set_only(dataset, tmp_path):
    a, b, c, d, *_ = dataset.samples
    other = Label.VIRAL if a.label is not Label.VIRAL else Label.BACTERIAL
    answers = [row(a, other.value, "perihilar"), row(b, "unsure"), row(c, "exclude"), row(d)]
    manifest = sha256_file(dataset.directory / "manifest.csv")
    corrections = read_corrections(write(tmp_path / "review.csv", answers), dataset)
    assert [correction.reader_label for correction in corrections] == [other.value, "unsure", "exclude"]
    corrected = apply_corrections(dataset, corrections, "Dr. A", tmp_path / "new")
    assert sha256_file(dataset.directory / "manifest.csv") == manifest
    opened = Dataset.open(tmp_path / "new")
    labels = {sample.path: sample.label for sample in opened.samples}
    assert labels[a.path] is other
    assert labels[b.path] is b.label
    assert c.path not in labels
    assert len(labels) == 5
    assert opened.hash == corrected.hash != dataset.hash
    assert "1 labels corrected and 1 images left out by Dr. A (0001.json)" in opened.notes
    assert opened.file(opened.samples[0]).is_file()
    record = read_json(dataset.directory / "corrections" / "0001.json")
    assert record["corrections"][0]["before"] == a.label.value
    assert record["corrections"][0]["comment"] == "perihilar"
    assert (record["previous"], record["dataset_hash"]) == (None, dataset.hash)


def test_records_name_their_predecessor(dataset, tmp_path):
    for number in (1, 2):
        corrections = read_corrections(
            write(tmp_path / "r.csv", [row(dataset.samples[0], "unsure")]), dataset
        )
        apply_corrections(dataset, corrections, "A", tmp_path / f"new{number}")
    folder = dataset.directory / "corrections"
    assert read_json(folder / "0002.json")["previous"] == sha256_file(folder / "0001.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "nowhere.png"}, "row 2: no image nowhere.png"),
        ({"sha256": "0" * 64}, "row 2: .* has changed since the review"),
        ({"reader_label": "pneumonia?"}, "row 2: reader_label 'pneumonia\\?'"),
        ({"reader_label": " "}, "nobody filled in reader_label"),
    ],
)
def test_faulty_rows_are_named_and_nothing_is_applied(dataset, tmp_path, change, message):
    rows = [{**row(dataset.samples[0], "normal"), **change}]
    with pytest.raises(InputError, match=message):
        read_corrections(write(tmp_path / "r.csv", rows), dataset)
    assert not (dataset.directory / "corrections").exists()


def test_another_table_and_a_full_folder_are_refused(dataset, tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="lacks path, sha256, reader_label, comment"):
        read_corrections(tmp_path / "other.csv", dataset)
    with pytest.raises(InputError, match="cannot be read"):
        read_corrections(tmp_path / "missing.csv", dataset)
    corrections = read_corrections(write(tmp_path / "r.csv", [row(dataset.samples[0], "unsure")]), dataset)
    with pytest.raises(DatasetError, match="not empty"):
        apply_corrections(dataset, corrections, "A", dataset.directory)
    assert not (dataset.directory / "corrections").exists()
