"""Overlays and contours: exact colours, the original grid, lines where the levels are."""

import numpy as np
import pytest

from pneumoscope.inference.overlay import LEVELS, OPACITY, colours, contour, overlay


def grey(value, size=(60, 100)):
    return np.full(size, value, np.float32)


def heat(values):
    return np.asarray(values, np.float32)


def test_colours_are_those_of_plasma():
    colormaps = pytest.importorskip("matplotlib").colormaps
    strength = np.linspace(0, 1, 256, dtype=np.float32)
    expected = 255 * colormaps["plasma"](strength)[:, :3]
    np.testing.assert_allclose(colours(strength), expected, atol=5)
    np.testing.assert_array_equal(colours(np.array([-1, 0, 1, 2])), colours(np.array([0, 0, 1, 1])))


def test_no_evidence_leaves_the_film_bare_and_full_evidence_colours_it():
    strength = np.zeros((60, 100))
    strength[:, 50:] = 1
    picture = overlay(grey(0.5), heat(strength))
    assert (picture.shape, picture.dtype) == ((60, 100, 3), np.uint8)
    np.testing.assert_array_equal(picture[:, :50], 128)
    full = colours(np.array([1.0], np.float32))[0]
    np.testing.assert_allclose(picture[0, 50], 127.5 * (1 - OPACITY) + full * OPACITY, atol=0.51)


def test_a_film_decoded_at_reduced_size_is_enlarged():
    assert overlay(grey(0.2, (30, 50)), heat(np.zeros((60, 100)))).shape == (60, 100, 3)
    assert overlay(grey(0.2, (30, 49)), heat(np.zeros((59, 97)))).shape == (59, 97, 3)


def test_bytes_are_shades_of_255():
    np.testing.assert_array_equal(overlay(np.full((60, 100), 77, np.uint8), heat(np.zeros((60, 100)))), 77)


def test_a_map_of_another_film_is_refused():
    with pytest.raises(ValueError, match=r"heat map \(10, 10\), image \(60, 100\)"):
        overlay(grey(0.5), heat(np.zeros((10, 10))))


def test_lines_follow_the_levels_and_are_as_wide_everywhere():
    size = (1000, 1000)
    steep, flat = np.linspace(0, 1, 200), np.linspace(1, 0, 800)
    picture = contour(grey(0.5, size), heat(np.tile(np.concatenate([steep, flat]), (1000, 1))))
    shades = colours(np.array(LEVELS, np.float32))
    for level, shade in zip(LEVELS, shades, strict=True):
        for place in (199 * level, 200 + 799 * (1 - level)):
            near = np.abs(picture[150].astype(float) - shade).max(axis=1) < 30
            columns = np.flatnonzero(near[int(place) - 6 : int(place) + 7]) + int(place) - 6
            assert 3 <= len(columns) <= 5
            assert abs(columns.mean() - place) <= 1
    untouched = (picture == 128).all(axis=2).mean()
    assert untouched > 0.9
    assert (picture == picture[:1]).all()


def test_a_map_without_levels_has_no_lines():
    np.testing.assert_array_equal(contour(grey(0.5), heat(np.full((60, 100), 0.1))), 128)
