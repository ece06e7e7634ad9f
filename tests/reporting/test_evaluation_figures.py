"""The figures of an evaluation show the numbers that they are given."""

import numpy as np
import pytest

from pneumoscope.reporting import evaluation_page as draw
from pneumoscope.reporting.figures import png

POINT = draw.MarkedPoint("balanced", (0.05, 0.02, 0.1), (0.95, 0.9, 0.98))


def test_confusion_matrix_writes_counts_and_row_shares():
    figure = draw.confusion_matrix([[98, 2], [0, 0]], ["normal", "pneumonia"], ["negative", "positive"])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["98", "98.0 %", "2", "2.0 %", "0", "0.0 %", "0", "0.0 %"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["negative", "positive"]


def test_roc_shows_the_curve_twice_with_the_operating_point_and_its_intervals():
    figure = draw.roc_curve([0, 0.1, 1], [0, 0.9, 1], points=[POINT], label="AUC 0.95")
    whole, corner = figure.axes
    for axes in (whole, corner):
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0, 0.9, 1])
        (bars,) = axes.containers
        horizontal, vertical = (segments.get_segments()[0] for segments in bars[2])
        np.testing.assert_allclose(horizontal[:, 0], [0.02, 0.1])
        np.testing.assert_allclose(vertical[:, 1], [0.9, 0.98])
    assert corner.get_xlim()[1] == pytest.approx(0.255)
    assert [text.get_text() for text in whole.get_legend().get_texts()] == ["AUC 0.95", "chance", "balanced"]


def test_precision_recall_marks_chance_at_the_prevalence():
    figure = draw.precision_recall([1, 0.5, 0], [0.4, 0.8, 1], prevalence=0.4, points=[POINT])
    chance = figure.axes[0].lines[1]
    assert set(chance.get_ydata()) == {0.4}
    assert chance.get_label() == "chance (40 % with pneumonia)"


def test_reliability_draws_dots_intervals_and_counts():
    bins = draw.Reliability([0.1, 0.9], [0.0, 1.0], [0.0, 0.8], [0.2, 1.0], [40, 50])
    upper, lower = draw.reliability_diagram(bins).axes
    (container,) = upper.containers
    np.testing.assert_array_equal(container[0].get_ydata(), [0.0, 1.0])
    assert [bar.get_height() for bar in lower.patches] == [40, 50]


def test_reliability_before_calibration_is_drawn_behind():
    bins = draw.Reliability([0.1, 0.9], [0.0, 1.0], [0.0, 0.8], [0.2, 1.0], [40, 50])
    before = draw.Reliability([0.3, 0.6], [0.0, 1.0], [0.0, 0.8], [0.2, 1.0], [40, 50])
    upper = draw.reliability_diagram(bins, before=before).axes[0]
    lines = {line.get_label(): line for line in upper.lines}
    np.testing.assert_array_equal(lines["before calibration"].get_xdata(), [0.3, 0.6])


def test_scores_are_counted_by_class():
    figure = draw.score_histogram({"normal": [0.01, 0.02], "viral": [0.99]}, threshold=0.5)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["normal (2)", "viral (1)", "threshold 0.500"]


def test_costs_of_nothing_can_be_drawn():
    """A perfect network costs nothing, which a plain logarithmic axis would leave out."""
    points = [draw.MarkedPoint("cheapest", (0.5,) * 3, (0.0,) * 3)]
    over = draw.cost_over_threshold([0.2, 0.5, 0.8], [40.0, 0.0, 300.0], points, "cost")
    low, high = over.axes[0].get_ylim()
    assert low <= 0 < 300 <= high
    curves = draw.cost_curves([1, 10, 100], "ratio", {"cheapest": [0.0, 0.0, 0.0]}, [0.5, 0.4, 0.1], 10)
    left, right = curves.axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [0, 0, 0])
    np.testing.assert_array_equal(right.lines[0].get_ydata(), [0.5, 0.4, 0.1])
    assert png(over)
    assert png(curves)


def test_labels_of_close_values_are_thinned():
    figure = draw.cost_curves([0.7, 0.74, 1.5], "x", {"a": [1, 2, 3]}, [0.1, 0.1, 0.1], 0.74)
    figure.draw_without_rendering()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0.7", "1.5"]


def test_threshold_axis_reaches_the_marked_points():
    points = [draw.MarkedPoint("cheapest", (0.0004,) * 3, (12.0,) * 3)]
    figure = draw.cost_over_threshold([0.0001, 0.5, 0.9], [40.0, 12.0, 300.0], points, "cost")
    assert figure.axes[0].get_xlim()[0] < 0.0004
