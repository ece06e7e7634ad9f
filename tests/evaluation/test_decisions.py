"""Decisions: chosen on the pool of views that holds the worst group of images that was left out."""

import json

import numpy as np
import pytest

from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Label, Task
from pneumoscope.evaluation.decisions import (
    OUT_OF_FOLD,
    Choices,
    View,
    choose_decisions,
    fit_decisions,
    judge_view,
    point_of,
    pool,
    read_views,
)
from pneumoscope.evaluation.operating_points import CostConfig
from pneumoscope.evaluation.predictions import PredictionTable, write_predictions

CHOICES = Choices(CostConfig(), "balanced", 0.01)


def view(name, shift=0.0, count=200, seed=0):
    """Binary logits: ill about +2, well about -2, all of them moved by ``shift``."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    score = rng.normal(np.where(targets == 1, 2, -2) + shift, 1)
    logits = np.stack([np.zeros(count), score], axis=1)
    return View(name, logits, targets.astype(np.int64), tuple(f"p{seed}-{i}" for i in range(count)))


def test_the_point_of_decisions_is_their_default_one():
    decisions = fit_decisions(Task.BINARY, CHOICES, view(OUT_OF_FOLD))
    point = point_of(decisions)
    assert point.name == "balanced"
    assert 0.3 < point.threshold < 0.7
    judged = judge_view(view("same"), decisions)
    assert judged["n"] == 200
    assert judged["sensitivity"]["value"] == pytest.approx(point.sensitivity)
    assert judged["specificity"]["value"] == pytest.approx(point.specificity)


def test_groups_that_are_left_out_choose_the_threshold_where_it_must_move():
    moved = [view(f"clusters, fold-{i} left out", shift=2.5, seed=i) for i in (1, 2, 3)]
    decisions, report = choose_decisions(Task.BINARY, CHOICES, [view(OUT_OF_FOLD), *moved])
    worst = {name: found["worst"] for name, found in report["candidates"].items()}
    assert report["chosen"] == "left out" == max(worst, key=worst.get)
    assert worst["left out"] > worst[OUT_OF_FOLD] + 0.1
    alone = fit_decisions(Task.BINARY, CHOICES, view(OUT_OF_FOLD))
    for one in moved:
        there = {kind: judge_view(one, found) for kind, found in (("new", decisions), ("old", alone))}
        assert there["new"]["specificity"]["value"] > there["old"]["specificity"]["value"] + 0.2


def test_a_group_is_judged_by_decisions_that_never_saw_it():
    """One group that lies far off is held only when it is among the fitted ones."""
    far = view("clusters, fold-0 left out", shift=6, seed=4)
    near = view("clusters, fold-1 left out", seed=5)
    _, report = choose_decisions(Task.BINARY, CHOICES, [near, far])
    rows = {row["name"]: row for row in report["candidates"]["left out"]["views"]}
    assert rows[far.name]["specificity"]["value"] < 0.2


def test_pooling_counts_every_row():
    both = pool([view("a"), view("b", count=100)])
    assert len(both.logits) == len(both.targets) == len(both.patients) == 300
    assert both.positive.sum() == 150


def document(**config):
    return {"task": "binary", "training": {"config": config}}


def table(prefix, count=6):
    labels = tuple(Label.NORMAL if i % 2 else Label.BACTERIAL for i in range(count))
    logits = np.stack([np.zeros(count), np.where(np.arange(count) % 2, -1.0, 1.0)], axis=1)
    chances = 1 / (1 + np.exp(-logits[:, 1]))
    names = tuple(f"{prefix}{i}" for i in range(count))
    return PredictionTable(
        names, names, names, labels, Task.BINARY, logits, np.stack([1 - chances, chances], axis=1)
    )


def cross_validation(folder, method, **config):
    parts = [table(f"{method}-{number}-") for number in range(2)]
    for number, part in enumerate(parts):
        write_predictions(folder / f"fold-{number}" / "predictions" / "test.csv", part)
    from pneumoscope.evaluation.predictions import concatenate

    write_predictions(folder / "predictions" / "cross-validation.csv", concatenate(parts))
    how = {"k-fold": "by patient"}.get(method, f"over the split 's' ({method})")
    for number in range(2):
        training = {"config": config, "split": {"method": f"fold {number + 1} of 2 {how}"}}
        bundle = folder / f"fold-{number}" / "bundle"
        bundle.mkdir()
        (bundle / "bundle.json").write_text(json.dumps({"training": training}))
    return folder


def test_each_cluster_left_out_is_a_view_of_its_own(tmp_path):
    runs = [cross_validation(tmp_path / name, name) for name in ("k-fold", "leave-cluster-out")]
    views, ordinary = read_views(runs, document())
    assert [(one.name, len(one.targets)) for one in views] == [
        (OUT_OF_FOLD, 12),
        ("leave-cluster-out, fold-0 left out", 6),
        ("leave-cluster-out, fold-1 left out", 6),
    ]
    assert len(ordinary) == 12
    assert views[0].targets.tolist() == [1, 0, 1, 0, 1, 0] * 2


def test_a_run_that_cannot_serve_is_refused(tmp_path):
    with pytest.raises(InputError, match="no predictions of a cross-validation"):
        read_views([tmp_path], document())
    run = cross_validation(tmp_path / "cv", "k-fold")
    with pytest.raises(InputError, match="another task"):
        read_views([run], {**document(), "task": "three-class"})
    again = cross_validation(tmp_path / "again", "k-fold")
    with pytest.raises(InputError, match="a second cross-validation by patient"):
        read_views([run, again], document())
    other = cross_validation(tmp_path / "framing", "contrary")
    with pytest.raises(InputError, match="folds of the split contrary"):
        read_views([other], document())


def test_another_recipe_is_refused(tmp_path):
    run = cross_validation(tmp_path / "cv", "k-fold", size=64, name="cv", seed=3)
    assert read_views([run], document(size=64, name="reference", seed=0))[1] is not None
    with pytest.raises(InputError, match="another recipe: size"):
        read_views([run], document(size=96))
    with pytest.raises(InputError, match="another recipe: epochs"):  # which the folds do not know
        read_views([run], document(size=64, epochs=3))


def test_without_groups_nothing_is_judged():
    decisions, report = choose_decisions(Task.BINARY, CHOICES, [view(OUT_OF_FOLD)])
    assert report == {"chosen": "both", "candidates": {}}
    assert decisions == fit_decisions(Task.BINARY, CHOICES, view(OUT_OF_FOLD))


def test_patients_of_a_group_do_not_fit_what_judges_it():
    """The images out of fold are those of the group, moved as they are there: only they would hold it."""
    moved = view("clusters, fold-0 left out", shift=3)
    same = View(OUT_OF_FOLD, moved.logits, moved.targets, moved.patients)
    others = view("x", seed=9)
    patients = tuple(f"q{i}" for i in range(200))
    pooled = pool([same, View("x", others.logits, others.targets, patients)])
    ordinary = View(OUT_OF_FOLD, pooled.logits, pooled.targets, pooled.patients)
    _, report = choose_decisions(Task.BINARY, CHOICES, [ordinary, moved])
    (row,) = report["candidates"][OUT_OF_FOLD]["views"]
    assert row["specificity"]["value"] < 0.3
    assert "left out" not in report["candidates"], "there is no other group"
