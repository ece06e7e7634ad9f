"""Sensitivity and specificity of every threshold are those of the decisions that it makes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumoscope.core.errors import InputError
from pneumoscope.evaluation.operating_points import threshold_table


def test_table_by_hand() -> None:
    table = threshold_table(np.array([False, False, True, True]), np.array([0.2, 0.5, 0.5, 0.8]))
    assert table.thresholds == pytest.approx([0.1, 1 / 3, 2 / 3, 0.9])  # logit(1/3) = logit(0.2) / 2
    assert table.sensitivity.tolist() == [1, 1, 0.5, 0]
    assert table.specificity.tolist() == [0, 0.5, 1, 1]
    assert (table.positives, table.negatives) == (2, 2)


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30), st.randoms())
def test_no_threshold_lies_on_a_film_and_rates_are_those_of_the_decision(values: list[float], random) -> None:
    probability = np.array(values)
    positive = np.array([True, False] + [random.random() < 0.5 for _ in values[2:]])
    table = threshold_table(positive, probability)
    assert not np.isin(table.thresholds, probability).any()
    assert (np.diff(table.thresholds) > 0).all()
    assert np.isfinite(table.logits).all()
    for threshold, sensitivity, specificity in zip(
        table.thresholds, table.sensitivity, table.specificity, strict=True
    ):
        decided = probability >= threshold
        assert sensitivity == pytest.approx(decided[positive].mean())
        assert specificity == pytest.approx((~decided[~positive]).mean())


@pytest.mark.parametrize("positive", [True, False])
def test_one_class_has_no_thresholds(positive: bool) -> None:
    with pytest.raises(InputError, match="both classes"):
        threshold_table(np.full(3, positive), np.array([0.1, 0.2, 0.3]))
