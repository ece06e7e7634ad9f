"""Decisions from probability, threshold and bounds: never a contradiction, always in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumoscope.core.findings import Finding
from pneumoscope.core.records import AnswerSet, Decision, OperatingPoint
from pneumoscope.inference.selection import (
    ABSTAINED,
    Bounds,
    answer_set,
    bounds_of,
    decide_etiologies,
    decide_films,
    explain_decision,
    explain_etiology,
)

SHARES = st.floats(0, 1)
BOTH = Bounds(error_rate=0.025, pneumonia_from=0.3, normal_to=0.8)
NEITHER = Bounds(error_rate=0.025, pneumonia_from=0.8, normal_to=0.3)
PROBABILITIES = np.array([0.1, 0.3, 0.5, 0.8, 0.9])


@pytest.mark.parametrize(
    ("bounds", "threshold", "decisions"),
    [
        (BOTH, 0.5, [0, -1, -1, -1, 1]),
        (BOTH, 0.2, [0, 1, 1, 1, 1]),  # a threshold below every doubtful image: all from it on are called
        (BOTH, 0.85, [0, -1, -1, -1, 1]),
        (BOTH, 0.95, [0, -1, -1, -1, -1]),  # one above: pneumonia is not excluded below it
        (NEITHER, 0.5, [0, 0, -1, 1, 1]),
        (NEITHER, 0.2, [0, 1, 1, 1, 1]),
        (NEITHER, 0.85, [0, 0, -1, -1, 1]),
        (Bounds(), 0.5, [0, 0, 1, 1, 1]),
    ],
)
def test_decisions_by_hand(bounds: Bounds, threshold: float, decisions: list[int]) -> None:
    assert decide_films(PROBABILITIES, threshold, bounds).tolist() == decisions


@given(threshold=SHARES, upper=SHARES, lower=SHARES, others=st.lists(SHARES, min_size=1, max_size=20))
def test_films_are_negative_then_abstained_then_positive(
    threshold: float, upper: float, lower: float, others: list[float]
) -> None:
    probability = np.sort([*others, threshold, upper, lower])
    decided = decide_films(probability, threshold, Bounds(pneumonia_from=upper, normal_to=lower))
    order = np.where(decided == ABSTAINED, 0.5, decided)
    assert (np.diff(order) >= 0).all()
    above = probability >= threshold
    assert not (decided[above] == 0).any()
    assert not (decided[~above] == 1).any()
    excluded = (probability <= lower) & (probability < upper)
    assert excluded[decided == 0].all()  # negative only where pneumonia is excluded


@given(upper=SHARES, lower=SHARES, share=SHARES)
def test_an_etiology_is_never_the_less_likely_one(upper: float, lower: float, share: float) -> None:
    named = int(decide_etiologies(np.array([share]), Bounds(bacterial_from=upper, viral_to=lower))[0])
    assert named in ((1, ABSTAINED) if share >= 0.5 else (0, ABSTAINED))
    causes = answer_set(share, ("viral", "bacterial"), lower, upper)
    assert named == ABSTAINED or causes == (("viral", "bacterial")[named],)


def test_bounds_differ_from_film_to_film() -> None:
    bounds = Bounds(pneumonia_from=np.array([0.2, 0.8, np.nan]), normal_to=np.array([0.9, 0.3, np.nan]))
    assert decide_films(np.full(3, 0.6), np.full(3, 0.5), bounds).tolist() == [-1, -1, 1]
    assert decide_films(np.full(3, 0.6), np.array([0.5, 0.1, 0.7]), bounds).tolist() == [-1, 1, 0]


def test_bounds_of_a_document() -> None:
    points = [{"name": "screening", "threshold": 0.2}, {"name": "balanced", "threshold": 0.5}]
    document = {
        "operating_points": points,
        "default_operating_point": "balanced",
        "etiology": {"margin": 0.4},
    }
    assert bounds_of(document).threshold == 0.5
    assert np.isnan(bounds_of(document)[1:]).all()
    document["selection"] = {"error_rate": 0.025, "absent": "too few"}
    document["etiology"] = {"error_rate": 0.15, "bacterial_from": 0.4, "viral_to": 0.7}
    np.testing.assert_equal(tuple(bounds_of(document)), (0.5, np.nan, np.nan, np.nan, 0.15, 0.4, 0.7))
    document["selection"] = {"error_rate": 0.025, "pneumonia_from": 0.3, "normal_to": 0.8}
    assert bounds_of(document)[:4] == (0.5, 0.025, 0.3, 0.8)


POINT = OperatingPoint("screening", 0.2)


@pytest.mark.parametrize(
    ("decision", "answers", "code"),
    [
        (Decision.NEGATIVE, ("normal",), None),
        (Decision.POSITIVE, ("pneumonia",), None),
        (Decision.POSITIVE, ("normal",), "low-threshold-only"),
        (Decision.ABSTAIN, ("normal", "pneumonia"), "both-answers-fit"),
        (Decision.ABSTAIN, (), "no-answer-fits"),
        (Decision.ABSTAIN, ("pneumonia",), "normal-excluded"),
    ],
)
def test_why_an_answer_is_withheld(decision: Decision, answers: tuple[str, ...], code: str | None) -> None:
    found = explain_decision(decision, AnswerSet(answers, 0.025), POINT)
    assert [finding.code for finding in found] == ([] if code is None else [code])
    named = {"operating_point": "screening"} if code in ("low-threshold-only", "normal-excluded") else {}
    assert all(finding.params == {"error_rate": 0.025, **named} for finding in found)


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (("viral", "bacterial"), "both-causes-fit"),
        ((), "no-cause-fits"),
        (("viral",), "only-viral-fits"),
        (("bacterial",), "only-bacterial-fits"),
    ],
)
def test_why_an_etiology_is_uncertain(answers: tuple[str, ...], code: str) -> None:
    assert explain_etiology(AnswerSet(answers, 0.15)) == Finding.note(code, error_rate=0.15)
