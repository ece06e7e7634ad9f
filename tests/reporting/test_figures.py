"""Figures say what they are given, look alike, and leave matplotlib as it was."""

import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from pneumoscope.reporting import figures

HISTORY = {
    "epoch": (0.0, 1.0, 2.0),
    "train_loss": (0.9, 0.5, 0.3),
    "validation_loss": (0.8, float("nan"), 0.4),
    "validation_auc": (0.9, 0.95, 0.96),
}


def test_same_figure_gives_the_same_svg_without_a_date():
    first, second = (figures.svg(figures.learning_curves(HISTORY)) for _ in range(2))
    assert first == second
    assert "dc:date" not in first
    assert ElementTree.fromstring(first).tag.endswith("svg")


def test_png_has_the_size_asked_for():
    content = figures.png(figures.icon_array(3, "missed", "found"), dpi=100)
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20]) == 520


def test_settings_of_matplotlib_stay_as_they_were():
    before = dict(mpl.rcParams)
    figures.png(figures.learning_curves(HISTORY))
    assert dict(mpl.rcParams) == before


def test_learning_curves_count_epochs_from_one_and_leave_out_what_is_missing():
    loss, quality = figures.learning_curves(HISTORY).axes
    training, validation = loss.lines
    np.testing.assert_array_equal(training.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(validation.get_xdata(), [1, 3])
    np.testing.assert_array_equal(validation.get_ydata(), [0.8, 0.4])
    assert [line.get_label() for line in quality.lines] == ["ROC AUC"]


def test_fold_curves_draw_one_line_a_fold():
    loss, quality = figures.fold_curves({f"fold-{k}": HISTORY for k in range(9)}).axes
    assert len(loss.lines) == len(quality.lines) == 9


def test_class_balance_stacks_the_counts():
    figure = figures.class_balance(
        {"train": {"normal": 30, "bacterial": 50}, "test": {"normal": 3, "viral": 4}}
    )
    widths = {
        container.get_label(): [bar.get_width() for bar in container]
        for container in figure.axes[0].containers
    }
    assert widths == {"normal": [30, 3], "bacterial": [50, 0], "viral": [0, 4]}
    lefts = [bar.get_x() for bar in figure.axes[0].containers[1]]
    assert lefts == [30, 3]


@pytest.mark.parametrize("marked", [0, 3, 100])
def test_icon_array_fills_as_many_dots_as_it_says(marked):
    figure = figures.icon_array(marked, "missed", "found", color="#000000")
    colors = figure.axes[0].collections[0].get_facecolors()
    filled = np.broadcast_to(
        (colors == (0, 0, 0, 1)).all(axis=1), (100,) if len(colors) == 1 else colors.shape[:1]
    )
    assert filled.sum() == marked
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [f"{marked} missed", f"{100 - marked} found"]


def test_classes_keep_their_colours_and_differ():
    colors = {figures.class_color(name) for name in ("normal", "bacterial", "viral", "pneumonia-unspecified")}
    assert len(colors) == 4
    assert figures.class_color("pneumonia") == figures.class_color("bacterial")
    assert figures.class_color("no class") == figures.INK
