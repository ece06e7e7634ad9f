"""A ladder of two small networks on phantoms: one protocol, resumable, cut to a budget, compared fairly."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from pneumoscope.core.errors import ConfigError, DownloadError, InputError
from pneumoscope.core.files import read_json
from pneumoscope.core.records import Label
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.predictions import read_predictions
from pneumoscope.learning import ladder as module
from pneumoscope.learning.ladder import Climb, run_ladder
from pneumoscope.learning.ladder_config import LadderConfig

from .phantoms import SIDE, Killed, Listener

BASE = {"init": "random", "size": SIDE, "epochs": 1, "batch_size": 16, "threads": 1, "ema_decay": 0.0}
MLP = {"name": "mlp", "says": "a perceptron", "train": {"network": "mlp"}}
BINARY = {
    "name": "binary", "says": "two classes", "control": "mlp", "train": {"network": "mlp", "task": "binary"},
}  # fmt: skip


def small(*rungs, **values):
    return LadderConfig(
        **{"folds": 2, "run_folds": 1, "base": BASE, "rung": rungs or (MLP, BINARY), **values}
    )


@pytest.fixture(scope="module")
def films(dataset):
    """The phantoms, three of them of unknown etiology: the binary network alone can learn from those."""
    ill = [film.path for film in dataset.samples if film.label is Label.VIRAL][:3]
    samples = tuple(
        replace(film, label=Label.PNEUMONIA) if film.path in ill else film for film in dataset.samples
    )
    return Dataset(dataset.directory, dataset.root, "phantoms", "csv", samples)


class KilledInTheSecondRung(Listener):
    def epoch(self, report, epochs):
        super().epoch(report, epochs)
        if len(self.epochs) == 2:
            raise Killed


@pytest.fixture(scope="module")
def climbed(films, tmp_path_factory):
    """One fold of both rungs, in two attempts; what was there between them is with the second's listener."""
    directory = tmp_path_factory.mktemp("ladder")
    with pytest.raises(Killed):
        run_ladder(films, Climb(small()), directory, KilledInTheSecondRung())
    listener = Listener()
    listener.before = scored(directory)
    listener.age = (directory / "rungs" / "mlp" / "fold-0" / "bundle" / "model.onnx").stat().st_mtime_ns
    return directory, run_ladder(films, Climb(small()), directory, listener), listener


def rung(result, name):
    return next(row for row in result["rungs"] if row["name"] == name)


def scored(directory):
    return sorted(f"{f.parts[-4]}/{f.parts[-3]}" for f in directory.glob("rungs/*/*/predictions/test.csv"))


def test_the_result_is_in_the_folder_and_says_what_was_cut(climbed, films):
    directory, result, listener = climbed
    assert read_json(directory / "ladder.json") == result
    run = read_json(directory / "run.json")
    assert (run["command"], run["outcome"], run["inputs"]["dataset"]) == ("ladder", "done", films.hash)
    assert set(run["durations_s"]) == {"mlp/fold-0", "binary/fold-0", "compare", "total"}
    assert result["cut"] == run["results"]["cut"] == ["1 of 2 folds was asked for."]
    assert "binary: two classes" in listener.stages


def test_rungs_share_folds_and_inner_validation(climbed):
    directory, _, _ = climbed
    folders = [directory / "rungs" / name for name in ("mlp", "binary")]
    splits = [(folder / "split.csv").read_text() for folder in folders]
    assert splits[0] == splits[1]
    parts = []
    for folder in folders:
        with open(folder / "fold-0" / "split.csv", newline="") as stream:
            parts.append({row["path"]: row["part"] for row in csv.DictReader(stream)})
    common = parts[0].keys() & parts[1].keys()
    assert len(common) == len(parts[0])
    assert all(parts[0][path] == parts[1][path] for path in common)


def test_rungs_are_compared_on_the_films_that_both_answered(climbed):
    directory, result, _ = climbed
    tables = {
        name: read_predictions(directory / "rungs" / name / "fold-0" / "predictions" / "test.csv")
        for name in ("mlp", "binary")
    }
    common = set(tables["mlp"].paths) & set(tables["binary"].paths)
    assert result["protocol"]["films"] == len(common) == len(tables["mlp"])
    for name, table in tables.items():
        keep = np.array([path in common for path in table.paths])
        threshold = rung(result, name)["thresholds"][0]
        bundle = read_json(directory / "rungs" / name / "fold-0" / "bundle" / "bundle.json")
        chosen = {point["name"]: point["threshold"] for point in bundle["operating_points"]}
        assert threshold == chosen["balanced"]
        right = ((table.probability >= threshold) == table.positive)[keep]
        accuracy = rung(result, name)["estimates"]["accuracy"]
        assert accuracy["value"] == pytest.approx(right.mean())
        assert accuracy["n"] == len(common)
    assert "three_class_accuracy" in rung(result, "mlp")["estimates"]
    assert "three_class_accuracy" not in rung(result, "binary")["estimates"]


def test_pairs_and_ranking_are_there(climbed):
    _, result, _ = climbed
    (pair,) = result["pairs"]
    assert (pair["first"], pair["second"]) == ("mlp", "binary")
    values = {row["name"]: row["estimates"]["roc_auc"]["value"] for row in result["rungs"]}
    assert pair["auc"]["difference"] == pytest.approx(values["mlp"] - values["binary"])
    (control,) = result["controls"]
    assert (control["first"], control["second"]) == ("binary", "mlp")
    assert control["auc"]["difference"] == pytest.approx(-pair["auc"]["difference"])
    for places in result["ranking"].values():
        assert sorted(name for place in places for name in place) == ["binary", "mlp"]


def test_costs_are_measured(climbed):
    directory, result, _ = climbed
    row = rung(result, "mlp")
    bundle = directory / "rungs" / "mlp" / "fold-0" / "bundle"
    assert row["parameters"] == 64 * 64 * 256 + 256 + 256 * 128 + 128 + 128 * 3 + 3
    assert row["bundle_bytes"] == sum(file.stat().st_size for file in bundle.iterdir())
    assert 0 < row["milliseconds_per_film"] < 1000
    assert 0 < row["training_seconds"] <= read_json(directory / "run.json")["durations_s"]["mlp/fold-0"]
    assert row["initial_weights"] == "random"
    assert len(row["history"]["validation_loss"]) == 1


def test_finished_folds_leave_no_checkpoints(climbed):
    directory, _, _ = climbed
    assert not list(directory.glob("rungs/*/*/checkpoints"))


def test_a_killed_ladder_goes_on_where_it_was(climbed):
    """The fixture's first climb ended in the second rung; the next one left the first rung alone."""
    directory, result, listener = climbed
    assert listener.before == ["mlp/fold-0"]
    assert scored(directory) == ["binary/fold-0", "mlp/fold-0"]
    assert len(listener.epochs) == 1
    assert (
        directory / "rungs" / "mlp" / "fold-0" / "bundle" / "model.onnx"
    ).stat().st_mtime_ns == listener.age
    assert {row["name"]: row["folds"] for row in result["rungs"]} == {"mlp": [0], "binary": [0]}


def fake_folds(monkeypatch, seconds=None, failing=()):
    """Instead of training: note what was asked for, and how long it took by the manifest."""
    asked = []

    def run_fold(dataset, rung, folds, number, site):
        asked.append(f"{rung.name}/fold-{number}")
        if rung.name in failing:
            return "no weights"
        site.run.content["durations_s"][asked[-1]] = (seconds or {}).get(rung.name, 1.0)
        file = site.directory / "rungs" / rung.name / f"fold-{number}" / "predictions" / "test.csv"
        file.parent.mkdir(parents=True)
        file.touch()
        return None

    monkeypatch.setattr(module, "_run_fold", run_fold)
    monkeypatch.setattr(module, "ladder_result", lambda *parts: {"cut": [], "failures": parts[-1].failures})
    return asked


THREE = [{"name": name, "says": "x", "train": {"network": "mlp"}} for name in "abc"]


def test_the_first_fold_of_all_rungs_comes_before_the_second_of_any(films, tmp_path, monkeypatch):
    asked = fake_folds(monkeypatch)
    run_ladder(films, Climb(small(*THREE, run_folds=2)), tmp_path)
    assert asked == [f"{name}/fold-{number}" for number in (0, 1) for name in "abc"]
    run_ladder(films, Climb(small(*THREE, run_folds=2)), tmp_path)
    assert len(asked) == 6, "nothing is run twice"


def test_nothing_is_begun_that_would_not_fit(films, tmp_path, monkeypatch):
    """b took an hour on the first fold: in half an hour there is room for a and c, and for no third fold."""
    asked = fake_folds(monkeypatch, {"a": 60.0, "b": 3600.0, "c": 60.0})
    run_ladder(films, Climb(small(*THREE, folds=3)), tmp_path)
    del asked[:]
    run_ladder(films, Climb(small(*THREE, folds=3, run_folds=3), hours=0.5), tmp_path)
    assert asked == ["a/fold-1", "c/fold-1"]
    assert read_json(tmp_path / "run.json")["durations_s"]["b/fold-0"] == 3600.0


def test_no_hours_train_nothing(films, tmp_path, monkeypatch):
    asked = fake_folds(monkeypatch)
    run_ladder(films, Climb(small(*THREE), hours=0), tmp_path)
    assert asked == []


def test_a_rung_that_fails_does_not_stop_the_others(films, tmp_path, monkeypatch):
    asked = fake_folds(monkeypatch, failing=("b",))
    result = run_ladder(films, Climb(small(*THREE, run_folds=2)), tmp_path)
    assert asked == ["a/fold-0", "b/fold-0", "c/fold-0", "a/fold-1", "c/fold-1"]
    assert result["failures"] == {"b": "no weights"}


def test_a_failure_is_reported_with_its_reason(films, tmp_path, monkeypatch, climbed):
    """A rung that cannot have its weights, beside one that was trained before."""
    directory, _, _ = climbed

    def refuse(*arguments):
        raise DownloadError("cannot be downloaded", where="owner/name")

    monkeypatch.setattr(module, "cross_validate", refuse)
    failing = {"name": "hub", "says": "x", "train": {"network": "vgg16", "init": "hub"}}
    listener = Listener()
    result = run_ladder(films, Climb(small(MLP, failing)), directory, listener)
    assert rung(result, "hub")["failure"] == "owner/name: cannot be downloaded"
    assert rung(result, "hub")["estimates"] is None
    assert "hub could not be run: owner/name: cannot be downloaded." in result["cut"]
    assert "FAILED: owner/name: cannot be downloaded" in listener.stages
    assert read_json(directory / "run.json")["outcome"] == "done"


def test_a_cut_ladder_compares_what_all_rungs_have(films, climbed):
    """The second fold of one rung is not in the figures, and the result says so."""
    directory, before, _ = climbed
    run_ladder(films, Climb(small(run_folds=2), ("mlp",)), directory)
    result = run_ladder(films, Climb(small(run_folds=2), hours=0), directory)
    assert rung(result, "mlp")["folds"] == [0, 1]
    assert result["protocol"]["shared_folds"] == [1]
    assert rung(result, "mlp")["estimates"] == rung(before, "mlp")["estimates"]
    assert result["cut"] == [
        "Fold 2 was not run for binary (budget: 0 h).",
        "Fold 2 was run for some rungs only and is not in the figures.",
    ]


def test_without_any_result_there_is_nothing_to_compare(films, tmp_path):
    with pytest.raises(InputError, match="no rung has results yet"):
        run_ladder(films, Climb(small(), hours=0), tmp_path)


def test_a_changed_rung_is_refused_before_anything_is_trained(films, climbed, dataset):
    directory, _, _ = climbed
    changed = {**BINARY, "train": {**BINARY["train"], "epochs": 2}}
    for climb, data, message in (
        (Climb(small(MLP, changed)), films, "another configuration"),
        (Climb(small(folds=3)), films, "of 2 folds, not 3"),
        (Climb(small()), dataset, "other images"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_ladder(data, climb, directory, Listener(stop_at_step=1))
    with pytest.raises(ConfigError, match="another kind"):
        run_ladder(films, Climb(small()), directory / "rungs" / "mlp")
