"""Corrections are recorded in a chain, make a new data set, and leave the old one alone."""

import csv

import pytest

from pneumoscope.core.errors import DatasetError, InputError
from pneumoscope.core.files import read_json, sha256_file
from pneumoscope.core.records import Label
from pneumoscope.data.dataset import Dataset, apply_corrections, read_corrections
from tests.learning.phantoms import phantom_dataset


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
