"""An evaluation has every figure with n and interval, equal to scikit-learn where it has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as sk

from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Label, OperatingPoint, Task
from pneumoscope.evaluation import metrics
from pneumoscope.evaluation.evaluate import EvaluationConfig, Scoring, evaluate, subgroups
from pneumoscope.evaluation.operating_points import CostConfig
from pneumoscope.evaluation.predictions import tabulate

from .films import binary_table, draw_samples, draw_table, sample

POINT = OperatingPoint("balanced", 0.6, 0.9, 0.8, 500)
QUICK = EvaluationConfig(resamples=200)


def test_every_figure_of_the_three_class_task_is_there_with_n_and_interval() -> None:
    table = draw_table(400)
    evaluation = evaluate(table, POINT, config=QUICK)
    assert list(evaluation.estimates) == list(metrics.TITLES)
    for name, estimate in evaluation.estimates.items():
        assert estimate.low <= estimate.value <= estimate.high, name
        assert estimate.low < estimate.high, name
        assert 0 < estimate.n <= 400, name
        assert "resamples" in estimate.method or "Wilson" in estimate.method, name


def test_values_against_scikit_learn() -> None:
    table = draw_table(400)
    found = {name: one.value for name, one in evaluate(table, POINT, config=QUICK).estimates.items()}
    decided = table.probability >= 0.6
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(table.positive, table.probability))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(table.positive, decided))
    assert found["f1"] == pytest.approx(sk.f1_score(table.positive, decided))
    predicted = table.probabilities.argmax(axis=1)
    assert found["three_class_accuracy"] == pytest.approx(sk.accuracy_score(table.targets, predicted))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(table.targets, predicted, average="macro"))
    assert found["ppv"] == pytest.approx(found["precision"])  # at the prevalence of the images


def test_counts_behind_each_figure() -> None:
    table = draw_table(400)
    evaluation = evaluate(table, POINT, config=QUICK)
    n = {name: one.n for name, one in evaluation.estimates.items()}
    ill, called = int(table.positive.sum()), int((table.probability >= 0.6).sum())
    assert (n["sensitivity"], n["specificity"], n["precision"]) == (ill, 400 - ill, called)
    assert (n["roc_auc"], n["accuracy"], n["bacterial_vs_viral_auc"]) == (400, 400, ill)
    assert (evaluation.n, evaluation.patients) == (400, 200)
    assert evaluation.prevalence == pytest.approx(ill / 400)


def test_one_seed_gives_one_result_and_another_seed_another_interval() -> None:
    table = draw_table(200)
    first = evaluate(table, POINT, config=QUICK)
    assert evaluate(table, POINT, config=QUICK) == first
    other = evaluate(table, POINT, config=EvaluationConfig(resamples=200, seed=1))
    assert other.estimates["roc_auc"].value == first.estimates["roc_auc"].value
    assert other.estimates["roc_auc"].low != first.estimates["roc_auc"].low


def test_binary_task_has_no_class_figures_and_decides_at_the_threshold() -> None:
    table = binary_table([0.2, 0.65, 0.7, 0.9, 0.55, 0.1], [False, False, True, True, True, False])
    evaluation = evaluate(table, POINT, config=QUICK)
    assert evaluation.classes == ("normal", "pneumonia")
    assert evaluation.confusion == ((2, 1), (1, 2))
    assert not {"macro_f1", "bacterial_vs_viral_auc"} & set(evaluation.estimates)


def test_three_class_confusion_is_by_largest_probability() -> None:
    table = draw_table(300)
    evaluation = evaluate(table, POINT, config=QUICK)
    expected = sk.confusion_matrix(table.targets, table.probabilities.argmax(axis=1))
    assert np.array(evaluation.confusion).tolist() == expected.tolist()


def test_stated_prevalence_moves_ppv_and_npv() -> None:
    table = draw_table(300)
    costs = CostConfig(prevalence=0.05)
    found = evaluate(table, POINT, config=EvaluationConfig(resamples=200, costs=costs)).estimates
    sensitivity, specificity = found["sensitivity"].value, found["specificity"].value
    ppv, npv = metrics.predictive_values(sensitivity, specificity, 0.05)
    assert (found["ppv"].value, found["npv"].value) == (pytest.approx(ppv), pytest.approx(npv))


@pytest.mark.parametrize(("label", "defined"), [(Label.NORMAL, "specificity"), (Label.VIRAL, "sensitivity")])
def test_one_class_only(label: Label, defined: str) -> None:
    samples = [sample(number, label) for number in range(12)]
    table = tabulate(samples, Task.THREE_CLASS, np.zeros((12, 3)), np.full((12, 3), 1 / 3))
    found = evaluate(table, POINT, config=QUICK).estimates
    assert defined in found
    for name in ("roc_auc", "average_precision", "balanced_accuracy", "ppv", "npv", "macro_f1"):
        assert name not in found
    assert "accuracy" in found
    assert "brier" in found


def test_films_of_unknown_cause_count_for_pneumonia_only() -> None:
    table = draw_table(200)
    vague = replace(table, labels=tuple(Label.PNEUMONIA if i < 20 else x for i, x in enumerate(table.labels)))
    found = evaluate(vague, POINT, config=QUICK).estimates
    assert found["accuracy"].n == 200
    assert found["three_class_accuracy"].n == 180
    assert found["roc_auc"].n == 200


def test_a_perfect_network_is_not_certain() -> None:
    table = binary_table([0.1] * 6 + [0.9] * 10, [False] * 6 + [True] * 10)
    found = evaluate(table, POINT, config=QUICK).estimates
    for name in ("roc_auc", "average_precision", "balanced_accuracy", "f1", "accuracy", "npv"):
        assert found[name].value == found[name].high == 1, name
        assert found[name].low < 0.95, name


def test_no_films_is_an_error() -> None:
    with pytest.raises(InputError, match="no images"):
        evaluate(draw_table(4).select(np.zeros(4, dtype=bool)), POINT)


def test_provenance_is_kept() -> None:
    scoring = Scoring("abc", "publisher's split, part test", contaminated=True)
    evaluation = evaluate(draw_table(60), POINT, scoring=scoring, config=QUICK)
    assert (evaluation.dataset_hash, evaluation.protocol) == ("abc", "publisher's split, part test")
    assert evaluation.contaminated
    assert evaluation.operating_point == POINT


def test_subgroups_by_age_band_and_sex() -> None:
    table, samples = draw_table(240), draw_samples(240)
    evaluation = evaluate(table, POINT, samples=samples, config=QUICK)
    assert list(evaluation.by_subgroup) == [
        "age=<2", "age=2-11", "age=12-17", "age=18-64", "sex=F", "sex=M",
    ]  # fmt: skip
    groups = subgroups(table, samples)
    assert groups["age=<2"].sum() == 16
    assert sum(groups[name].sum() for name in groups if name.startswith("age")) == 240
    female = evaluation.by_subgroup["sex=F"]
    expected = sk.roc_auc_score(table.positive[::2], table.probability[::2])
    assert female["roc_auc"].value == pytest.approx(expected)
    assert female["accuracy"].n == 120
    assert "macro_f1" not in female


def test_films_without_an_attribute_are_a_group_and_constant_attributes_are_none() -> None:
    samples = [
        replace(s, sex=None if i < 10 else s.sex, age_years=3.0, view="AP")
        for i, s in enumerate(draw_samples(40))
    ]
    groups = subgroups(draw_table(40), samples)
    assert list(groups) == ["sex=F", "sex=M", "sex=unknown"]
    assert groups["sex=unknown"].sum() == 10


def test_a_film_that_the_manifest_lacks_is_named() -> None:
    with pytest.raises(InputError, match="not in the manifest") as caught:
        evaluate(draw_table(10), POINT, samples=draw_samples(9))
    assert caught.value.where == "films/00009.png"


def test_scores_are_sorted_once_and_not_once_per_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes the bootstrap of 5,000 images take a second instead of a minute."""
    table, sort, counts = draw_table(60), np.argsort, []
    for resamples in (100, 400):
        calls: list[int] = []
        monkeypatch.setattr(np, "argsort", lambda *a, calls=calls, **k: calls.append(1) or sort(*a, **k))
        evaluate(table, POINT, config=EvaluationConfig(resamples=resamples))
        counts.append(len(calls))
    assert 0 < counts[0] == counts[1] < 20
