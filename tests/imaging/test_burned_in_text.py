"""Text that is burned into an image: found at every size and polarity, anatomy left alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from pneumoscope.core.records import FloatArray, Label
from pneumoscope.data.phantom_drawing import PhantomConfig, draw_phantom
from pneumoscope.imaging.burned_in_text import cover, find_text, mask_text
from pneumoscope.imaging.lungs import segment_lungs
from pneumoscope.imaging.radiograph import read_radiograph

SIDE = 512
UNMARKED = PhantomConfig(markers=False)
COVERED = 0.9
"""Share of a character's pixels that must be covered for the character to count."""


def write(
    film: FloatArray, text: str, size: int, ink: float, place: tuple[int, int]
) -> tuple[FloatArray, list[np.ndarray]]:
    """The image with text on it, top left at ``place`` (x, y), and the pixels of each character."""
    font = ImageFont.load_default(size)
    out, characters, x = film.copy(), [], float(place[0])
    for character in text:
        layer = Image.new("L", (film.shape[1], film.shape[0]))
        ImageDraw.Draw(layer).text((x, place[1]), character, fill=255, font=font)
        alpha = np.asarray(layer, np.float32) / 255
        out = out * (1 - alpha) + np.float32(ink) * alpha
        if (alpha > 0.5).any():
            characters.append(alpha > 0.5)
        x += font.getlength(character)
    return out.astype(np.float32), characters


def covered_share(film: FloatArray, characters: list[np.ndarray]) -> float:
    mask = find_text(film)
    return float(np.mean([mask[pixels].mean() >= COVERED for pixels in characters]))


@pytest.fixture(scope="module")
def film() -> FloatArray:
    return draw_phantom(Label.NORMAL, np.random.default_rng(0), SIDE, config=UNMARKED).pixels


@pytest.mark.parametrize("size", [10, 14, 20, 32, 48])
@pytest.mark.parametrize("ink", [0.0, 1.0])
def test_characters_of_every_size_and_polarity_are_covered(film: FloatArray, size: int, ink: float) -> None:
    ground = np.clip(film, 0.25, 0.75).astype(np.float32)
    shares = []
    for place in ((6, 6), (6, SIDE - 2 * size), (SIDE // 2, 6)):
        drawn, characters = write(ground, "DOE 12.3", size, ink, place)
        shares.append(covered_share(drawn, characters))
    assert min(shares) == 1.0


def test_white_on_black_and_a_small_line_are_covered() -> None:
    film = np.zeros((600, 800), np.float32)
    film[100:500, 150:650] = 0.5
    drawn, characters = write(film, "WA: 220 mAs: 2.56", 9, 1.0, (640, 5))
    assert covered_share(drawn, characters) == 1.0


def test_phantoms_without_text_are_left_alone() -> None:
    for seed in range(6):
        label = (Label.NORMAL, Label.BACTERIAL, Label.VIRAL)[seed % 3]
        phantom = draw_phantom(label, np.random.default_rng(seed), SIDE, config=UNMARKED)
        mask = find_text(phantom.pixels)
        assert not mask[phantom.lungs.any(axis=0)].any()
        assert mask.mean() < 0.01


def test_a_mask_and_nothing_else_is_filled(film: FloatArray) -> None:
    drawn, characters = write(film, "R", 40, 1.0, (20, 20))
    clean, mask = mask_text(drawn)
    assert clean.dtype == np.float32
    np.testing.assert_array_equal(clean[~mask], drawn[~mask])
    assert clean.min() >= 0
    assert clean.max() <= 1
    assert np.abs(clean[characters[0]] - film[characters[0]]).mean() < 0.1


def test_the_fill_of_a_flat_film_is_flat() -> None:
    film = np.full((200, 200), 0.4, np.float32)
    mask = np.zeros(film.shape, bool)
    mask[50:80, 60:120] = True
    film[mask] = 1.0
    np.testing.assert_allclose(cover(film, mask), 0.4, atol=1e-4)


def test_nothing_to_cover_changes_nothing(film: FloatArray) -> None:
    nothing = np.zeros(film.shape, bool)
    np.testing.assert_array_equal(cover(film, nothing), film)
    blank = np.zeros((64, 64), np.float32)
    assert not find_text(blank).any()


@pytest.mark.films
def test_real_films_keep_their_lungs_and_lose_what_is_written_on_them() -> None:
    root = os.environ.get("PNEUMOSCOPE_DATA")
    if not root:
        pytest.skip("PNEUMOSCOPE_DATA is not set")
    files = sorted(Path(root, "kermany_original", "val").rglob("*.jpeg"))[:6]
    files += sorted(Path(root, "external_adult_dev", "images").iterdir())[:6]
    assert len(files) == 12
    lung_shares, shares = [], []
    for number, file in enumerate(files):
        film = read_radiograph(file).pixels
        lungs = segment_lungs(film[None])[0].any(axis=0)
        lung_shares.append(find_text(film)[lungs].mean())
        ink = float(film[8:60, 8:200].mean() < 0.5)
        drawn, characters = write(film, "DOE JANE 12.3", 12 + 3 * number, ink, (8, 8))
        shares.append(covered_share(drawn, characters))
    assert np.mean(lung_shares) < 0.01
    assert np.mean(shares) > 0.95
