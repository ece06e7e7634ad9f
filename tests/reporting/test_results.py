"""Results in words: the verdict follows the intervals, the frequencies the shares."""

import pytest

from pneumoscope.reporting import results


def estimate(value, low=None, high=None, n=100):
    low = value - 0.02 if low is None else low
    high = min(1.0, value + 0.02) if high is None else high
    return {"value": value, "low": low, "high": high, "n": n, "method": "Wilson"}


@pytest.mark.parametrize(
    ("value", "low", "state", "words"),
    [
        (0.95, 0.91, "met", "met"),
        (0.90, 0.90, "met", "met"),
        (0.91, 0.88, "open", "met, but the interval reaches below"),
        (0.899, 0.85, "missed", "not met"),
    ],
)
def test_a_goal_is_met_open_or_missed(value, low, state, words):
    (goal,) = results.goals({"f1": estimate(value, low)})
    assert (goal.state, goal.words, goal.short) == (state, words, "F1")


def test_verdict_names_what_fell_short():
    good, poor, near = estimate(0.97), estimate(0.8), estimate(0.91, 0.89)
    assert "not all met: recall and F1 fell short" in results.verdict(
        results.goals({"precision": good, "sensitivity": poor, "f1": poor})
    )
    assert "the uncertainty of recall reaches below" in results.verdict(
        results.goals({"precision": good, "sensitivity": near, "f1": good})
    )
    assert "all met, also at the lower end" in results.verdict(
        results.goals({"precision": good, "sensitivity": good, "f1": good})
    )


def test_verdict_is_withheld_when_a_goal_is_undefined():
    only_one = results.goals({"sensitivity": estimate(0.99)})
    assert results.verdict(only_one).startswith("Not all goals can be judged")
    assert results.verdict(()).startswith("Not all goals can be judged")


@pytest.mark.parametrize(
    ("sensitivity", "low", "high", "count", "words", "interval"),
    [
        (0.973, 0.961, 0.982, 3, "about 3", "1 to 4"),
        (0.925, 0.90, 0.95, 8, "about 8", "5 to 10"),
        (0.997, 0.99, 0.999, 0, "fewer than 1", "0 to 1"),
        (1.0, 0.97, 1.0, 0, "none", "0 to 3"),
        (0.0, 0.0, 0.3, 100, "about 100", "70 to 100"),
    ],
)
def test_frequencies_round_the_value_and_widen_the_interval(sensitivity, low, high, count, words, interval):
    found = results.frequencies(
        {"sensitivity": estimate(sensitivity, low, high), "specificity": estimate(0.9)}
    )
    assert found is not None
    assert (found[0].count, found[0].words, found[0].range) == (count, words, interval)


def test_frequencies_need_both_classes():
    assert results.frequencies({"sensitivity": estimate(0.9)}) is None


def test_every_metric_is_shown_once():
    estimates = {name: estimate(0.9) for name in ("f1", "roc_auc", "ece", "macro_f1", "a_new_figure")}
    groups = results.metric_groups(estimates)
    assert [name for _, rows in groups for name, _ in rows] == [
        "F1",
        "ROC AUC",
        "Expected calibration error",
        "Macro F1",
        "a_new_figure",
    ]
    assert groups[-1][0] == "Further figures"


def test_subgroups_keep_their_order_and_say_what_is_undefined():
    rows = results.subgroup_rows({"sex=M": {"sensitivity": estimate(0.9)}, "sex=F": {}})
    assert [name for name, _ in rows] == ["sex=M", "sex=F"]
    assert rows[0][1][0]["value"] == 0.9
    assert rows[0][1][1:] == [None, None]
