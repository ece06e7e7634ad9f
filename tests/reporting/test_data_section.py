"""What is said of the images rests on the manifest."""

from dataclasses import replace

import numpy as np
import pytest

from pneumoscope.core.records import Label, Sample
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.phantoms import write_jpeg, write_png
from pneumoscope.reporting.run_report import (
    dataset_facts,
    is_synthetic,
    limits,
    open_run,
    part_counts,
    shows_adults,
)


def sample(path, label=Label.NORMAL, patient="p", **facts):
    return Sample(path, "0" * 64, patient, patient, label, **facts)


def dataset_of(tmp_path, *samples):
    return Dataset(tmp_path, tmp_path, "some", "folders", samples)


def test_facts_count_films_patients_and_what_is_known(tmp_path):
    facts = dict(
        dataset_facts(
            dataset_of(
                tmp_path,
                sample("a", age_years=1.0, sex="F", site="north"),
                sample("b", Label.VIRAL, age_years=4.0, sex="F", site="north"),
                sample("c", Label.VIRAL, patient="q"),
            )
        )
    )
    assert facts["Images"] == "3"
    assert facts["Patients"] == "2"
    assert facts["Images labelled viral"] == "2"
    assert "Images labelled bacterial" not in facts
    assert facts["Sites"] == "north (2), not known (1)"
    assert facts["Views"] == "not in the manifest"
    assert facts["Age in years"] == "1 to 4, median 4 (2 images)"


def test_parts_are_counted_by_label(run_directory):
    assert part_counts(open_run(run_directory)) == {
        "train": {"normal": 10, "bacterial": 10, "viral": 10},
        "test": {"normal": 10, "bacterial": 10, "viral": 10},
    }


def test_parts_without_a_data_set_have_films_without_labels(run_directory):
    counts = part_counts(replace(open_run(run_directory), dataset=None))
    assert counts == {"train": {"label not known": 30}, "test": {"label not known": 30}}


def test_folds_come_in_the_order_of_their_numbers(run_directory):
    split = {f"film-{k}": f"fold-{k}" for k in (10, 2, 0)}
    assert list(part_counts(replace(open_run(run_directory), split=split))) == ["fold-0", "fold-2", "fold-10"]


def test_limits_of_the_guangzhou_films_name_hospital_and_ages(run_directory, tmp_path):
    dataset = dataset_of(tmp_path, sample("IM-0115-0001.jpeg"), sample("person1_virus_6.jpeg", Label.VIRAL))
    text = " ".join(limits(replace(open_run(run_directory), dataset=dataset)))
    assert "Guangzhou" in text
    assert "one to five years" in text
    assert "No clinical histories" in text


def test_limits_elsewhere_say_what_the_manifest_knows(run_directory, tmp_path):
    run = open_run(run_directory)
    assert "names no hospital" in limits(run)[0]
    dataset = dataset_of(tmp_path, sample("a", site="north"), sample("b", site="south"))
    assert limits(replace(run, dataset=dataset))[0].startswith("2 sites (north, south)")
    assert limits(replace(run, dataset=None))[0].startswith("No clinical histories")


@pytest.mark.parametrize("write", [write_png, lambda file, pixels: write_jpeg(file, pixels, 90)])
def test_phantoms_are_known_by_their_own_metadata(tmp_path, write):
    write(tmp_path / "IM-0001-0001.img", np.zeros((8, 8), np.float32))
    assert is_synthetic(dataset_of(tmp_path, sample("IM-0001-0001.img")))
    assert is_synthetic(dataset_of(tmp_path, sample("gone.dcm", patient="PHANTOM-00001")))


def test_other_films_are_no_phantoms(run_directory, tmp_path):
    assert not is_synthetic(open_run(run_directory).dataset)
    assert not is_synthetic(None)
    assert not is_synthetic(dataset_of(tmp_path, sample("gone.png")))


def test_adults_are_noticed(tmp_path):
    assert shows_adults(dataset_of(tmp_path, sample("a", age_years=17.9), sample("b", age_years=18.0)))
    assert not shows_adults(dataset_of(tmp_path, sample("a", age_years=17.9), sample("b")))
    assert not shows_adults(None)
