"""Each stress does exactly what its name says, to copies, within [0, 1]."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pneumoscope.core.records import freeze
from pneumoscope.imaging.stress import STRESSES, StressKind

BY_NAME = {stress.name: stress for stress in STRESSES}
SHA = "ab" * 32


def apply(name: str, pixels: np.ndarray, sha: str = SHA, seed: int = 0) -> np.ndarray:
    return BY_NAME[name].apply(freeze(np.asarray(pixels, np.float32)), sha, seed)


@pytest.fixture
def film() -> np.ndarray:
    """(112, 140) smooth, without pure black or white."""
    row, column = np.mgrid[0:1:112j, 0:1:140j]
    return (0.2 + 0.6 * np.sin(3 * row) ** 2 * np.cos(2 * column) ** 2).astype(np.float32)


@pytest.mark.parametrize("name", list(BY_NAME))
def test_every_stress_gives_a_film_and_leaves_its_input_alone(name: str, film: np.ndarray) -> None:
    before = film.copy()
    changed = apply(name, film)
    assert changed.dtype == np.float32
    assert changed.ndim == 2
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert (film == before).all()
    if name != "resize-128":  # this image is smaller than that
        assert changed.shape != film.shape or not np.array_equal(changed, film)


def test_names_are_unique_and_one_takes_the_lungs_away() -> None:
    assert len(BY_NAME) == len(STRESSES)
    assert [stress.name for stress in STRESSES if stress.kind is StressKind.PROBE] == ["black-box"]
    assert sum(stress.kind is StressKind.LIMITED for stress in STRESSES) == 13


def test_exposure_multiplies_and_cuts() -> None:
    pixels = [[0.0, 0.5, 0.8]]
    assert apply("exposure+30", pixels)[0] == pytest.approx([0, 0.65, 1])
    assert apply("exposure-30", pixels)[0] == pytest.approx([0, 0.35, 0.56])


def test_gamma_keeps_black_and_white() -> None:
    pixels = [[0.0, 0.25, 1.0]]
    assert apply("gamma-1.3", pixels)[0] == pytest.approx([0, 0.164938, 1], abs=1e-5)
    assert apply("gamma-0.7", pixels)[0] == pytest.approx([0, 0.378929, 1], abs=1e-5)


def test_cropping_takes_a_twentieth_to_a_tenth_of_each_edge() -> None:
    ramp = np.arange(200 * 400, dtype=np.float32).reshape(200, 400) / (200 * 400)
    corners = set()
    for number in range(20):
        cropped = apply("crop-borders", ramp, f"{number:02x}" * 32)
        top, left = divmod(round(float(cropped[0, 0]) * 200 * 400), 400)
        rows, columns = cropped.shape
        assert np.array_equal(cropped, ramp[top : top + rows, left : left + columns])
        assert 10 <= top <= 20
        assert 10 <= 200 - top - rows <= 20
        assert 20 <= left <= 40
        assert 20 <= 400 - left - columns <= 40
        corners.add((top, left))
    assert len(corners) > 10


def test_corners_are_blank_and_nothing_else(film: np.ndarray) -> None:
    blanked = apply("blank-corners", film)
    rows, columns = 17, 21  # 15 % of 112 and of 140
    expected = film.copy()
    for vertical in (slice(None, rows), slice(-rows, None)):
        for horizontal in (slice(None, columns), slice(-columns, None)):
            expected[vertical, horizontal] = 0
    assert np.array_equal(blanked, expected)


def test_text_is_white_and_only_in_one_corner() -> None:
    film = np.full((224, 280), 0.3, np.float32)
    used = set()
    for number in range(30):
        changed = apply("text", film, f"{number:02x}" * 32) != film
        row, column = np.nonzero(changed)
        box = row.min(), row.max(), column.min(), column.max()
        assert box[1] - box[0] < 30  # one line
        assert min(box[0], 223 - box[1]) < 15  # beside the upper or the lower edge
        assert min(box[2], 279 - box[3]) < 15  # and beside the left or the right one
        assert 0.0005 < changed.mean() < 0.03
        used.add((bool(box[0] < 112), bool(box[2] < 140)))
    assert len(used) == 4
    assert apply("text", film).max() == 1


@pytest.mark.parametrize(("name", "factor"), [("aspect-1.25", 1.25), ("aspect-0.8", 0.8)])
def test_aspect_moves_columns_away_from_the_middle(name: str, factor: float) -> None:
    film = np.zeros((100, 201), np.float32)
    film[:, 140] = 1  # 40 right of the middle column, 100
    stretched = apply(name, film)
    assert stretched.shape == film.shape
    assert ndimage.center_of_mass(stretched)[1] == pytest.approx(100 + 40 * factor, abs=0.3)
    bright = apply(name, np.full((100, 201), 0.5, np.float32))
    assert (bright[:, :18] == 0).all() == (factor < 1)
    assert (bright[:, 21:180] == 0.5).all()


def test_rotation_turns_about_the_middle() -> None:
    film = np.zeros((201, 201), np.float32)
    film[99:102, 159:162] = 1  # 60 right of the middle
    for name, sign in (("rotate+15", -1), ("rotate-15", 1)):
        turned = apply(name, film)
        row, column = ndimage.center_of_mass(turned)
        assert row == pytest.approx(100 + sign * 60 * np.sin(np.pi / 12), abs=0.3)
        assert column == pytest.approx(100 + 60 * np.cos(np.pi / 12), abs=0.3)
    corner = apply("rotate+15", np.ones((201, 201), np.float32))
    assert corner[0, 0] == 0
    assert corner[100, 100] == 1


def test_recompression_is_that_of_a_jpeg_of_quality_30(film: np.ndarray) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.rint(film * 255).astype(np.uint8)).save(stream, "JPEG", quality=30)
    assert np.array_equal(np.rint(apply("jpeg-30", film) * 255), np.asarray(Image.open(stream)))


def test_shrinking_stops_at_128_pixels(film: np.ndarray) -> None:
    ramp = np.tile(np.linspace(0, 1, 512, dtype=np.float32), (256, 1))
    small = apply("resize-128", ramp)
    assert small.shape == (128, 256)
    assert small.mean() == pytest.approx(0.5, abs=0.01)
    assert np.array_equal(apply("resize-128", film), film)


def test_blur_spreads_a_point_and_sharpening_undoes_some_of_a_blur() -> None:
    point = np.zeros((224, 224), np.float32)
    point[100:103, 100:103] = 1
    blurred = apply("blur", point)
    row, _ = np.mgrid[0:224, 0:224]
    variance = ((row - 101) ** 2 * blurred).sum() / blurred.sum()
    assert variance == pytest.approx(2 / 3 + 1.5**2, rel=0.15)  # of three pixels, and of the filter
    edge = ndimage.gaussian_filter(np.repeat([[0.3, 0.7]], 224, axis=0).repeat(112, axis=1), 1.5)
    assert np.abs(np.diff(apply("sharpen", edge))).max() > 1.3 * np.abs(np.diff(edge)).max()


@pytest.mark.parametrize("side", [224, 896])
def test_noise_is_the_same_for_the_network_at_any_size(side: int) -> None:
    noisy = apply("noise", np.full((side, side), 0.5, np.float32))
    grain = side // 224
    cells = noisy.reshape(224, grain, 224, grain).mean(axis=(1, 3))
    assert cells.mean() == pytest.approx(0.5, abs=0.001)
    assert cells.std() == pytest.approx(0.04, rel=0.02)


def test_equalisation_uses_all_greys_alike() -> None:
    skewed = np.random.default_rng(0).beta(2, 8, (224, 224)).astype(np.float32)
    quartiles = np.percentile(apply("equalise", skewed), (25, 50, 75))
    assert quartiles == pytest.approx([0.25, 0.5, 0.75], abs=0.03)


def test_the_box_hides_rows_and_columns_30_to_190() -> None:
    film = np.full((224, 448), 0.7, np.float32)
    hidden = apply("black-box", film)
    assert (hidden[30:190, 60:380] == 0).all()
    assert (hidden == 0).sum() == 160 * 320
    assert (hidden[hidden > 0] == np.float32(0.7)).all()


def test_random_parts_follow_the_film_and_the_seed(film: np.ndarray) -> None:
    first = apply("noise", film)
    assert np.array_equal(first, apply("noise", film))
    assert not np.array_equal(first, apply("noise", film, "cd" * 32))
    assert not np.array_equal(first, apply("noise", film, seed=1))
