"""The lung field: where the box of both lungs lies, what completes a lung that was missed, and the crop."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pneumoscope.core.records import Geometry, Label, Preprocessing, Radiograph
from pneumoscope.data.phantom_drawing import PhantomConfig, draw_phantom
from pneumoscope.imaging import lungs
from pneumoscope.imaging.lungs import find_lung_field, lung_findings, lung_masks, segmenter_file
from pneumoscope.imaging.preprocessing import (
    described,
    fingerprint,
    middle,
    to_model_input,
    to_original,
    to_training_input,
)

G = lungs.LUNG_SIZE
LUNGS = Preprocessing(48, "lungs", "percentile", (1.0, 99.0))
RIGHT, LEFT = (20, 16, 70, 42), (20, 54, 70, 80)  # top, left, bottom, right in cells of 96
EXPECTED = (20 / 96, 16 / 96, 70 / 96, 80 / 96)


def log_odds(*boxes):
    """(2, 96, 96): the first box is the right lung, the second the left one; None: no lung."""
    found = np.full((2, G, G), -5, np.float32)
    for lung, box in zip(found, boxes, strict=True):
        if box:
            top, left, bottom, right = box
            lung[top:bottom, left:right] = 5
    return found


def box_of(*boxes):
    """The box without its margin, and its state."""
    box, state = lungs._box(log_odds(*boxes))
    margin = lungs.BOX_MARGIN * np.array([1, 1, -1, -1])
    return np.array(box) + margin, state


def test_the_box_holds_both_lungs_with_a_margin():
    box, state = box_of(RIGHT, LEFT)
    assert state == "found"
    np.testing.assert_allclose(box, EXPECTED, atol=0.01)


@pytest.mark.parametrize(
    "boxes",
    [
        (RIGHT, None),
        (None, LEFT),
        (RIGHT, (20, 54, 45, 80)),  # a lower lobe that was missed
        (RIGHT, (20, 54, 70, 60)),  # a lung cut narrow
    ],
)
def test_a_lung_that_was_missed_is_completed_by_the_other(boxes):
    box, state = box_of(*boxes)
    assert state == "mended"
    np.testing.assert_allclose(box, EXPECTED, atol=0.015)


def test_crumbs_do_not_move_the_box():
    found = log_odds(RIGHT, LEFT)
    found[0, 5:7, 3:5] = 5  # on the arm
    found[0, 80:90, 70:90] = 5  # under the left lung, in the other half
    found[1, 88:92, 60:66] = 5  # gas of the stomach
    box, state = lungs._box(found)
    assert state == "found"
    assert box == lungs._box(log_odds(RIGHT, LEFT))[0]


@pytest.mark.parametrize(
    "boxes",
    [
        (None, None),
        ((20, 16, 23, 19), None),  # a speck
        ((40, 30, 60, 42), (40, 54, 60, 62)),  # a box too small for a chest
    ],
)
def test_without_plausible_lungs_the_whole_picture_is_looked_at(boxes):
    box, state = lungs._box(log_odds(*boxes))
    assert (box, state) == ((0.0, 0.0, 1.0, 1.0), "not-found")


@pytest.mark.parametrize(
    ("state", "codes"), [("found", []), ("mended", ["lung-completed"]), ("not-found", ["no-lung-field"])]
)
def test_what_is_said_of_the_lungs(state, codes):
    field = dataclasses.replace(find_lung_field(phantom().pixels), state=state)
    assert [finding.code for finding in lung_findings(field)] == codes
    assert lung_findings(None) == ()


def phantom(rows=300, seed=5):
    return draw_phantom(Label.BACTERIAL, np.random.default_rng(seed), rows, config=PhantomConfig(aspect=1.2))


def radiograph(pixels):
    return Radiograph(np.asarray(pixels, np.float32), pixels.shape)


def test_the_box_of_a_phantom_is_that_of_its_lungs():
    drawn = phantom()
    field = find_lung_field(drawn.pixels)
    assert field.state == "found"
    rows, columns = (np.flatnonzero(drawn.lungs.any(axis=0).any(axis=axis)) for axis in (1, 0))
    truth = [rows[0] / 300, columns[0] / 360, rows[-1] / 300, columns[-1] / 360]
    np.testing.assert_allclose(field.box + 0.05 * np.array([1, 1, -1, -1]), truth, atol=0.04)


def test_training_keeps_the_model_input_with_what_lies_round_it():
    film = radiograph(phantom().pixels)
    kept, field = to_training_input(film, LUNGS)
    assert kept.shape == (LUNGS.context, LUNGS.context) == (68, 68)
    seen = to_model_input(film, LUNGS)
    np.testing.assert_allclose(middle(kept[None], 48)[0], seen.array[0], atol=1e-4)
    assert field.box == seen.geometry.box


def test_beyond_the_image_training_sees_black(monkeypatch):
    whole = dataclasses.replace(find_lung_field(phantom().pixels), box=(0.0, 0.0, 1.0, 1.0))
    monkeypatch.setattr("pneumoscope.imaging.preprocessing.find_lung_field", lambda *_: whole)
    kept, _ = to_training_input(radiograph(np.full((100, 140), 0.5)), LUNGS)
    inside = np.zeros((68, 68))
    inside[10:58, 10:58] = 0.5
    np.testing.assert_allclose(kept, inside, atol=1e-6)


def test_a_map_goes_back_into_the_box_and_nowhere_else():
    geometry = Geometry((200, 100), 48, (0, 0, 48, 48), (0.25, 0.2, 0.75, 0.8))
    back = to_original(geometry, np.full((48, 48), 0.5))
    expected = np.zeros((200, 100))
    expected[50:150, 20:80] = 0.5
    np.testing.assert_array_equal(back, expected)
    assert geometry.scale == (48 / 100, 48 / 60)


def test_a_place_on_the_model_grid_is_the_same_place_on_the_image():
    drawn = phantom()
    field = to_model_input(radiograph(drawn.pixels), LUNGS)
    masks = lung_masks(field.lungs, field.geometry)
    assert masks.shape == (2, 48, 48)
    back = to_original(field.geometry, masks.any(axis=0).astype(np.float32)) > 0.5
    truth = drawn.lungs.any(axis=0)
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.9


def test_the_cache_key_names_the_segmenter_and_never_its_place(tmp_path):
    copied = tmp_path / "lungs.onnx"
    copied.write_bytes(segmenter_file().read_bytes())
    elsewhere = dataclasses.replace(LUNGS, segmenter=copied)
    assert fingerprint(elsewhere) == fingerprint(LUNGS)
    assert described(elsewhere) == described(LUNGS)
    assert str(tmp_path) not in str(described(elsewhere))
    other = tmp_path / "other.onnx"
    other.write_bytes(b"another")
    assert fingerprint(dataclasses.replace(LUNGS, segmenter=other)) != fingerprint(LUNGS)


def test_a_small_image_is_not_reduced_before_its_lungs_are_found():
    assert LUNGS.source_size == 224
    assert dataclasses.replace(LUNGS, size=160).source_size == 320
    assert Preprocessing(48).source_size == 48


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.75))
def test_small_parts_are_those_of_scipy(seed, share):
    mask = np.random.default_rng(seed).random((24, 24)) < share
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())[1:]
    expected = mask & np.concatenate([[False], sizes >= lungs.PIECE * sizes.max(initial=0)])[parts]
    np.testing.assert_array_equal(lungs._without_crumbs(mask), expected)
