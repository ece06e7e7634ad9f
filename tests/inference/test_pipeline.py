"""The whole line with the tiny bundle: one image, many images, bad images, refused images."""

import itertools

import numpy as np
import pytest
from PIL import Image

from pneumoscope.core.errors import ConfigError, PneumoscopeError, UnreadableFileError
from pneumoscope.core.files import sha256_file
from pneumoscope.core.findings import Finding
from pneumoscope.core.records import Decision, Verdict
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.inference import pipeline
from pneumoscope.inference.examination import Examination
from pneumoscope.inference.pipeline import BATCH, examine, examine_many
from tests.films import write_film
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def test_examines_a_film(tmp_path, bundle):
    file = write_film(tmp_path / "film.png", 0.8)
    result = examine(str(file), bundle)
    assert (result.file, result.sha256) == (str(file), sha256_file(file))
    assert result.gate.verdict is Verdict.ANSWER
    assert result.prediction.decision is Decision.POSITIVE
    assert result.explanation.heat_map.shape == (120, 160)
    assert result.bundle_card["id"] == bundle.id
    assert result.limitations == ("It knows nothing about pneumonia.",)
    assert {"pneumoscope", "onnxruntime"} <= set(result.versions)
    assert not result.forced


def test_the_explanation_is_made_only_when_wanted(tmp_path, bundle):
    file = write_film(tmp_path / "film.png", 0.8)
    assert examine(file, bundle, explain=False).explanation is None


def test_takes_a_film_that_is_already_decoded(tmp_path, bundle, monkeypatch):
    file = write_film(tmp_path / "film.png", 0.8)
    radiograph, expected = read_radiograph(file), examine(file, bundle).prediction
    monkeypatch.setattr(pipeline, "read_radiograph", None)
    assert examine(file, bundle, radiograph=radiograph).prediction == expected


def test_a_refused_film_gets_no_probability_unless_forced(tmp_path, bundle):
    file = tmp_path / "blank.png"
    Image.new("L", (100, 100), 128).save(file)
    result = examine(file, bundle)
    assert (result.gate.verdict, result.gate.findings) == (Verdict.REFUSE, (Finding.refusal("blank"),))
    assert (result.prediction, result.explanation, result.forced) == (None, None, False)
    forced = examine(file, bundle, force=True)
    assert forced.gate == result.gate
    assert forced.forced
    assert forced.prediction.probability == pytest.approx(2 / 3, abs=0.02)
    assert not examine(write_film(tmp_path / "film.png", 0.8), bundle, force=True).forced


def test_an_unknown_operating_point_is_refused_before_any_film_is_read(bundle):
    with pytest.raises(ConfigError, match="lucky"):
        examine("nowhere.png", bundle, operating_point="lucky")
    with pytest.raises(ConfigError, match="lucky"):
        next(examine_many(["nowhere.png"], bundle, operating_point="lucky"))


def test_many_films_give_the_answers_of_one_in_order(tmp_path, bundle):
    files = [write_film(tmp_path / f"{i}.png", 0.3 + 0.02 * i) for i in range(2 * BATCH + 3)]
    results = list(examine_many(map(str, files), bundle, operating_point="sensitive"))
    assert [path for path, _ in results] == files
    for file, (_, result) in zip(files[::5], results[::5], strict=True):
        alone = examine(file, bundle, operating_point="sensitive")
        assert (alone.file, alone.sha256) == (result.file, result.sha256)
        np.testing.assert_allclose(result.prediction.logits, alone.prediction.logits, atol=1e-5)
        np.testing.assert_array_equal(result.explanation.heat_map, alone.explanation.heat_map)


def test_a_bad_file_yields_its_error_and_the_rest_goes_on(tmp_path, bundle):
    good = write_film(tmp_path / "good.png", 0.8)
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:100])
    results = list(examine_many([broken, tmp_path / "missing.png", good], bundle))
    assert isinstance(results[0][1], UnreadableFileError)
    assert results[1][1].problem == "there is no such file"
    assert isinstance(results[2][1], Examination)
    assert all(isinstance(r, PneumoscopeError) for _, r in examine_many([broken] * (BATCH + 1), bundle))


def test_a_fault_of_ours_is_reported_for_its_film_only(tmp_path, bundle, monkeypatch):
    files = [write_film(tmp_path / name, 0.8) for name in ("a.png", "b.png")]
    original = pipeline.to_model_input
    calls = itertools.count()

    def fails_once(*args):
        if next(calls) == 0:
            raise ZeroDivisionError("oops")
        return original(*args)

    monkeypatch.setattr(pipeline, "to_model_input", fails_once)
    monkeypatch.setenv("PNEUMOSCOPE_THREADS", "1")
    (_, first), (_, second) = examine_many(files, bundle)
    assert (type(first), first.exit_code) == (PneumoscopeError, 1)
    assert "unexpected ZeroDivisionError: oops" in str(first)
    assert isinstance(first.__cause__, ZeroDivisionError)
    assert isinstance(second, Examination)


def test_reads_only_a_little_ahead(tmp_path, bundle):
    file = write_film(tmp_path / "film.png", 0.8)
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield file

    results = examine_many(endless(), bundle, explain=False)
    for _ in range(5 * BATCH):
        next(results)
    assert len(taken) <= 8 * BATCH
    results.close()


def test_no_film_gives_no_answer(bundle):
    assert list(examine_many([], bundle)) == []
