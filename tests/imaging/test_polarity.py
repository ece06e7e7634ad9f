"""Negatives among chest radiographs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pneumoscope.core.findings import Finding
from pneumoscope.core.records import Radiograph
from pneumoscope.imaging.polarity import check_polarity, looks_inverted, polarity_contrast
from pneumoscope.imaging.radiograph import read_radiograph


def test_drawn_chest_and_its_negative(chest):
    assert not looks_inverted(chest)
    assert looks_inverted(1 - chest)
    assert polarity_contrast(chest) > 0.5
    assert polarity_contrast(1 - chest) == pytest.approx(-polarity_contrast(chest), abs=1e-5)


@pytest.mark.parametrize(("gain", "offset"), [(0.1, 0.0), (0.1, 0.9), (0.5, 0.2)])
def test_exposure_does_not_matter(chest, gain, offset):
    assert polarity_contrast(gain * chest + offset) == pytest.approx(polarity_contrast(chest), abs=1e-3)


def test_blank_and_tiny_films_are_not_called_negatives():
    assert polarity_contrast(np.full((100, 80), 0.7, np.float32)) == 0
    assert not looks_inverted(np.zeros((16, 16), np.float32))


def test_the_finding_follows_the_pixels_and_is_not_sought_where_the_header_is_refused(chest):
    negative = check_polarity(Radiograph(1 - chest, chest.shape))
    assert negative.findings == (Finding.warning("looks-negative"),)
    assert check_polarity(negative) == negative
    assert check_polarity(replace(negative, pixels=chest)).findings == ()
    refused = (Finding.refusal("body-part-not-chest", body_part="HAND"),)
    assert check_polarity(replace(negative, findings=refused)).findings == refused


@pytest.mark.films
@pytest.mark.parametrize("pattern", ["kermany224/train/*/*", "external_adult_dev/images/*"])
def test_real_films_are_told_from_their_negatives(films, pattern):
    paths = sorted(films.glob(pattern))
    for path in paths[:: max(1, len(paths) // 40)]:
        pixels = read_radiograph(path).pixels
        assert not looks_inverted(pixels), path.name
        assert looks_inverted(1 - pixels), path.name
