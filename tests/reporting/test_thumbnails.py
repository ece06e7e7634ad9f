"""The worst mistakes are chosen by confidence; their pictures are image beside heat map."""

import io

import numpy as np
import pytest
from PIL import Image

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.inference.bundle import load_bundle
from pneumoscope.reporting.thumbnails import film, film_beside_heat_map, worst_mistakes
from tests.evaluation.films import binary_table


def test_worst_first_half_of_each_kind():
    probability = [0.9, 0.1, 0.3, 0.2, 0.6, 0.99, 0.8, 0.4]
    positive = [True, True, True, True, False, False, False, False]
    found = worst_mistakes(binary_table(probability, positive), 0.5, 4)
    assert [(one.probability, one.missed) for one in found] == [
        (pytest.approx(0.1), True),
        (pytest.approx(0.2), True),
        (pytest.approx(0.99), False),
        (pytest.approx(0.8), False),
    ]


@pytest.mark.parametrize("kind", [True, False])
def test_one_kind_fills_up_where_the_other_is_short(kind):
    level = [0.1, 0.2, 0.3] if kind else [0.9, 0.8, 0.7]
    table = binary_table([*level, 0.95 if kind else 0.05], [kind] * 3 + [kind])
    assert [one.missed for one in worst_mistakes(table, 0.5, 4)] == [kind] * 3


def test_no_mistake_gives_none():
    assert worst_mistakes(binary_table([0.9, 0.1], [True, False]), 0.5) == ()


def test_a_film_on_the_threshold_is_an_alarm():
    found = worst_mistakes(binary_table([0.5, 0.5], [True, False]), 0.5)
    assert [one.missed for one in found] == [False]


@pytest.fixture
def bright_side(tmp_path):
    """An image whose right half is bright: for the tiny bundle that is where pneumonia lies."""
    pixels = np.zeros((120, 160), np.uint8)
    pixels[:, 80:] = 230
    Image.fromarray(pixels).save(tmp_path / "film.png")
    return tmp_path / "film.png"


def test_film_keeps_its_proportions(bright_side):
    image = Image.open(io.BytesIO(film(bright_side, 60)))
    assert (image.format, image.size, image.mode) == ("JPEG", (80, 60), "L")


def test_heat_map_lies_beside_the_film_and_colours_the_evidence(bright_side, run_directory):
    picture = film_beside_heat_map(bright_side, load_bundle(run_directory / "bundle"), 60)
    pixels = np.asarray(Image.open(io.BytesIO(picture))).astype(int)
    assert pixels.shape == (60, 166, 3)
    left, right = pixels[:, :80], pixels[:, 86:]
    colour = np.ptp(right, axis=2)
    assert np.ptp(left, axis=2).max() < 12
    assert colour[:, 50:].mean() > 60
    assert colour[:, :30].mean() < 12


def test_an_unreadable_film_is_named(tmp_path):
    (tmp_path / "film.png").write_bytes(b"no image")
    with pytest.raises(UnreadableFileError, match=r"film\.png"):
        film(tmp_path / "film.png")
