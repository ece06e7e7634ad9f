"""What a file says about itself and what its pixels cannot be."""

import os
from pathlib import Path

import numpy as np
import pytest

from pneumoscope.core.records import Radiograph, Verdict
from pneumoscope.imaging.color import COLOR_WARNING
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.inference.source_rules import Patient, inspect_source, neighbour_correlation


def film(pixels=None, warnings=(), **source):
    """A smooth picture, dark in its middle as a chest is between bright flanks."""
    if pixels is None:
        row, column = np.mgrid[-1:1:200j, -1:1:200j]
        lungs = np.exp(-(((abs(column) - 0.4) / 0.2) ** 2) - (row / 0.6) ** 2)
        pixels = 0.8 - 0.6 * lungs
    return Radiograph(np.asarray(pixels, np.float32), pixels.shape, None, source, tuple(warnings))


def test_nothing_speaks_against_an_ordinary_film():
    assert inspect_source(film(), 224) == ()
    dicom = {"format": "DICOM", "modality": "DX", "body_part": "PORT CHEST", "view_position": "AP"}
    assert inspect_source(film(**dicom), 224) == ()


@pytest.mark.parametrize(
    ("source", "verdict", "reason"),
    [
        ({"modality": "CT"}, Verdict.REFUSE, "modality is CT"),
        ({"modality": "XA"}, Verdict.REFUSE, "modality is XA"),
        ({"modality": "OT"}, Verdict.WARN, "does not say that it is a radiograph"),
        ({}, Verdict.WARN, "does not say that it is a radiograph"),
        ({"modality": "CR", "body_part": "HAND"}, Verdict.REFUSE, "shows hand, not the chest"),
        ({"modality": "CR", "view_position": "LL"}, Verdict.REFUSE, "lateral view"),
        ({"modality": "CR", "view_position": "LATERAL"}, Verdict.REFUSE, "lateral view"),
        ({"modality": "CR", "view_position": "LLD"}, Verdict.WARN, "decubitus or oblique view (LLD)"),
    ],
)
def test_what_a_dicom_header_says(source, verdict, reason):
    ((found, sentence),) = inspect_source(film(format="DICOM", **source), 224)
    assert found is verdict
    assert reason in sentence


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_blank_pictures_are_refused(value):
    assert inspect_source(film(np.full((300, 300), value)), 224) == (
        (Verdict.REFUSE, "the picture is blank"),
    )


@pytest.mark.parametrize("size", [64, 300, 1001])
def test_noise_is_refused(size):
    noise = np.random.default_rng(0).random((size, size))
    assert abs(neighbour_correlation(noise.astype(np.float32))) < 0.1
    assert (Verdict.REFUSE, "the picture is noise") in inspect_source(film(noise), 64)


def test_small_pictures_are_warned_about_then_refused():
    pixels = film().pixels
    assert inspect_source(film(pixels[::4, ::4]), 100) == ()
    assert inspect_source(film(pixels[::4, ::4]), 101)[0][0] is Verdict.WARN
    ((verdict, reason),) = inspect_source(film(pixels[::4, ::4]), 201)
    assert (verdict, reason) == (
        Verdict.REFUSE,
        "the picture is too small to read (50 pixels at its shorter side)",
    )


def test_drawings_are_refused():
    drawing = np.round(film().pixels * 10) / 10
    assert "too few shades" in inspect_source(film(drawing), 224)[0][1]


def test_colour_pictures_are_refused():
    assert "in colour" in inspect_source(film(warnings=[COLOR_WARNING]), 224)[0][1]


def test_negatives_are_warned_about_unless_refused_anyway(monkeypatch):
    monkeypatch.setattr("pneumoscope.inference.source_rules.looks_inverted", lambda pixels: True)
    ((verdict, reason),) = inspect_source(film(), 224)
    assert verdict is Verdict.WARN
    assert "negative" in reason
    ((verdict, reason),) = inspect_source(film(format="DICOM", modality="CT"), 224)
    assert verdict is Verdict.REFUSE


@pytest.mark.films
def test_real_films_pass_and_other_pictures_of_known_kinds_do_not():
    data = os.environ.get("PNEUMOSCOPE_DATA")
    if not data:
        pytest.skip("PNEUMOSCOPE_DATA is not set")

    def verdicts(pattern, step=1):
        files = sorted(Path(data).glob(pattern))[::step]
        assert files
        return {
            file.name: [verdict for verdict, _ in inspect_source(read_radiograph(file, min_size=224), 224)]
            for file in files
        }

    films = verdicts("kermany224/train/*/*.jpeg", 250) | verdicts("external_adult_dev/**/*.jpg", 8)
    assert [name for name, found in films.items() if Verdict.REFUSE in found] == []
    others = verdicts("not_chest_xray/synthetic__*") | verdicts("not_chest_xray/natural__*")
    assert [name for name, found in others.items() if Verdict.REFUSE not in found] == []


@pytest.mark.parametrize(
    ("file_says", "user_says", "verdict"),
    [
        ("045Y", None, Verdict.REFUSE),
        ("018Y", None, Verdict.REFUSE),
        ("017Y", None, Verdict.WARN),
        ("003M", None, Verdict.WARN),
        ("004Y", None, None),
        ("", None, None),
        ("045Y", 4.0, None),
        ("", 60.0, Verdict.REFUSE),
    ],
)
def test_a_network_of_children_does_not_answer_for_adults(file_says, user_says, verdict):
    findings = inspect_source(film(patient_age=file_says), 224, Patient(user_says, (1.0, 5.0)))
    assert [found for found, _ in findings] == ([] if verdict is None else [verdict])
    assert all("1 to 5 years" in reason for _, reason in findings)


def test_without_usual_ages_age_does_not_matter():
    assert inspect_source(film(patient_age="045Y"), 224, Patient(70.0)) == ()
