"""Nearest training images: against scikit-learn, and what a bundle without them says."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from pneumoscope.core.errors import BundleError
from pneumoscope.core.records import Label, NearestCase
from pneumoscope.inference import neighbours
from pneumoscope.inference.bundle import write_bundle
from pneumoscope.inference.neighbours import fit_neighbours, locate_cases, nearest_cases
from tests.tiny_bundle import arrays, document, write_model, write_tiny_bundle

FILMS = [f"{number:016x}{'f' * 48}" for number in range(6)]
FEATURES = np.array([[1.0, 0.1], [1.0, 0.2], [0.2, 1.0], [0.1, 1.0], [1.0, 1.0], [1.0, 0.9]])
TARGETS = [0, 0, 1, 2, 1, 2]


@pytest.fixture
def bundle(tmp_path):
    kept, codes = fit_neighbours(FEATURES, FILMS, TARGETS)
    model = write_model(tmp_path / "model.onnx")
    return write_bundle(tmp_path / "tiny", model, document(neighbours=kept), {**arrays(), **codes})


def test_codes_are_leading_components_of_unit_features():
    rng = np.random.default_rng(0)
    features = rng.gamma(1.0, size=(60, 40))
    films = [f"{number:064x}" for number in range(60)]
    kept, codes = fit_neighbours(features, films, rng.integers(0, 3, 60).tolist())
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = PCA(32, svd_solver="full").fit_transform(unit)
    np.testing.assert_allclose(np.abs(codes["neighbour_codes"]), np.abs(expected), atol=1e-5)
    assert kept == {"dimensions": 32, "films": [film[:16] for film in films]}
    assert {value.dtype for value in codes.values()} == {np.dtype(np.float32)}


def test_the_nearest_come_first_with_the_cosine_of_their_codes(bundle):
    found = nearest_cases(bundle, np.array([0.3, 1.0]), 6)
    unit = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
    own = np.array([0.3, 1.0]) / np.hypot(0.3, 1.0)
    expected = cosine_similarity([own - unit.mean(axis=0)], unit - unit.mean(axis=0))[0]
    order = np.argsort(-expected)
    assert [case.film for case in found] == [FILMS[row][:16] for row in order]
    assert [case.similarity for case in found] == pytest.approx(expected[order].tolist(), abs=1e-5)
    names = ("normal", "bacterial", "viral")
    assert [case.label for case in found] == [names[TARGETS[row]] for row in order]
    assert {case.path for case in found} == {None}


def test_a_training_film_is_nearest_to_itself(bundle):
    for row, features in enumerate(FEATURES):
        first = nearest_cases(bundle, 7 * features, 1)[0]
        assert (first.film, first.similarity) == (FILMS[row][:16], pytest.approx(1, abs=1e-5))


def test_films_are_kept_once_and_in_the_order_of_their_hashes(monkeypatch):
    films = [FILMS[row] for row in (3, 1, 3, 2)]
    kept, codes = fit_neighbours(FEATURES[[3, 1, 3, 2]], films, [2, 0, 2, 1])
    assert kept["films"] == [FILMS[row][:16] for row in (1, 2, 3)]
    assert codes["neighbour_targets"].tolist() == [0, 1, 2]
    monkeypatch.setattr(neighbours, "MOST_FILMS", 2)
    assert len(fit_neighbours(FEATURES, FILMS, TARGETS)[0]["films"]) == 2


def test_a_bundle_without_training_films_says_none(tmp_path):
    assert nearest_cases(write_tiny_bundle(tmp_path / "tiny"), np.ones(2)) is None


@pytest.mark.parametrize(
    "kept", [[], {"dimensions": 2}, {"films": [], "dimensions": 2}, {"films": ["a"], "dimensions": 0}]
)
def test_the_document_is_checked(tmp_path, kept):
    with pytest.raises(BundleError, match="'neighbours"):
        write_tiny_bundle(tmp_path / "tiny", neighbours=kept)


def test_codes_must_fit_the_document(tmp_path):
    kept, codes = fit_neighbours(FEATURES, FILMS, TARGETS)
    model = write_model(tmp_path / "model.onnx")
    kept["films"] = kept["films"][:-1]
    with pytest.raises(BundleError, match="neighbour_codes"):
        write_bundle(tmp_path / "new", model, document(neighbours=kept), {**arrays(), **codes})
    with pytest.raises(BundleError, match="lacks neighbour_mean"):
        write_bundle(tmp_path / "new", model, document(neighbours=kept), arrays())


def test_hashes_lead_to_the_films_of_a_local_data_set(tmp_path):
    from pneumoscope.data.dataset import Dataset
    from tests.data.films import sample

    film = replace(sample("a.png", "p1", Label.NORMAL), sha256=FILMS[2])
    dataset = Dataset(tmp_path, tmp_path / "films", "made", "csv", (film,))
    cases = [NearestCase(FILMS[row][:16], "normal", 0.9) for row in (2, 3)]
    here, elsewhere = locate_cases(cases, dataset)
    assert here == replace(cases[0], path=str(tmp_path / "films" / "a.png"))
    assert elsewhere == cases[1]
