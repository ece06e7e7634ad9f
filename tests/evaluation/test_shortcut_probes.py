"""What every probe leaves of an image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pneumoscope.core.records import Preprocessing, Radiograph
from pneumoscope.evaluation.shortcut_probes import PROPORTIONS, LungMasks, shortcut_probes
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.imaging.stress import STRESSES, StressKind
from tests.evaluation.films import sample
from tests.evaluation.test_shortcut_lungs import masks_of, rectangles

SQUASH = Preprocessing(64, "squash", "percentile")
HASH = sample(0).sha256


@pytest.fixture(scope="module")
def masks() -> LungMasks:
    return masks_of(rectangles())


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """200 x 100, so that the lungs are rows 40 to 140."""
    return np.random.default_rng(0).uniform(0.2, 0.9, (200, 100)).astype(np.float32)


@pytest.fixture(scope="module")
def changed(masks: LungMasks, film: np.ndarray) -> dict[str, np.ndarray]:
    return {probe.name: probe.apply(film, HASH) for probe in shortcut_probes(masks, SQUASH)}


def lungs_of(film: np.ndarray) -> np.ndarray:
    lungs = np.zeros(film.shape, dtype=bool)
    lungs[40:140, 20:40] = lungs[40:140, 60:80] = True
    return lungs


def test_names_are_unique_and_lungs_black_is_judged_first(masks: LungMasks) -> None:
    probes = shortcut_probes(masks, SQUASH)
    assert len({probe.name for probe in probes}) == len({probe.title for probe in probes}) == len(probes)
    assert (probes[0].name, probes[0].kind) == ("lungs-black", StressKind.PROBE)


@pytest.mark.parametrize(("name", "level"), [("lungs-black", 0.0), ("lungs-mean", None)])
def test_the_lungs_are_filled(changed, film, name: str, level: float | None) -> None:
    lungs = lungs_of(film)
    assert np.array_equal(changed[name][~lungs], film[~lungs])
    assert (changed[name][lungs] == np.float32(film.mean() if level is None else level)).all()
    assert changed[name].dtype == np.float32


@pytest.mark.parametrize(("name", "level"), [("only-lungs-black", 0.0), ("only-lungs-mean", None)])
def test_only_the_lungs_are_left(changed, film, name: str, level: float | None) -> None:
    lungs = lungs_of(film)
    assert np.array_equal(changed[name][lungs], film[lungs])
    assert (changed[name][~lungs] == np.float32(film.mean() if level is None else level)).all()


def test_the_wider_regions_hide_more(changed, film) -> None:
    hidden = {name: changed[name] == 0 for name in ("lungs-black", "lungs-wide", "chest-black")}
    assert (hidden["lungs-wide"] >= hidden["lungs-black"]).all()
    assert (hidden["chest-black"] >= hidden["lungs-wide"]).all()
    assert not hidden["lungs-wide"][100, 50]
    assert hidden["chest-black"][100, 50]


def test_the_frame_is_blank_and_the_rest_is_not(changed, film) -> None:
    frame = changed["frame"]
    assert (frame[:16] == 0).all()  # 8 % of 200 rows
    assert (frame[:, -8:] == 0).all()
    assert (frame[:30, :15] == 0).all()  # 15 % at each corner
    assert (frame[-30:, -15:] == 0).all()
    assert np.array_equal(frame[30:-30, 8:-8], film[30:-30, 8:-8])
    assert np.array_equal(frame[16:-16, 15:-15], film[16:-16, 15:-15])


def test_the_proportions_are_those_of_the_other_fit(masks, film) -> None:
    radiograph = Radiograph(film, (200, 100))
    letterbox = replace(SQUASH, fit="letterbox")
    for own, other in ((SQUASH, letterbox), (letterbox, SQUASH)):
        probe = next(p for p in shortcut_probes(masks, own) if p.name == PROPORTIONS)
        pixels = probe.apply(film, HASH)
        assert np.array_equal(pixels, to_model_input(radiograph, other).array[0])
        # The network's own way of making it square changes no size any more, and hardly the exposure.
        again = to_model_input(Radiograph(pixels, (64, 64)), own).array[0]
        assert np.abs(again - pixels).mean() < 0.03
    assert probe.title == "Squash instead of letterbox"


def test_jpeg_and_black_box_are_those_of_the_stress_test(masks, changed, film) -> None:
    box = next(stress for stress in STRESSES if stress.name == "black-box")
    assert np.array_equal(changed["black-box"], box.apply(film, HASH))
    assert 0 < np.abs(changed["jpeg-50"] - film).mean() < 0.2
