"""A stored result back as the records that it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pneumoscope.inference.answer import record
from pneumoscope.inference.pipeline import examine
from pneumoscope_clinic.results.examination import examination_of, on_grid, radiograph_of
from pneumoscope_clinic.results.film_result import FilmResult
from tests.clinic.film_results import EXAMINED, FILM_ID, film_result, refused
from tests.films import write_film
from tests.tiny_bundle import write_tiny_bundle


def test_the_record_survives_the_way_there_and_back(tmp_path: Path) -> None:
    """What ``inference.answer`` wrote is read back, so that writing it again gives the same."""
    film = write_film(tmp_path / "film.png", 0.8)
    examination = examine(film, write_tiny_bundle(tmp_path / "bundle"))
    written = json.loads(json.dumps(record(film, examination)))
    assert examination.explanation is not None
    maps = {
        name: np.rint(255 * one).astype(np.uint8) for name, one in examination.explanation.heat_maps.items()
    }
    result = FilmResult(
        FILM_ID,
        written | {"bundle_card": dict(examination.bundle_card), "limitations": [], "versions": {}},
        np.zeros((120, 160), np.uint8),
        (120, 160),
        maps,
        EXAMINED,
    )
    again = json.loads(json.dumps(record(film, examination_of(result))))
    assert again == written


def test_a_refused_film_has_neither_prediction_nor_explanation() -> None:
    examination = examination_of(refused())
    assert examination.prediction is None
    assert examination.explanation is None


def test_a_film_whose_heat_maps_were_not_kept_is_not_explained() -> None:
    result = film_result()
    without = FilmResult(
        FILM_ID, result.record, result.picture, result.original_size, {}, EXAMINED, result.header
    )
    assert examination_of(without).explanation is None


def test_grey_levels_and_heat_map_values_are_shares() -> None:
    film = radiograph_of(film_result())
    assert film.pixels.dtype == np.float32
    assert film.pixels[0, 0] == pytest.approx(20 / 255)
    assert on_grid(np.full((2, 2), 255, np.uint8), (5, 7)).tolist() == [[1.0] * 7] * 5
    assert on_grid(np.array([[0, 51]], np.uint8), (1, 2)).ravel() == pytest.approx([0, 0.2])
