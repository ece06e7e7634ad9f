"""Model inputs and the way back to the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumoscope.core.errors import ConfigError
from pneumoscope.core.records import Geometry, Preprocessing, Radiograph
from pneumoscope.imaging.preprocessing import fingerprint, to_model_input, to_original
from pneumoscope.imaging.radiograph import read_radiograph

PLAIN = Preprocessing(size=64, exposure="none")


def film(pixels, original_size=None):
    pixels = np.asarray(pixels, np.float32)
    return Radiograph(pixels, original_size or pixels.shape)


def noise(rows, columns, seed=0):
    return np.random.default_rng(seed).random((rows, columns), dtype=np.float32)


def test_same_size_is_the_identity_both_ways():
    pixels = noise(64, 64)
    result = to_model_input(film(pixels), PLAIN)
    np.testing.assert_array_equal(result.array[0], pixels)
    np.testing.assert_array_equal(to_original(result.geometry, result.array[0]), pixels)
    assert result.array.dtype == np.float32
    assert not result.array.flags.writeable


def test_shrinking_averages_instead_of_picking():
    checkerboard = np.indices((640, 640)).sum(axis=0) % 2
    result = to_model_input(film(checkerboard), PLAIN).array
    np.testing.assert_allclose(result, 0.5, atol=0.01)


@pytest.mark.parametrize(
    ("size", "fit", "content"),
    [
        ((100, 200), "squash", (0, 0, 64, 64)),
        ((100, 200), "letterbox", (16, 0, 32, 64)),
        ((200, 100), "letterbox", (0, 16, 64, 32)),
        ((101, 203), "letterbox", (16, 0, 32, 64)),
        ((203, 101), "letterbox", (0, 16, 64, 32)),
        ((97, 131), "letterbox", (8, 0, 47, 64)),
        ((16, 9000), "letterbox", (31, 0, 1, 64)),
        ((64, 64), "letterbox", (0, 0, 64, 64)),
    ],
)
def test_geometry(size, fit, content):
    result = to_model_input(film(np.ones(size)), Preprocessing(size=64, fit=fit, exposure="none"))
    assert result.geometry == Geometry(size, 64, content)
    inside = np.zeros((64, 64))
    top, left, height, width = content
    inside[top : top + height, left : left + width] = 1
    np.testing.assert_allclose(result.array[0], inside, atol=1e-6)
    assert result.geometry.padding == (top, left, 64 - top - height, 64 - left - width)


@given(
    rows=st.integers(16, 300),
    columns=st.integers(16, 300),
    side=st.integers(16, 90),
    fit=st.sampled_from(["squash", "letterbox"]),
)
def test_there_and_back_lands_on_the_same_place(rows, columns, side, fit):
    geometry = to_model_input(
        film(np.zeros((rows, columns))), Preprocessing(size=side, fit=fit, exposure="none")
    ).geometry
    top, left, height, width = geometry.content
    # A map that holds, at every model pixel, the image coordinate of that pixel's centre ...
    row_map = np.zeros((side, side), np.float32)
    column_map = np.zeros((side, side), np.float32)
    row_map[top : top + height, left : left + width] = ((np.arange(height) + 0.5) * rows / height)[:, None]
    column_map[top : top + height, left : left + width] = (np.arange(width) + 0.5) * columns / width
    # ... must hold, laid back on the image, each image pixel's own centre (to half a model pixel at the
    # edge).
    on_film = to_original(geometry, row_map)
    assert on_film.shape == (rows, columns)
    assert np.abs(on_film - (np.arange(rows) + 0.5)[:, None]).max() <= 0.5 * max(1, rows / height) + 1e-3
    on_film = to_original(geometry, column_map)
    assert np.abs(on_film - (np.arange(columns) + 0.5)).max() <= 0.5 * max(1, columns / width) + 1e-3


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
def test_constant_map_stays_constant_and_padding_is_cut_off(fit):
    geometry = to_model_input(film(noise(75, 201)), Preprocessing(size=64, fit=fit)).geometry
    top, left, height, width = geometry.content
    heat = np.full((64, 64), 9.0)
    heat[top : top + height, left : left + width] = 0.25
    back = to_original(geometry, heat)
    assert back.shape == (75, 201)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, 0.25, atol=1e-6)


def test_whole_factor_round_trip_is_exact_in_the_middle_of_blocks():
    pixels = np.kron(noise(8, 8), np.ones((9, 9), np.float32))
    result = to_model_input(film(pixels), Preprocessing(size=72, exposure="none"))
    np.testing.assert_array_equal(to_original(result.geometry, result.array[0]), pixels)


def test_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"expected \(64, 64\)"):
        to_original(Geometry((100, 100), 64, (0, 0, 64, 64)), np.zeros((7, 7)))


def test_percentiles_of_the_film_map_to_0_and_1():
    pixels = np.linspace(0.2, 0.6, 64 * 64, dtype=np.float32).reshape(64, 64)
    result = to_model_input(film(pixels), Preprocessing(size=64, percentiles=(10, 90))).array
    np.testing.assert_allclose(result[0], np.clip((pixels - 0.24) / 0.32, 0, 1), atol=1e-4)


def test_padding_takes_no_part_in_the_exposure():
    pixels = 0.5 + 0.2 * noise(32, 64)
    result = to_model_input(film(pixels), Preprocessing(size=64, fit="letterbox", percentiles=(0, 100)))
    content = result.array[0, 16:48]
    np.testing.assert_allclose(content, (pixels - pixels.min()) / np.ptp(pixels), atol=1e-5)
    assert (result.array[0, :16] == 0).all()
    assert (result.array[0, 48:] == 0).all()


@given(gain=st.floats(0.05, 1), offset=st.floats(0, 1))
def test_exposure_removes_gain_and_offset(gain, offset):
    pixels = noise(64, 64)
    plain = to_model_input(film(pixels), Preprocessing(size=64)).array
    dimmed = to_model_input(film((gain * pixels + offset) / 2), Preprocessing(size=64)).array
    np.testing.assert_allclose(plain, dimmed, atol=2e-3 if gain < 0.2 else 1e-4)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_blank_film_keeps_its_value(value):
    result = to_model_input(film(np.full((50, 70), value)), Preprocessing(size=64))
    np.testing.assert_allclose(result.array, value, atol=1e-6)


def test_reduced_decode_has_the_geometry_of_the_full_film():
    result = to_model_input(
        film(noise(125, 250), original_size=(1000, 2000)), Preprocessing(size=64, fit="letterbox")
    )
    assert result.geometry == Geometry((1000, 2000), 64, (16, 0, 32, 64))
    assert to_original(result.geometry, result.array[0]).shape == (1000, 2000)


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(fit="stretch"),
        Preprocessing(exposure="histogram"),
        Preprocessing(percentiles=(99, 1)),
        Preprocessing(percentiles=(-1, 99)),
    ],
)
def test_impossible_preprocessing(preprocessing):
    with pytest.raises(ConfigError):
        to_model_input(film(noise(32, 32)), preprocessing)


def test_fingerprint_is_stable_and_tells_settings_apart():
    assert fingerprint(Preprocessing()) == "52c885de5c6e"
    variants = [
        Preprocessing(),
        Preprocessing(size=160),
        Preprocessing(fit="letterbox"),
        Preprocessing(exposure="none"),
        Preprocessing(percentiles=(1, 99)),
    ]
    assert len({fingerprint(variant) for variant in variants}) == 5


@pytest.mark.films
def test_films_of_original_size_agree_with_their_small_twins(films):
    originals = sorted((films / "kermany_original" / "train").rglob("*.jpeg"))[::12]
    assert len(originals) == 10
    for path in originals:
        twin = films / "kermany224" / "train" / path.parent.name / path.name
        full = to_model_input(read_radiograph(path), Preprocessing()).array.ravel()
        reduced = to_model_input(read_radiograph(path, min_size=224), Preprocessing()).array.ravel()
        small = to_model_input(read_radiograph(twin), Preprocessing()).array.ravel()
        assert np.corrcoef(full, small)[0, 1] > 0.995, path.name
        assert np.corrcoef(reduced, small)[0, 1] > 0.995, path.name
        assert np.corrcoef(reduced, full)[0, 1] > 0.999, path.name
