"""Phantoms: repeatable, the same at any size, marked as synthetic, without a shortcut."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.records import Label
from pneumoscope.data.phantom_drawing import sample_anatomy
from pneumoscope.data.phantoms import WATERMARK, PhantomConfig, WriteConfig, draw_phantom, write_phantoms

LABELS = (Label.NORMAL, Label.BACTERIAL, Label.VIRAL)


def draw(label=Label.NORMAL, seed=0, size=64, **config):
    return draw_phantom(label, np.random.default_rng(seed), size, config=PhantomConfig(**config))


@pytest.mark.parametrize("label", [*LABELS, Label.PNEUMONIA])
def test_a_film_is_float32_in_range_and_read_only(label):
    phantom = draw(label, aspect=1.25)
    assert phantom.pixels.shape == phantom.lesion_mask.shape == (64, 80)
    assert phantom.pixels.dtype == np.float32
    assert phantom.pixels.min() >= 0
    assert phantom.pixels.max() <= 1
    assert phantom.pixels.std() > 0.1
    assert phantom.label is label
    with pytest.raises(ValueError, match="read-only"):
        phantom.pixels[0, 0] = 0


def test_the_same_seed_gives_the_same_film_and_another_seed_another():
    assert np.array_equal(draw(seed=3).pixels, draw(seed=3).pixels)
    assert not np.array_equal(draw(seed=3).pixels, draw(seed=4).pixels)


@pytest.mark.parametrize("label", LABELS)
def test_size_changes_the_sampling_not_the_film(label):
    small = draw(label, 7, 64, noise=0, markers=False)
    large = draw(label, 7, 256, noise=0, markers=False)
    reduced = large.pixels.reshape(64, 4, 64, 4).mean(axis=(1, 3))
    assert np.corrcoef(small.pixels.ravel(), reduced.ravel())[0, 1] > 0.98
    assert abs(small.lesion_mask.mean() - large.lesion_mask.mean()) < 0.01


def test_only_sick_lungs_have_a_mask_and_it_covers_what_changed():
    assert not draw(Label.NORMAL).lesion_mask.any()
    for label in (Label.BACTERIAL, Label.VIRAL):
        for seed in range(5):
            sick = draw(label, seed, 128, noise=0, markers=False)
            none = draw(label, seed, 128, noise=0, markers=False, lesion_strength=0)
            change = np.abs(sick.pixels - none.pixels)
            inside, outside = change[sick.lesion_mask].mean(), change[~sick.lesion_mask].mean()
            assert 0.005 < sick.lesion_mask.mean() < 0.5
            assert inside > 5 * outside


def test_consolidation_is_confined_and_the_interstitial_pattern_is_spread():
    area = {label: np.mean([draw(label, s).lesion_mask.mean() for s in range(20)]) for label in LABELS}
    assert area[Label.VIRAL] > 1.5 * area[Label.BACTERIAL]
    both_sides = [draw(Label.VIRAL, s).lesion_mask for s in range(20)]
    assert np.mean([m[:, :32].any() and m[:, 32:].any() for m in both_sides]) > 0.9


def test_lungs_are_darker_than_what_surrounds_them():
    films = np.mean([draw(seed=s, markers=False, turn_degrees=0, shift=0).pixels for s in range(20)], axis=0)
    right_lung, left_lung = films[20:34, 14:22].mean(), films[18:26, 42:50].mean()
    spine, abdomen = films[20:40, 30:34].mean(), films[56:, 20:44].mean()
    assert max(right_lung, left_lung) + 0.15 < min(spine, abdomen)


def test_two_films_of_a_patient_share_their_anatomy_only():
    patient = sample_anatomy(np.random.default_rng(5))
    steady = PhantomConfig(turn_degrees=0, shift=0, scale_range=(1.1, 1.1), noise=0, markers=False)
    films = [
        draw_phantom(Label.NORMAL, np.random.default_rng(s), 64, config=steady, anatomy=patient).pixels
        for s in (0, 1)
    ]
    other = draw_phantom(Label.NORMAL, np.random.default_rng(1), 64, config=steady).pixels
    edges = [ndimage.gaussian_filter(f, 1) - ndimage.gaussian_filter(f, 3) for f in (*films, other)]
    same, different = (np.corrcoef(edges[0].ravel(), e.ravel())[0, 1] for e in edges[1:])
    assert same > different + 0.1
    assert not np.array_equal(films[0], films[1])


def test_no_global_property_tells_the_classes_apart():
    films = [draw(LABELS[i % 3], i, 48) for i in range(240)]
    sick = [f.label is not Label.NORMAL for f in films]
    for measure in (np.mean, np.std, np.median, np.max, lambda p: p[:8].mean()):
        auc = roc_auc_score(sick, [measure(f.pixels) for f in films])
        assert 0.35 < auc < 0.65


def test_size_below_16_is_refused():
    with pytest.raises(ValueError, match="at least 16"):
        draw(size=8)


def test_kaggle_layout_has_guangzhou_names_and_patients_never_cross(tmp_path):
    seen = []
    folder = write_phantoms(
        tmp_path / "films",
        WriteConfig(count=40, size=32, films_per_patient=3, test_fraction=0.25),
        progress=lambda done, total: seen.append((done, total)),
    )
    files = sorted(p.relative_to(folder) for p in folder.rglob("*.jpeg"))
    assert len(files) == 40
    assert seen[-1] == (40, 40)
    patients = {"train": set(), "test": set()}
    for file in files:
        part, kind, name = file.parts
        assert name.startswith("IM-") == (kind == "NORMAL")
        number = name.split("-")[1] if kind == "NORMAL" else name.split("_")[0].removeprefix("person")
        patients[part].add(int(number))
    assert patients["train"]
    assert patients["test"]
    assert not patients["train"] & patients["test"]
    assert sum("bacteria" in f.name for f in files) > 5
    assert sum("virus" in f.name for f in files) > 5
    masks = sorted(p.relative_to(tmp_path / "films-masks") for p in (tmp_path / "films-masks").rglob("*.png"))
    assert masks
    assert {m.with_suffix(".jpeg") for m in masks} <= {f for f in files if f.parts[1] == "PNEUMONIA"}


def test_every_format_says_that_it_is_synthetic(tmp_path):
    for layout in ("kaggle", "csv", "dicom"):
        folder = write_phantoms(tmp_path / layout, WriteConfig(count=4, size=24, layout=layout))
        assert WATERMARK in folder.with_name(f"{layout}-masks").joinpath("README.txt").read_text()
    with Image.open(next((tmp_path / "kaggle").rglob("*.jpeg"))) as jpeg:
        assert jpeg.info["comment"] == WATERMARK.encode()
        assert jpeg.getexif()[0x010E] == WATERMARK
    for png in (next((tmp_path / "csv").rglob("*.png")), next((tmp_path / "csv-masks").rglob("*.png"))):
        with Image.open(png) as image:
            assert image.text["Comment"] == WATERMARK
    dicom = pydicom.dcmread(next((tmp_path / "dicom").rglob("*.dcm")))
    assert dicom.PatientName == "PHANTOM^SYNTHETIC"
    assert dicom.ImageComments == WATERMARK


def test_csv_layout_lists_every_film(tmp_path):
    folder = write_phantoms(tmp_path / "films", WriteConfig(count=9, size=32, layout="csv"))
    rows = list(csv.DictReader((folder / "labels.csv").read_text().splitlines()))
    assert list(rows[0]) == ["file", "patient_id", "label", "age_years", "sex", "view"]
    assert len(rows) == 9
    assert all((folder / row["file"]).is_file() for row in rows)
    assert {row["label"] for row in rows} == {"normal", "bacterial", "viral"}


def test_dicom_layout_shows_the_same_film_in_both_polarities_and_boxes_hold_the_masks(tmp_path):
    folder = write_phantoms(tmp_path / "films", WriteConfig(count=12, size=48, layout="dicom"))
    rows = list(csv.DictReader((folder / "stage_2_train_labels.csv").read_text().splitlines()))
    assert len({row["patientId"] for row in rows}) == 12
    interpretations = set()
    for file in sorted(folder.rglob("*.dcm")):
        dataset = pydicom.dcmread(file)
        interpretations.add(dataset.PhotometricInterpretation)
        shown = dataset.pixel_array / 4095
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            shown = 1 - shown
        assert shown[:, 20:28].mean() > shown[0].mean(), "the spine is brighter than the upper edge"
        own = [row for row in rows if row["patientId"] == file.stem]
        mask_file = tmp_path / "films-masks" / "stage_2_train_images" / f"{file.stem}.png"
        assert mask_file.exists() == (own[0]["x"] != "")
        if mask_file.exists():
            mask = np.asarray(Image.open(mask_file)) > 0
            for row in own:
                x, y, width, height = (int(row[key]) for key in ("x", "y", "width", "height"))
                mask[y : y + height, x : x + width] = False
            assert not mask.any()
    assert interpretations == {"MONOCHROME1", "MONOCHROME2"}


def test_writing_is_repeatable_and_never_overwrites(tmp_path):
    config = WriteConfig(count=5, size=24, seed=11)
    first, second = (write_phantoms(tmp_path / name, config) for name in ("a", "b"))
    for file in first.rglob("*.jpeg"):
        assert file.read_bytes() == (second / file.relative_to(first)).read_bytes()
    with pytest.raises(DatasetError, match="not empty"):
        write_phantoms(first, config)


def test_a_mask_folder_in_the_way_is_refused_too(tmp_path: Path):
    (tmp_path / "films-masks").mkdir()
    (tmp_path / "films-masks" / "old.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match="not empty"):
        write_phantoms(tmp_path / "films", WriteConfig(count=1, size=24))
