"""Heat-map pictures: the image stays as it is, the legend stands below it and says what it must."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pneumoscope.core.findings import Finding
from pneumoscope.core.records import NearestCase, Radiograph
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.inference.examination import record
from pneumoscope.inference.heat_map_picture import Look, caption_of, draw_heat_map, write_heat_map
from pneumoscope.inference.overlay import contour, grey, overlay
from pneumoscope.inference.pipeline import examine
from tests.films import write_film
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    folder = tmp_path_factory.mktemp("picture")
    file = write_film(folder / "film.png", 0.8)
    return read_radiograph(file).pixels, examine(file, write_tiny_bundle(folder / "tiny"))


def draw(image, examination, look=None):
    caption = caption_of(record("film.png", examination))
    return draw_heat_map(image, examination.explanation.heat_maps, caption, look)


@pytest.fixture
def words(monkeypatch):
    """All texts that are drawn."""
    drawn = []
    original = ImageDraw.ImageDraw.text

    def text(self, position, words, **options):
        drawn.append(words)
        original(self, position, words, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return drawn


def at(examination, size):
    """The same answer about an image of another size."""
    maps = {name: np.zeros(size, np.float32) for name in ("bacterial", "viral")}
    explanation = replace(examination.explanation, heat_map=maps["bacterial"], heat_maps=maps)
    return np.full(size, 0.5, np.float32), replace(examination, explanation=explanation)


@pytest.mark.parametrize("size", [(120, 100), (224, 224), (600, 300), (1000, 1300), (2500, 3000)])
def test_the_legend_is_below_the_film_and_fits(examined, size):
    image, examination = at(examined[1], size)
    picture = draw(image, examination)
    assert (picture[: size[0]] == 128).all()
    legend = picture[size[0] :]
    assert 30 < len(legend) < max(250, 0.6 * size[1])
    bright = legend.max(axis=2) > 120
    assert bright.any(axis=1).mean() > 0.4
    assert not bright[:, -max(2, size[1] // 200) :].any()  # nothing runs over the border
    assert (np.ptp(legend.astype(int), axis=2) > 100).any()  # the scale has colours


@pytest.mark.parametrize(
    ("look", "titles"),
    [
        (Look(), ["bacterial"]),
        (Look("side-by-side"), ["image", "bacterial"]),
        (Look("contour", ("viral",)), ["viral"]),
        (Look("side-by-side", ("bacterial", "viral")), ["image", "bacterial", "viral"]),
    ],
)
def test_panels_stand_side_by_side(examined, words, look, titles):
    image, examination = examined
    picture = draw(image, examination, look)
    method = contour if look.style == "contour" else overlay
    panels = np.split(picture[:120], len(titles), axis=1)
    for panel, title in zip(panels, titles, strict=True):
        if title == "image":
            expected = np.repeat(grey(image, (120, 160))[..., None], 3, axis=2)
        else:
            expected = method(image, examination.explanation.heat_maps[title])
        np.testing.assert_array_equal(panel, expected)
    shown = [word for word in words if word.split()[0] in ("image", "bacterial", "viral")]
    assert [word.split()[0] for word in shown[: len(titles)]] == titles
    assert words.count("R") == words.count("L") == len(titles)


def test_the_legend_says_answer_zones_sides_and_notice(examined, words):
    image, examination = examined
    draw(image, examination)
    said = " ".join(words)
    assert "POSITIVE, probability of pneumonia 9" in said
    assert examination.explanation.sentence in said
    assert "not for primary diagnosis; sides by convention" in said
    assert words[:3:2] == ["R", "L"]
    assert [word for word in words if word.strip() in ("evidence", "0", "1")] == ["evidence ", " 0 ", " 1"]


def test_a_mirrored_film_has_its_sides_changed(examined, words):
    image, examination = examined
    explanation = replace(examination.explanation, mirrored=True)
    draw(image, replace(examination, explanation=explanation))
    assert words[:3:2] == ["L", "R"]
    assert "sides as the file says" in " ".join(words)


def test_a_forced_answer_is_marked(examined, words):
    image, examination = examined
    gate = replace(examination.gate, findings=(Finding.refusal("blank"),))
    draw(image, replace(examination, forced=True, gate=gate))
    assert "FORCED although refused: the image is blank" in " ".join(words)


def test_alike_films_are_shown_with_their_class_and_nothing_else(examined, words):
    image, examination = examined
    film = Radiograph(np.full((50, 50), 0.8, np.float32), (50, 50))
    cases = [(NearestCase("ab" * 8, "viral", 0.987, "/films/anna.png"), film)] * 2
    picture = draw(image, examination, Look("side-by-side", cases=cases))
    assert words.count("viral 0.99") == 2
    assert "anna" not in " ".join(words)
    assert (picture[120:] == 204).all(axis=2).sum() >= 2 * 75 * 75


def test_writes_a_png_that_says_what_it_is(examined, tmp_path):
    image, examination = examined
    file = tmp_path / "maps" / "film.png"
    caption = caption_of(record("film.png", examination))
    write_heat_map(file, image, examination.explanation.heat_maps, caption)
    with Image.open(file) as png:
        assert (png.format, png.mode, png.width) == ("PNG", "RGB", 160)
        assert png.text["Description"] == "class-activation heat map for bacterial; not for primary diagnosis"
        assert png.text["Comment"] == examination.explanation.sentence
    assert [path.name for path in file.parent.iterdir()] == ["film.png"]


def test_a_film_without_an_explanation_or_map_is_refused(examined):
    with pytest.raises(ValueError, match="not explained"):
        caption_of(record("film.png", replace(examined[1], explanation=None)))
    with pytest.raises(ValueError, match="no heat map of normal"):
        draw(*examined, Look(classes=("normal",)))
