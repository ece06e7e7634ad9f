"""The gate: distances against their closed form, thresholds against their promise, verdicts by codes."""

import os
from pathlib import Path

import numpy as np
import pytest

from pneumoscope.core.findings import Finding, Severity
from pneumoscope.core.records import Geometry, LungField, Radiograph, Verdict
from pneumoscope.imaging.lungs import lung_shape
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.inference.bundle import write_bundle
from pneumoscope.inference.gate import (
    REFUSAL_MARGIN,
    Patient,
    feature_distances,
    fit_gate,
    fit_lung_shapes,
    inspect_source,
    judge,
    neighbour_correlation,
)
from tests.tiny_bundle import arrays as tiny_arrays
from tests.tiny_bundle import document as tiny_document
from tests.tiny_bundle import write_model, write_tiny_bundle

CHANNELS = 6
FILM = np.zeros((1, 64, 64), np.float32)


def draw(n, seed, spread=(5.0, 3.0, 0.1, 0.1, 0.1, 0.1)):
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(CHANNELS, CHANNELS)))[0]
    return rng.normal(size=(n, CHANNELS)) * spread @ rotation + 40.0


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_distance_is_mahalanobis_under_probabilistic_pca():
    features = draw(500, 1)
    document, arrays = fit_gate(features, draw(200, 2))
    assert document["components"] == 2  # 5 and 3 hold more than 99 % of the variance
    w, variances = arrays["gate_components"], arrays["gate_variances"]
    noise = float(arrays["gate_residual_variance"])
    covariance = w.T @ np.diag(variances - noise) @ w + noise * np.eye(CHANNELS)
    new = draw(20, 3)
    centred = unit(new) - unit(features).mean(axis=0)
    squared = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)
    np.testing.assert_allclose(feature_distances(arrays, new), np.sqrt(squared / CHANNELS), rtol=1e-3)


def test_the_length_of_the_features_does_not_matter():
    _, arrays = fit_gate(draw(500, 1), draw(200, 2))
    new = draw(20, 3)
    np.testing.assert_allclose(feature_distances(arrays, 7 * new), feature_distances(arrays, new))
    assert np.isfinite(feature_distances(arrays, np.zeros((1, CHANNELS)))).all()


def test_usual_films_lie_near_one():
    _, arrays = fit_gate(draw(500, 1), draw(200, 2))
    assert np.square(feature_distances(arrays, draw(2000, 3))).mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_of_new_films_at_most_the_stated_share_is_beyond_the_threshold(rate):
    beyond = []
    for seed in range(20):
        document, arrays = fit_gate(draw(300, 3 * seed), draw(300, 3 * seed + 1), rate)
        distances = feature_distances(arrays, draw(1000, 3 * seed + 2))
        beyond.append((distances > document["warn_distance"]).mean())
    # The promise holds for the mean over draws; its standard error here is below a fifth of the rate.
    assert np.mean(beyond) == pytest.approx(rate, rel=0.4)
    assert document["refuse_distance"] == pytest.approx(REFUSAL_MARGIN * document["warn_distance"])


def test_a_small_validation_set_gives_its_largest_distance():
    validation = draw(30, 2)
    document, arrays = fit_gate(draw(500, 1), validation)
    assert document["warn_distance"] == feature_distances(arrays, validation).max()
    assert document["n"] == 30


def test_fits_fewer_films_than_channels_and_constant_channels():
    features = np.zeros((10, 40))
    features[:, :3] = np.random.default_rng(0).normal(size=(10, 3))
    document, arrays = fit_gate(features, features)
    assert np.isfinite(feature_distances(arrays, features)).all()
    assert 0 < document["warn_distance"] < document["refuse_distance"]


def test_refuses_too_few_films_and_impossible_rates():
    with pytest.raises(ValueError, match="2 training and 5 validation"):
        fit_gate(draw(2, 1), draw(5, 2))
    with pytest.raises(ValueError, match="false refusal rate 0"):
        fit_gate(draw(5, 1), draw(5, 2), 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    gate = {"warn_distance": 1.0, "refuse_distance": 2.0, "false_refusal_rate": 0.01, "n": 10}
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", gate=gate)


def at_distance(distance):
    """Pooled features (2,) of the tiny bundle, whose covariance is 0.02 in every direction."""
    angle = 2 * np.arcsin(distance * np.sqrt(0.02 * 2) / 2) - np.pi / 4
    return 3 * np.array([np.cos(angle), np.sin(angle)])


@pytest.mark.parametrize(
    ("distance", "verdict"), [(0.5, Verdict.ANSWER), (1.5, Verdict.WARN), (2.5, Verdict.REFUSE)]
)
def test_judges_by_distance(bundle, distance, verdict):
    answer = judge(bundle, (), FILM, at_distance(distance))
    assert answer.verdict is verdict
    assert answer.scores["feature_distance"] == pytest.approx(distance, rel=1e-5)
    codes = {Verdict.ANSWER: [], Verdict.WARN: ["unusual-features"], Verdict.REFUSE: ["out-of-distribution"]}
    assert [finding.code for finding in answer.findings] == codes[verdict]


def test_refuses_features_that_are_not_numbers(bundle):
    assert judge(bundle, (), FILM, np.array([np.nan, 0])).verdict is Verdict.REFUSE


def test_the_strictest_finding_decides_and_comes_first(bundle):
    odd, wrong = Finding.warning("blurred"), Finding.refusal("noise")
    answer = judge(bundle, (odd, wrong), FILM, at_distance(0))
    assert (answer.verdict, answer.findings) == (Verdict.REFUSE, (wrong, odd))
    assert answer.reasons == ("the image is noise", "the radiograph is blurred")
    assert judge(bundle, (odd,), FILM, at_distance(0)).verdict is Verdict.WARN


def test_one_fact_is_one_finding_with_its_highest_severity(bundle):
    """A negative is noticed by the reader and by the appearance of the model input."""
    tagged = Finding.warning("looks-negative", photometric_interpretation="MONOCHROME1")
    answer = judge(bundle, (tagged, Finding.refusal("looks-negative")), FILM, at_distance(0))
    assert answer.findings == (Finding.refusal("looks-negative", photometric_interpretation="MONOCHROME1"),)


def lung_field(state="found", right=(20, 16, 70, 42), left=(20, 54, 70, 80)):
    log_odds = np.full((2, 96, 96), -4, np.float32)
    for lung, (top, first, bottom, last) in zip(log_odds, (right, left), strict=True):
        lung[top:bottom, first:last] = 4
    return LungField((0.1, 0.1, 0.8, 0.9), state, log_odds)


@pytest.fixture(scope="module")
def lung_bundle(tmp_path_factory):
    """Its lungs are those of :func:`lung_field`, give or take 0.02 in every number; the bound is 1.5."""
    usual = lung_shape(lung_field())
    shapes = usual + np.random.default_rng(0).normal(0, 0.02, (400, len(usual)))
    document, arrays = fit_lung_shapes(shapes[:300], shapes[300:], 0.01)
    gate = {"warn_distance": 1.0, "refuse_distance": 2.0, "false_refusal_rate": 0.01, "n": 10}
    folder = tmp_path_factory.mktemp("bundles")
    bounds = {**document, "warn_distance": 1.5, "refuse_distance": 1.5 * 1.25}
    given = tiny_document(gate={**gate, "lungs": bounds})
    return write_bundle(folder / "tiny", write_model(folder / "m.onnx"), given, {**tiny_arrays(), **arrays})


def test_usual_lungs_have_a_distance_near_one():
    usual = lung_shape(lung_field())
    shapes = usual + np.random.default_rng(0).normal(0, 0.02, (2000, len(usual)))
    document, arrays = fit_lung_shapes(shapes[:1500], shapes[1500:], 0.05)
    assert 1.1 < document["warn_distance"] < 1.5
    assert document["refuse_distance"] == pytest.approx(1.25 * document["warn_distance"])
    assert set(arrays) == {
        f"lungs_{name}" for name in ("mean", "components", "variances", "residual_variance")
    }


@pytest.mark.parametrize(
    ("field", "features", "codes"),
    [
        (lung_field(), 0.5, []),
        (lung_field(right=(20, 16, 70, 32)), 0.5, ["unusual-lungs"]),  # a narrow lung
        (lung_field(right=(20, 16, 70, 32)), 0.9, ["no-frontal-lungs"]),  # and unusual features, nearly
        (lung_field(right=(60, 16, 90, 42)), 0.5, ["no-frontal-lungs"]),  # a lung far below the other
        (lung_field("not-found"), 0.5, ["no-frontal-lungs"]),
    ],
)
def test_judges_by_the_lungs(lung_bundle, field, features, codes):
    answer = judge(lung_bundle, (), FILM, at_distance(features), field)
    assert [finding.code for finding in answer.findings] == codes
    assert answer.scores["lung_distance"] > 0


def test_lungs_do_not_count_where_the_bundle_does_not_know_them(bundle):
    answer = judge(bundle, (), FILM, at_distance(0.5), lung_field("not-found"))
    assert answer.verdict is Verdict.ANSWER
    assert "lung_distance" not in answer.scores


def image(pixels=None, findings=(), **source):
    """A smooth picture, dark in its middle as a chest is between bright flanks."""
    if pixels is None:
        row, column = np.mgrid[-1:1:200j, -1:1:200j]
        lungs = np.exp(-(((abs(column) - 0.4) / 0.2) ** 2) - (row / 0.6) ** 2)
        pixels = 0.8 - 0.6 * lungs
    return Radiograph(np.asarray(pixels, np.float32), pixels.shape, None, source, tuple(findings))


def test_what_the_reader_found_is_the_gates_but_for_notes():
    assert inspect_source(image(), 224) == ()
    found = (Finding.note("colour-16-bit"), Finding.refusal("colour"), Finding.warning("modality-missing"))
    assert inspect_source(image(findings=found), 224) == found[1:]


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_blank_images_are_refused(value):
    assert inspect_source(image(np.full((300, 300), value)), 224) == (Finding.refusal("blank"),)


@pytest.mark.parametrize("size", [64, 300, 1001])
def test_noise_is_refused(size):
    noise = np.random.default_rng(0).random((size, size))
    assert abs(neighbour_correlation(noise.astype(np.float32))) < 0.1
    assert Finding.refusal("noise") in inspect_source(image(noise), 64)


def test_small_images_are_warned_about_then_refused():
    pixels = image().pixels[::4, ::4]
    assert inspect_source(image(pixels), 100) == ()
    assert inspect_source(image(pixels), 101) == (Finding.warning("small", pixels=50),)
    assert inspect_source(image(pixels), 201) == (Finding.refusal("too-small", pixels=50),)


def test_drawings_are_refused():
    drawing = np.round(image().pixels * 10) / 10
    assert Finding.refusal("few-grey-levels") in inspect_source(image(drawing), 224)


@pytest.mark.films
def test_real_films_pass_and_other_pictures_of_known_kinds_do_not():
    data = os.environ.get("PNEUMOSCOPE_DATA")
    if not data:
        pytest.skip("PNEUMOSCOPE_DATA is not set")

    def verdicts(pattern, step=1):
        files = sorted(Path(data).glob(pattern))[::step]
        assert files
        return {
            file.name: [
                finding.severity for finding in inspect_source(read_radiograph(file, min_size=224), 224)
            ]
            for file in files
        }

    films = verdicts("kermany224/train/*/*.jpeg", 250) | verdicts("external_adult_dev/**/*.jpg", 8)
    assert [name for name, found in films.items() if Severity.REFUSAL in found] == []
    others = verdicts("not_chest_xray/synthetic__*") | verdicts("not_chest_xray/natural__*")
    assert [name for name, found in others.items() if Severity.REFUSAL not in found] == []


@pytest.mark.parametrize(
    ("file_says", "user_says", "code", "age"),
    [
        ("045Y", None, "age-adult", 45),
        ("018Y", None, "age-adult", 18),
        ("017Y", None, "age-unusual", 17),
        ("003M", None, "age-unusual", 0.25),
        ("004Y", None, None, None),
        ("", None, None, None),
        ("045Y", 4.0, None, None),
        ("", 60.0, "age-adult", 60),
    ],
)
def test_a_network_of_children_does_not_answer_for_adults(file_says, user_says, code, age):
    findings = inspect_source(image(patient_age=file_says), 224, Patient(user_says, (1.0, 5.0)))
    assert [(one.code, dict(one.params)) for one in findings] == (
        [] if code is None else [(code, {"age": age, "low": 1.0, "high": 5.0})]
    )
    assert all((one.severity is Severity.REFUSAL) is (code == "age-adult") for one in findings)


def test_without_usual_ages_age_does_not_matter():
    assert inspect_source(image(patient_age="045Y"), 224, Patient(70.0)) == ()


@pytest.mark.parametrize(("share", "codes"), [(0.5, []), (0.15, ["small"]), (0.07, ["too-small"])])
def test_what_counts_is_the_part_that_the_network_sees(share, codes):
    """A box of so large a share of 300 pixels, on a network of 96."""
    film = image(np.tile(np.linspace(0, 1, 300, dtype=np.float32), (300, 1)))
    seen = Geometry((300, 300), 96, (0, 0, 96, 96), (0.2, 0.2, 0.2 + share, 0.2 + share))
    assert [finding.code for finding in inspect_source(film, 96, geometry=seen)] == codes
    assert inspect_source(film, 96) == ()
