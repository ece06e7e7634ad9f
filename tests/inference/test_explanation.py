"""Heat maps: where the evidence is, how strong it looks, and that they lie where the image's pixels are."""

import numpy as np
import pytest

from pneumoscope.core.findings import Finding
from pneumoscope.core.records import Preprocessing, Radiograph, Task
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.inference.explanation import class_activation, explain, normalise, occlusion_maps
from pneumoscope.inference.prediction import decide, run_network
from tests.tiny_bundle import CELLS, SIZE, head_weight, write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def film(background, lesion, size=(SIZE, SIZE)):
    """An image with a bright square in its upper right quarter."""
    pixels = np.full(size, background, np.float32)
    rows, columns = size
    pixels[rows // 8 : rows // 4, 5 * columns // 8 : 7 * columns // 8] = lesion
    return Radiograph(pixels, size)


def explained(bundle, radiograph):
    model_input = to_model_input(radiograph, bundle.preprocessing)
    logits, features = run_network(bundle, model_input.array[None])
    prediction = decide(bundle, logits[0])
    return prediction, explain(bundle, model_input, features[0], prediction)


def test_class_activation_adds_up_to_the_log_odds(bundle):
    image = np.random.default_rng(0).random((1, 1, SIZE, SIZE), np.float32)
    logits, features = run_network(bundle, image)
    for target, bias in ((1, -6.0), (2, -2.0)):
        evidence = class_activation(features[0], head_weight(Task.THREE_CLASS), target)
        assert evidence.shape == (CELLS, CELLS)
        np.testing.assert_allclose(evidence.mean() + bias, logits[0, target] - logits[0, 0], rtol=1e-4)


def test_occlusion_finds_what_the_answer_depends_on(bundle):
    both = occlusion_maps(bundle, film(0.5, 1.0).pixels[None])
    evidence = both[0]
    row, column = np.unravel_index(evidence.argmax(), evidence.shape)
    assert 0.125 <= (row + 0.5) / len(evidence) <= 0.25
    assert 0.625 <= (column + 0.5) / len(evidence) <= 0.875
    assert evidence[-1].max() < 0.2 * evidence.max()
    np.testing.assert_allclose(both[1], evidence / 3, atol=1e-4)  # its slope is a third


@pytest.mark.parametrize("method", ["class-activation", "occlusion"])
def test_the_map_lies_on_the_original_grid(tmp_path, method):
    bundle = write_tiny_bundle(tmp_path / "tiny", explanation={"method": method})
    _, explanation = explained(bundle, film(0.5, 1.0, (96, 200)))
    heat = explanation.heat_map
    assert (heat.shape, heat.dtype, heat.flags.writeable) == ((96, 200), np.float32, False)
    assert (explanation.method, explanation.target) == (method, "bacterial")
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 12 <= row < 24
    assert 125 <= column < 175
    assert 0 <= heat.min() <= heat.max() <= 1


def test_a_letterbox_does_not_shift_the_map(tmp_path):
    preprocessing = {"size": SIZE, "fit": "letterbox", "exposure": "none", "percentiles": [0.5, 99.5]}
    bundle = write_tiny_bundle(tmp_path / "tiny", preprocessing=preprocessing)
    assert bundle.preprocessing == Preprocessing(SIZE, "letterbox", "none", (0.5, 99.5))
    _, explanation = explained(bundle, film(0.7, 1.0, (128, 256)))
    row, column = np.unravel_index(explanation.heat_map.argmax(), (128, 256))
    assert 16 <= row < 32
    assert 160 <= column < 224


def test_a_positive_film_uses_the_full_scale_and_a_negative_one_its_share(bundle):
    prediction, explanation = explained(bundle, film(0.9, 1.0))
    assert prediction.probability > prediction.operating_point.threshold
    assert explanation.heat_map.max() == pytest.approx(1, abs=1e-6)
    prediction, explanation = explained(bundle, film(0.0, 0.6))
    share = prediction.probability / prediction.operating_point.threshold
    assert share < 0.2
    assert explanation.heat_map.max() == pytest.approx(share, rel=1e-5)


def test_no_positive_evidence_gives_an_empty_map(bundle):
    np.testing.assert_array_equal(normalise(-np.ones((4, 4), np.float32), 1.0), 0)
    assert normalise(np.array([[-1, 4]], np.float32), 0.5).tolist() == [[0, 0.5]]


def test_each_kind_has_a_map_as_strong_as_it_is_likely(bundle):
    prediction, explanation = explained(bundle, film(0.8, 1.0))
    assert set(explanation.heat_maps) == {"bacterial", "viral"}
    assert explanation.heat_maps["bacterial"] is explanation.heat_map
    ratio = prediction.probabilities["viral"] / prediction.probabilities["bacterial"]
    assert 0 < ratio < 1
    assert explanation.heat_maps["viral"].max() == pytest.approx(ratio, rel=1e-4)


def test_lit_zones_are_named_and_follow_the_sides_of_the_file(bundle, monkeypatch):
    lungs = np.zeros((1, 2, SIZE, SIZE), bool)
    lungs[0, 0, :, :28] = lungs[0, 1, :, 36:] = True
    monkeypatch.setattr("pneumoscope.inference.explanation.segment_lungs", lambda films: lungs)
    pixels = np.full((SIZE, SIZE), 0.45, np.float32)
    pixels[:20, SIZE // 2 :] = 1
    bright = Radiograph(pixels, (SIZE, SIZE))
    _, explanation = explained(bundle, bright)
    assert explanation.zones["left upper"] > 0.8
    said = explanation.findings[0]
    assert (said.params["kind"], said.params["zone1"]) == ("bacterial pneumonia", "left upper")
    model_input = to_model_input(bright, bundle.preprocessing)
    logits, features = run_network(bundle, model_input.array[None])
    turned = explain(bundle, model_input, features[0], decide(bundle, logits[0]), mirrored=True)
    assert (turned.mirrored, turned.zones["right upper"]) == (True, explanation.zones["left upper"])


def test_a_negative_film_has_no_zones_and_nobody_looks_for_its_lungs(bundle, monkeypatch):
    monkeypatch.setattr("pneumoscope.inference.explanation.segment_lungs", None)
    _, explanation = explained(bundle, film(0.0, 0.6))
    assert (dict(explanation.zones), explanation.outside_lungs) == ({}, None)
    assert explanation.findings == (Finding.note("no-zone"),)
    assert explanation.nearest is None


def test_the_target_is_the_likelier_pneumonia_also_on_a_normal_film(bundle):
    prediction, explanation = explained(bundle, film(0.1, 0.1))
    assert prediction.probabilities["viral"] > prediction.probabilities["bacterial"]
    assert explanation.target == "viral"
