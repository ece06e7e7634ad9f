"""The audit finds what was planted (leaks, duplicates, shortcuts) and stays quiet where nothing was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from pneumoscope.core.records import Label, Preprocessing
from pneumoscope.data.audit import audit_dataset, list_findings, run_audit
from pneumoscope.data.cache import build_cache
from pneumoscope.data.importers import import_dataset
from pneumoscope.data.phantoms import WriteConfig, write_phantoms
from pneumoscope.data.shortcuts import _weighted_auc, ask, score_jointly, score_property
from pneumoscope.data.splits import SplitConfig, split_dataset


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    films = write_phantoms(folder / "films", WriteConfig(count=72, size=48, aspect_range=(1.0, 1.0)))
    dataset = import_dataset(films, folder / "dataset")
    return dataset, run_audit(dataset)


def texts(audit, severity=None):
    return " ".join(f["text"] for f in audit["findings"] if severity in (None, f["severity"]))


def test_the_audit_is_written_as_json_and_repeatable(audited):
    dataset, audit = audited
    assert json.loads((dataset.directory / "audit" / "audit.json").read_text()) == audit
    assert run_audit(dataset) == audit


def test_counts_agree_with_the_manifest(audited):
    dataset, audit = audited
    assert audit["dataset"]["films"] == 72 == sum(audit["dataset"]["classes"].values())
    assert set(audit["balance"]) == {"train", "test"}
    for part, row in audit["balance"].items():
        own = [s for s in dataset.samples if s.publisher_split == part]
        assert row == {c: sum(s.label.value == c for s in own) for c in row}
    assert audit["patients"]["n"] == len({s.patient_id for s in dataset.samples})
    assert sum(int(k) * v for k, v in audit["patients"]["films_per_patient"].items()) == 72


def test_phantoms_have_no_leak_and_no_file_shortcut(audited):
    _, audit = audited
    assert audit["patients"]["in_more_than_one_part"] == []
    assert texts(audit, "danger") == ""
    assert audit["shortcuts"]["file"]["auc"]["pneumonia"]["low"] < 0.5


def test_properties_hold_the_manifests_numbers(audited):
    dataset, audit = audited
    by_name = {item["name"]: item for item in audit["properties"]}
    assert by_name["width"]["constant"]
    assert by_name["width"]["auc"] == {}
    assert "bytes_per_pixel" not in by_name
    own = [s.file_bytes for s in dataset.samples if s.label is Label.NORMAL]
    described = by_name["file_bytes"]["by_class"]["normal"]
    assert described["percentiles"]["50"] == pytest.approx(np.median(own))
    assert sum(described["histogram"]) == described["n"] == len(own)
    assert described["missing"] == 0


def test_picture_properties_are_those_of_the_pixels(audited):
    dataset, audit = audited
    cache = build_cache(dataset, Preprocessing())
    rows = cache.rows([s for s in dataset.samples if s.label is Label.VIRAL])
    films = cache.pixels[rows].astype(float)
    expected = {
        "mean_level": films.mean(axis=(1, 2)),
        "contrast": films.std(axis=(1, 2)),
        "black_share": (films <= 2).mean(axis=(1, 2)),
        "white_share": (films >= 253).mean(axis=(1, 2)),
        "sharpness": np.abs(np.diff(films, axis=2)).mean(axis=(1, 2)),
    }
    by_name = {item["name"]: item for item in audit["properties"]}
    for name, values in expected.items():
        found = by_name[name]["by_class"]["viral"]["percentiles"]
        assert found["50"] == pytest.approx(np.median(values), rel=1e-6), name
    centre = films[:, 30:190, 30:190].reshape(len(films), -1)
    ranges = np.diff(np.percentile(centre, (5, 95), axis=1, method="inverted_cdf"), axis=0)[0]
    assert by_name["centre_range"]["by_class"]["viral"]["percentiles"]["50"] == np.median(ranges)


def plant(folder: Path) -> Path:
    """Normals are larger, a patient is in both parts, one image has a copy in another part and class."""
    rng = np.random.default_rng(0)

    def film(name, bright, side):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        smooth = Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).resize(
            (side, side), Image.BICUBIC
        )
        Image.fromarray((np.asarray(smooth) * bright).astype(np.uint8)).save(file, quality=90)

    for i in range(24):
        part = "test" if i % 4 == 0 else "train"
        film(f"{part}/NORMAL/IM-{i:04d}-0001.jpeg", 1.0, 96)
        film(f"{part}/PNEUMONIA/person{i}_bacteria_{i}.jpeg", 1.0, 48)
    film("train/PNEUMONIA/person0_bacteria_90.jpeg", 1.0, 48)
    copy = (folder / "train/PNEUMONIA/person1_bacteria_1.jpeg").read_bytes()
    (folder / "test/NORMAL/IM-0777-0001.jpeg").write_bytes(copy)
    (folder / "train/NORMAL/IM-0888-0001.jpeg").write_bytes(b"not a picture")
    return folder


def test_planted_faults_are_found(tmp_path):
    dataset = import_dataset(plant(tmp_path / "films"), tmp_path / "dataset")
    audit = run_audit(dataset)
    crossing = audit["patients"]["in_more_than_one_part"]
    assert [item["parts"] for item in crossing] == [{"test": 1, "train": 1}]
    assert "person0" in crossing[0]["patient_id"]
    duplicates = audit["duplicates"]
    assert duplicates["exact"] == {"groups": 1, "films": 2}
    assert (duplicates["across_parts"], duplicates["across_labels"], duplicates["across_patients"]) == (
        1,
        1,
        1,
    )
    by_name = {item["name"]: item for item in audit["properties"]}
    assert by_name["width"]["auc"]["pneumonia"]["value"] > 0.9
    assert audit["shortcuts"]["file"]["auc"]["pneumonia"]["value"] > 0.9
    by_code = {f["code"]: f for f in audit["findings"]}
    assert by_code["patients-across-parts"]["params"] == {
        "patients": 1, "all": 49, "images": 2, "parts": "the publisher's folders",
    }  # fmt: skip
    assert "1 of 49 patients (2 images)" in by_code["patients-across-parts"]["text"]
    assert by_code["duplicates-across-labels"]["params"] == {"groups": 1}
    assert "1 group of duplicate images carry" in by_code["duplicates-across-labels"]["text"]
    assert by_code["shortcut"]["severity"] == "warning"
    assert "Width" in by_code["shortcut"]["params"]["alone"]
    assert [p["path"] for p in audit["problems"]] == ["train/NORMAL/IM-0888-0001.jpeg"]
    assert [f["severity"] for f in audit["findings"]] == sorted(
        (f["severity"] for f in audit["findings"]), key=["danger", "warning", "note"].index
    )


def test_a_split_of_ours_has_no_leak_where_the_publisher_has(tmp_path):
    dataset = import_dataset(plant(tmp_path / "films"), tmp_path / "dataset")
    cache = build_cache(dataset, Preprocessing())
    split = split_dataset(dataset, SplitConfig(seed=1))
    audit = audit_dataset(dataset, cache, split)
    assert audit["patients"]["in_more_than_one_part"] == []
    assert set(audit["balance"]) == {"train", "validation", "test"}
    assert "seed 1" in audit["parts"]


def question(target, groups=None, seed=0):
    groups = np.arange(len(target)) if groups is None else groups
    return ask(target, np.ones(len(target), dtype=bool), groups, seed)


def test_weighted_auc_agrees_with_scikit_learn_ties_included():
    rng = np.random.default_rng(0)
    scores, target = rng.integers(0, 9, 200).astype(float), rng.random(200) < 0.4
    weights = rng.integers(0, 4, (3, 200)).astype(np.int32)
    found = _weighted_auc(scores, target, weights)
    assert found == pytest.approx([roc_auc_score(target, scores, sample_weight=w) for w in weights])


def test_a_property_need_not_be_monotonic_to_be_caught_and_noise_is_not():
    rng = np.random.default_rng(1)
    target = rng.random(600) < 0.5
    extreme = np.where(target, rng.choice([-3.0, 3.0], 600), 0.0) + rng.normal(0, 0.5, 600)
    caught = score_property(extreme, question(target))
    assert caught.value > 0.95
    assert caught.low > 0.9
    noise = score_property(rng.normal(size=600), question(target))
    assert noise.value < 0.6
    assert noise.low < 0.5 < noise.high + 0.05
    assert caught.n == 600


def test_a_missing_value_is_a_property_too():
    target = np.arange(200) % 2 == 0
    values = np.where(target, np.nan, 1.0)
    assert score_property(values, question(target)).value == 1.0


def test_properties_that_tell_only_together_are_caught_jointly():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 800))
    target = a * b > 0
    assert score_property(a, question(target)).value < 0.6
    assert score_jointly(np.stack([a, b], axis=1), question(target)).value > 0.9


def test_patients_are_never_parted_between_folds():
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 60, 300)
    target = groups % 2 == 0
    asked = question(target, groups)
    for train, held_out in asked.folds:
        assert not set(groups[train]) & set(groups[held_out])
    # A value that names the patient tells nothing about other patients.
    assert score_property(rng.normal(size=60)[groups], asked).value < 0.7


def test_a_question_needs_two_patients_a_class():
    assert question(np.array([True, False, False, False])) is None
    assert question(np.array([True, True, False]), np.array([0, 0, 1])) is None


def test_findings_name_the_majority_and_rare_classes(audited):
    _, audit = audited
    changed = {
        **audit,
        "dataset": {**audit["dataset"], "films": 100, "classes": {"normal": 5, "bacterial": 95}},
    }
    found = {f["code"]: f for f in list_findings(changed)}
    assert found["imbalance"]["params"] == {"share": 0.95, "majority": "pneumonia"}
    assert found["rare-class"]["params"] == {"images": 5, "share": 0.05, "label": "normal"}
    assert found["rare-class"]["text"] == "Only 5 images (5.0%) are normal."
    alone = {**audit, "dataset": {**audit["dataset"], "films": 9, "classes": {"normal": 9}}}
    assert (list_findings(alone)[0]["code"], list_findings(alone)[0]["severity"]) == ("one-class", "danger")


@pytest.mark.films
def test_the_known_acquisition_differences_of_real_films_are_found(tmp_path):
    root = os.environ.get("PNEUMOSCOPE_DATA")
    if not root:
        pytest.skip("PNEUMOSCOPE_DATA is not set")
    for kind in ("NORMAL", "PNEUMONIA"):
        own = sorted((Path(root) / "kermany224" / "train" / kind).iterdir())[::40][:40]
        (tmp_path / "films" / "train" / kind).mkdir(parents=True)
        for file in own:
            (tmp_path / "films" / "train" / kind / file.name).write_bytes(file.read_bytes())
    dataset = import_dataset(tmp_path / "films", tmp_path / "dataset")
    audit = run_audit(dataset)
    by_name = {item["name"]: item for item in audit["properties"]}
    assert by_name["file_bytes"]["auc"]["pneumonia"]["value"] > 0.7
    assert "File facts alone" in texts(audit, "warning")
