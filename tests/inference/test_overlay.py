"""Overlays: exact colours, the original grid, and a legend that fits."""

import numpy as np
import pytest
from PIL import Image

from pneumoscope.core.records import Explanation, Radiograph
from pneumoscope.inference.overlay import OPACITY, annotate, colours, overlay, write_heat_map


def grey(value, size=(60, 100)):
    return Radiograph(np.full(size, value, np.float32), size)


def heat(values):
    return Explanation(np.asarray(values, np.float32), "class-activation", "viral")


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
    film = Radiograph(np.full((30, 50), 0.2, np.float32), (60, 100))
    assert overlay(film, heat(np.zeros((60, 100)))).shape == (60, 100, 3)


def test_a_map_of_another_film_is_refused():
    with pytest.raises(ValueError, match=r"heat map \(10, 10\), film \(60, 100\)"):
        overlay(grey(0.5), heat(np.zeros((10, 10))))


@pytest.mark.parametrize("size", [(40, 40), (60, 100), (224, 224), (600, 150), (900, 1200)])
def test_the_legend_keeps_to_the_lower_border(size):
    picture = overlay(grey(0.5, size), heat(np.zeros(size)))
    annotated = annotate(picture, "bacterial")
    assert annotated.shape == picture.shape
    changed = np.flatnonzero((annotated != picture).any(axis=(1, 2)))
    assert len(changed) <= max(13, 0.06 * size[0])
    assert changed.max() == size[0] - 1
    assert annotated.max() > 200  # there is text
    colourful = np.ptp(annotated.astype(int), axis=2) > 100
    assert colourful.any()  # and a scale


def test_writes_a_png_on_the_original_grid(tmp_path):
    file = tmp_path / "maps" / "film.png"
    write_heat_map(file, grey(0.5, (224, 300)), heat(np.zeros((224, 300))))
    with Image.open(file) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (300, 224))
        assert image.text["Description"] == "class-activation heat map for viral; not for primary diagnosis"
    assert [path.name for path in file.parent.iterdir()] == ["film.png"]
