"""The figure of abstention shows the numbers that it is given."""

import numpy as np

from pneumoscope.reporting.evaluation_page import MarkedPoint, risk_coverage


def test_the_curve_what_is_achieved_and_what_all_answers_cost():
    achieved = MarkedPoint("set", (0.9, 0.85, 0.95), (0.01, 0.005, 0.03))
    axes = risk_coverage([0.5, 1.0], [0.0, 0.04], achieved, 0.04).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0, 4])
    assert set(axes.lines[1].get_ydata()) == {4.0}
    (bars,) = axes.containers
    horizontal, vertical = (segments.get_segments()[0] for segments in bars[2])
    np.testing.assert_allclose(horizontal[:, 0], [0.85, 0.95])
    np.testing.assert_allclose(vertical[:, 1], [0.5, 3])
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["surest images first", "all answered: 4.00 %", "set"]


def test_without_an_answered_film_there_is_no_point():
    assert risk_coverage([1.0], [0.1], None, 0.1).axes[0].containers == []
