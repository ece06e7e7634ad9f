"""The segmenter finds both lungs, on their sides and the images' own grid, and nothing where nothing is."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scripts.train_lungs import dice, draw_outlines

from pneumoscope.core.errors import BundleError
from pneumoscope.core.files import sha256_file
from pneumoscope.core.records import Label
from pneumoscope.data.phantom_drawing import PhantomConfig, draw_phantom
from pneumoscope.imaging import lungs
from pneumoscope.imaging.lungs import segment_lungs, segmenter_id
from pneumoscope.imaging.radiograph import read_radiograph

OUTLINES = Path(__file__).parents[2] / "docs" / "lung_outlines.json"


@pytest.fixture(scope="module")
def phantoms():
    rng = np.random.default_rng(5)
    config = PhantomConfig(aspect=1.2)
    return [draw_phantom(label, rng, 150, config=config) for label in Label for _ in range(3)]


def test_both_lungs_of_phantoms_are_found_on_their_own_grid(phantoms):
    masks = segment_lungs(np.stack([phantom.pixels for phantom in phantoms]))
    assert masks.shape == (12, 2, 150, 180)
    assert masks.dtype == bool
    overlap = dice(masks, np.stack([phantom.lungs for phantom in phantoms]))
    assert overlap.mean() > 0.93
    assert overlap.min() > 0.8


def test_the_right_lung_lies_on_the_left_of_the_picture(phantoms):
    masks = segment_lungs(phantoms[0].pixels[None])[0]
    columns = [np.flatnonzero(mask.any(axis=0)).mean() for mask in masks]
    assert columns[0] < 90 < columns[1]
    assert not (masks[0] & masks[1]).any()


def test_brightness_and_contrast_do_not_matter(phantoms):
    film = phantoms[1].pixels
    masks = segment_lungs(np.stack([film, 0.2 + 0.3 * film]))
    assert dice(masks[0], masks[1]).min() > 0.98


def test_a_blank_film_has_no_lungs():
    assert not segment_lungs(np.full((1, 64, 64), 0.5, np.float32)).any()


def test_each_lung_is_one_part():
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[3:5, 2:5] = True
    kept = lungs._largest_part(mask)
    assert kept.sum() == 6
    assert not kept[0, 0]


def test_no_films_are_no_masks():
    assert segment_lungs(np.empty((0, 5, 7), np.float32)).shape == (0, 2, 5, 7)


def test_a_batch_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"expected \(N, H, W\)"):
        segment_lungs(np.zeros((1, 1, 8, 8), np.float32))


def test_a_damaged_segmenter_is_refused(tmp_path, monkeypatch):
    (tmp_path / "lungs.json").write_text(json.dumps({"sha256": "0" * 64}))
    (tmp_path / "model.onnx").write_bytes(b"broken")
    monkeypatch.setattr(lungs, "_DIRECTORY", tmp_path)
    monkeypatch.setattr(lungs, "_document", lungs._document.__wrapped__)
    monkeypatch.setattr(lungs, "_session", lungs._session.__wrapped__)
    with pytest.raises(BundleError, match=r"not the file that lungs\.json names"):
        segment_lungs(np.zeros((1, 8, 8), np.float32))
    (tmp_path / "lungs.json").unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        segmenter_id()


def test_what_ships_is_what_its_document_says():
    document = lungs._document()
    assert document["sha256"] == sha256_file(lungs._DIRECTORY / "model.onnx")
    outlined = json.loads(OUTLINES.read_text())["films"]
    assert document["outlined_films"] == [film["sha256"] for film in outlined]
    assert segmenter_id() == document["sha256"][:12]


@pytest.mark.films
@pytest.mark.skipif("PNEUMOSCOPE_DATA" not in os.environ, reason="PNEUMOSCOPE_DATA names no real images")
def test_the_shipped_segmenter_agrees_with_outlines_of_real_films():
    outlines = json.loads(OUTLINES.read_text())["films"][:4]
    films = [
        read_radiograph(Path(os.environ["PNEUMOSCOPE_DATA"]) / "kermany224" / outline["path"])
        for outline in outlines
    ]
    wanted = draw_outlines(films, outlines, 224).lungs > 0.5
    found = segment_lungs(np.stack([film.pixels for film in films]))
    assert dice(found, wanted).mean() > 0.9  # the segmenter has seen them: a check of the route, not a score
