"""A stored result: what was said, read-only arrays, heat maps on the image's grid."""

from __future__ import annotations

import dataclasses
from datetime import datetime

import numpy as np
import pytest

from pneumoscope_clinic.results.stored_result import on_grid
from tests.clinic.film_results import ABSTAINED, NEGATIVE, film_result, refused


def test_what_was_said() -> None:
    assert [film_result(**changes).answered for changes in ({}, NEGATIVE, ABSTAINED)] == [True, True, False]
    assert not refused().answered
    assert refused().refused
    assert not film_result(**ABSTAINED).refused


def test_the_first_heat_map_is_the_likelier_class() -> None:
    result = film_result()
    assert result.target == "bacterial"
    assert result.heat_map is result.heat_maps["bacterial"]
    assert refused().target is None
    assert refused().heat_map is None


def test_arrays_cannot_be_changed() -> None:
    result = film_result()
    with pytest.raises(ValueError, match="read-only"):
        result.image[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        result.heat_maps["viral"][0, 0] = 1


def test_what_no_view_could_show_is_refused() -> None:
    result = film_result()
    with pytest.raises(ValueError, match="no time zone"):
        dataclasses.replace(result, examined_at=datetime(2026, 3, 4))
    with pytest.raises(ValueError, match="image is float64"):
        dataclasses.replace(result, image=np.zeros((4, 4)))
    with pytest.raises(ValueError, match="viral is uint8 of 3 dimensions"):
        dataclasses.replace(result, heat_maps={"viral": np.zeros((4, 4, 3), np.uint8)})


def test_heat_map_values_are_shares() -> None:
    assert on_grid(np.full((2, 2), 255, np.uint8), (5, 7)).tolist() == [[1.0] * 7] * 5
    assert on_grid(np.array([[0, 51]], np.uint8), (1, 2)).ravel() == pytest.approx([0, 0.2])
