"""Turned, inverted, halved, blurred and badly exposed phantoms are told, upright ones are not."""

import numpy as np
import pytest
from scipy import ndimage

from pneumoscope.core.findings import Severity
from pneumoscope.core.records import Label, Preprocessing, Radiograph
from pneumoscope.data.phantom_drawing import PhantomConfig, draw_phantom
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.inference.appearance import SIDE, fit_appearance, inspect_appearance, join, measure

SIZE = 64
CONFIG = PhantomConfig(scale_range=(1.0, 1.15), turn_degrees=2.0, shift=0.03)


def model_input(pixels):
    pixels = np.ascontiguousarray(pixels, np.float32)
    return to_model_input(Radiograph(pixels, pixels.shape), Preprocessing(SIZE)).array


def draw(count, seed):
    rng = np.random.default_rng(seed)
    labels = (Label.NORMAL, Label.BACTERIAL, Label.VIRAL)
    return [draw_phantom(labels[n % 3], rng, SIZE, config=CONFIG).pixels for n in range(count)]


@pytest.fixture(scope="module")
def fitted():
    seen = [
        measure(np.stack([model_input(film) for film in draw(count, seed)]))
        for count, seed in ((120, 1), (60, 2))
    ]
    return fit_appearance(*seen, 0.01)


def inspect(fitted, pixels):
    findings, _ = inspect_appearance(*fitted, model_input(pixels))
    return findings


def refusals(findings):
    return [finding.code for finding in findings if finding.severity is Severity.REFUSAL]


def test_upright_films_pass(fitted):
    refused = [film for film in draw(40, 3) if refusals(inspect(fitted, film))]
    warned = [film for film in draw(40, 3) if inspect(fitted, film)]
    assert not refused
    assert len(warned) <= 4


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (np.rot90, "turned"),
        (lambda film: np.rot90(film, 3), "turned"),
        (lambda film: film[::-1, ::-1], "upside-down"),
        (lambda film: 1 - film, "looks-negative"),
        (lambda film: ndimage.gaussian_filter(film, 5), "too-blurred"),
        (lambda film: np.clip(film * 3, 0, 1), "overexposed"),
        (lambda film: np.clip(film * 4 - 3, 0, 1), "underexposed"),
    ],
)
def test_films_that_are_held_or_made_wrongly_are_refused_and_told_why(fitted, change, code):
    for film in draw(6, 4):
        assert code in refusals(inspect(fitted, change(film)))


def test_half_a_film_is_noticed(fitted):
    for film in draw(6, 5):
        codes = {finding.code for finding in inspect(fitted, film[:, : SIZE // 2])}
        assert codes & {"sides-differ", "sides-differ-somewhat", "not-composed", "composed-unusually"}


def test_something_else_is_refused(fitted):
    rng = np.random.default_rng(0)
    waves = 0.5 + 0.5 * np.sin(np.linspace(0, 40, SIZE))[:, None] * np.cos(np.linspace(0, 25, SIZE))
    for picture in (waves, ndimage.gaussian_filter(rng.random((SIZE, SIZE)), 3)):
        assert refusals(inspect(fitted, picture))


def test_measures_have_their_closed_forms():
    ramp = np.tile(np.linspace(0, 1, SIZE, dtype=np.float32), (SIZE, 1))
    roof = np.minimum(ramp, ramp[:, ::-1])
    half = (ramp > 0.5).astype(np.float32)
    seen = measure(np.stack([ramp, roof, half, np.full_like(ramp, 0.5)])[:, None])
    assert seen.thumbnails.shape == (4, SIDE, SIDE)
    assert seen.symmetry[1] == pytest.approx(1)
    assert seen.symmetry[0] == pytest.approx(-1)  # a ramp is minus its mirror image about every axis
    assert (seen.white[2], seen.black[2]) == (0.5, 0.5)
    assert seen.sharpness[0] < -8 < seen.sharpness[2]
    assert not seen.thumbnails[3].any()
    assert seen.thumbnails[0].std() == pytest.approx(1)


def test_bounds_hold_their_share_of_validation_films(fitted):
    films = measure(np.stack([model_input(film) for film in draw(60, 2)]))
    bounds, _ = fitted
    assert (films.symmetry < bounds["warn_symmetry"]).sum() == 0  # 60 images: the bounds are their extremes
    assert (films.white > bounds["warn_white"]).sum() == 0
    assert bounds["refuse_distance"] == pytest.approx(1.5 * bounds["warn_distance"])
    assert bounds["refuse_sharpness"] < bounds["warn_sharpness"] < bounds["warn_grain"]


def test_batches_join():
    films = np.stack([model_input(film) for film in draw(3, 6)])
    whole, parts = measure(films), join(iter([measure(films[:1]), measure(films[1:])]))
    for a, b in zip(whole, parts, strict=True):
        assert np.array_equal(a, b)
