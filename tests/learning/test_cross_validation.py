"""Every image is scored once, by a network that never saw its patient; finished folds are not repeated."""

import csv
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from pneumoscope.core.errors import ConfigError
from pneumoscope.core.files import read_json
from pneumoscope.core.records import Label
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.splits import SplitConfig, split_dataset, split_file
from pneumoscope.evaluation.predictions import read_predictions
from pneumoscope.learning import cross_validation
from pneumoscope.learning.cross_validation import cross_validate, split_folds

from .phantoms import Listener, small_run

CONFIG = small_run(network="mlp", epochs=1)


@pytest.fixture(scope="module")
def films(dataset):
    """The phantoms, three of them of unknown etiology."""
    ill = [film.path for film in dataset.samples if film.label is Label.VIRAL][:3]
    samples = tuple(
        replace(film, label=Label.PNEUMONIA) if film.path in ill else film for film in dataset.samples
    )
    return Dataset(dataset.directory, dataset.root, "phantoms", "csv", samples)


@pytest.fixture(scope="module")
def finished(films, tmp_path_factory):
    directory = tmp_path_factory.mktemp("cross-validation")
    listener = Listener()
    return directory, cross_validate(films, CONFIG, directory, 2, listener), listener


def parts_of(directory):
    with open(directory / "split.csv", newline="") as stream:
        return {row["path"]: row["part"] for row in csv.DictReader(stream)}


def test_each_film_is_scored_once_out_of_fold(finished, films):
    directory, evaluation, _ = finished
    table = read_predictions(directory / "predictions" / "cross-validation.csv")
    usable = [film.path for film in films.samples if film.label is not Label.PNEUMONIA]
    assert len(usable) == len(films.samples) - 3
    assert sorted(table.paths) == sorted(usable)
    folds = [read_predictions(directory / f"fold-{k}" / "predictions" / "test.csv").paths for k in (0, 1)]
    assert Counter(table.paths) == Counter(folds[0] + folds[1])
    assert evaluation["n"] == len(usable)
    assert evaluation["operating_point"]["threshold"] == 0.5
    assert evaluation == read_json(directory / "evaluation" / "cross-validation.json")


def test_no_group_of_a_fold_was_in_its_training(finished, films):
    directory, _, _ = finished
    group = {film.path: film.group_id for film in films.samples}
    for fold in (0, 1):
        seen = parts_of(directory / f"fold-{fold}")
        tested = read_predictions(directory / f"fold-{fold}" / "predictions" / "test.csv").paths
        assert set(seen.values()) == {"train", "validation"}
        by_part = [
            {group[path] for path, part in seen.items() if part == name} for name in ("train", "validation")
        ]
        by_part.append({group[path] for path in tested})
        assert len(set.union(*by_part)) == sum(map(len, by_part)), "train, validation and test share no group"


def test_the_run_says_what_it_was(finished, films):
    directory, _, listener = finished
    run = read_json(directory / "run.json")
    assert (run["command"], run["outcome"]) == ("cross-validate", "done")
    assert run["results"]["folds"] == 2
    assert run["inputs"]["dataset"] == films.hash
    assert [stage for stage in listener.stages if stage.startswith("fold")] == ["fold 1 of 2", "fold 2 of 2"]
    test = read_json(directory / "fold-1" / "evaluation" / "test.json")
    assert test["protocol"] == "test part of fold 2 of 2 by patient"


def test_finished_folds_are_read_and_the_rest_is_trained(finished, films, monkeypatch):
    directory, evaluation, _ = finished
    (directory / "fold-1" / "predictions" / "test.csv").unlink()
    trained = []
    real = cross_validation.train

    def counting(films, config, folder, listener):
        trained.append(folder.name)
        return real(films, config, folder, listener)

    monkeypatch.setattr(cross_validation, "train", counting)
    assert cross_validate(films, CONFIG, directory, 2) == evaluation
    assert trained == ["fold-1"]


def test_a_folder_of_another_cross_validation_is_refused(finished, films, dataset):
    directory, _, _ = finished
    before = (directory / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="another configuration"):
        cross_validate(films, small_run(network="mlp", epochs=2), directory, 2)
    with pytest.raises(ConfigError, match="2 folds"):
        cross_validate(films, CONFIG, directory, 3)
    with pytest.raises(ConfigError, match="other images"):
        cross_validate(dataset, CONFIG, directory, 2)
    with pytest.raises(ConfigError, match="another kind"):
        cross_validate(films, CONFIG, directory / "fold-0", 2)
    assert (directory / "run.json").read_bytes() == before


def test_the_parts_of_a_split_can_be_the_folds(dataset, tmp_path):
    """Images that were set aside are neither trained on nor tested."""
    order = sorted(dataset.samples, key=lambda film: film.group_id)
    clusters = {film.path: number * 2 // len(order) for number, film in enumerate(order)}
    mixed = next(one for one, other in pairwise(order) if one.group_id == other.group_id)
    clusters[mixed.path] = 1 - clusters[mixed.path]
    made = split_dataset(dataset, SplitConfig(method="leave-cluster-out"), clusters=clusters, name="clusters")
    made.save(split_file(dataset.directory, "clusters"))
    folds = split_folds(dataset, 2, "clusters")
    assert folds.protocol == "2-fold cross-validation over the split 'clusters' (leave-cluster-out)"
    evaluation = cross_validate(dataset, CONFIG, tmp_path / "cv", folds)
    assert evaluation["protocol"] == folds.protocol
    aside = {path for path, part in made.parts.items() if part == "aside"}
    assert aside
    assert evaluation["n"] == len(dataset.samples) - len(aside)
    for fold in (0, 1):
        seen = parts_of(tmp_path / "cv" / f"fold-{fold}")
        tested = read_predictions(tmp_path / "cv" / f"fold-{fold}" / "predictions" / "test.csv").paths
        assert {made.parts[path] for path in seen} == {f"fold-{1 - fold}"}
        assert {made.parts[path] for path in tested} == {f"fold-{fold}"}
    with pytest.raises(ConfigError, match="over the split 'clusters'"):
        cross_validate(dataset, CONFIG, tmp_path / "cv", 2)
    replace(made, parts={**made.parts, next(iter(aside)): "fold-0"}).save(
        split_file(dataset.directory, "clusters")
    )
    with pytest.raises(ConfigError, match="over an earlier split 'clusters'"):
        cross_validate(dataset, CONFIG, tmp_path / "cv", split_folds(dataset, 2, "clusters"))
    with pytest.raises(ConfigError, match="3 folds"):
        split_folds(dataset, 3, "clusters")
