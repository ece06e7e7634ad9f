"""A photograph of a film: told by its EXIF, made grey, cut to the image."""

import io

import numpy as np
import pytest
from PIL import Image

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.imaging.photograph import film_area, is_photograph, photographed_film

HEIGHT, WIDTH = 480, 400


@pytest.fixture(scope="module")
def film():
    """(HEIGHT, WIDTH) uint8, a chest of smooth shapes: dark lungs, brighter body, black corners."""
    row, column = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    body = np.clip(1.2 - column**4 - 0.3 * row**2, 0, 1)
    lungs = np.exp(-(((np.abs(column) - 0.4) / 0.2) ** 2) - (row / 0.6) ** 2)
    return np.rint(190 * np.clip(0.75 * body - 0.6 * lungs, 0, 1)).astype(np.uint8)


def on_light_box(film, frame, room=0, tint=(255, 255, 255)):
    """The image on a box ``frame`` pixels wider at each side, in a dark room; (H, W, 3) uint8."""
    boxed = np.pad(film, frame, constant_values=240)
    boxed = np.pad(boxed, room, constant_values=12)
    return (boxed[..., None] * (np.array(tint) / 255)).astype(np.uint8)


@pytest.mark.parametrize(("frame", "room"), [(10, 0), (40, 0), (90, 0), (40, 15)])
def test_the_light_box_and_the_room_are_cut_off(film, frame, room):
    rows, columns = film_area(on_light_box(film, frame, room)[..., 0])
    off = frame + room
    for part, length in ((rows, HEIGHT), (columns, WIDTH)):
        assert abs(part.start - off) <= 5
        assert abs(part.stop - off - length) <= 5


def test_a_film_without_a_light_box_is_left_whole(film):
    assert film_area(film) == (slice(0, HEIGHT), slice(0, WIDTH))


def test_a_bright_strip_at_one_side_belongs_to_the_film(film):
    pixels = film.copy()
    pixels[-40:] = 240
    assert film_area(pixels) == (slice(0, HEIGHT), slice(0, WIDTH))


@pytest.mark.parametrize("pixels", [np.zeros((5, 7), np.uint8), np.full((300, 200), 255, np.uint8)])
def test_pictures_with_nothing_on_them_are_left_whole(pixels):
    assert film_area(pixels) == (slice(0, pixels.shape[0]), slice(0, pixels.shape[1]))


def test_a_tinted_photograph_becomes_a_grey_film(film, tmp_path):
    file = tmp_path / "photo.jpg"
    Image.fromarray(on_light_box(film, 60, tint=(215, 240, 255))).save(file, quality=95)
    with Image.open(io.BytesIO(photographed_film(file.read_bytes()))) as picture:
        assert (picture.format, picture.mode) == ("PNG", "L")
        assert abs(picture.width - WIDTH) <= 8
        seen = np.asarray(picture.resize((WIDTH, HEIGHT)), float)
    assert np.corrcoef(seen.ravel(), film.ravel())[0, 1] > 0.98


def test_a_turned_photograph_is_upright(film, tmp_path):
    image = Image.fromarray(on_light_box(film, 60)).transpose(Image.Transpose.ROTATE_90)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "photo.jpg", exif=exif)
    with Image.open(io.BytesIO(photographed_film((tmp_path / "photo.jpg").read_bytes()))) as picture:
        assert picture.height > picture.width


def test_a_camera_says_so(film, tmp_path):
    image = Image.fromarray(film)
    image.save(tmp_path / "scan.jpg")
    exif = image.getexif()
    exif.get_ifd(0x8769)[0x829A] = 0.01
    image.save(tmp_path / "photo.jpg", exif=exif)
    (tmp_path / "none.jpg").write_bytes(b"no picture")
    assert [is_photograph((tmp_path / f"{name}.jpg").read_bytes()) for name in ("photo", "scan", "none")] == [
        True,
        False,
        False,
    ]


def test_what_is_no_picture(tmp_path):
    (tmp_path / "x").write_bytes(b"no picture")
    with pytest.raises(UnreadableFileError, match="cannot be decoded"):
        photographed_film((tmp_path / "x").read_bytes())


@pytest.mark.films
def test_real_films_without_a_light_box_are_left_whole(films):
    files = sorted((films / "kermany_original").rglob("*.jpeg"))[::12]
    assert files
    for file in files:
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert film_area(pixels) == (slice(0, pixels.shape[0]), slice(0, pixels.shape[1]))
