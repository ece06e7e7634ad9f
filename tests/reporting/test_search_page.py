"""The page of a search: one file, nothing fetched, every figure with words, and gaps said in words."""

import re

import pytest

from pneumoscope.learning.search_space import SearchConfig
from pneumoscope.reporting import search_page as search_figures
from pneumoscope.reporting.search_page import write_search_page

SEARCH = SearchConfig(space={"fixed": ["optimiser", "batch_size", "ema_decay", "dropout", "label_smoothing"]})
NAMES = list(SEARCH.space.searched())


def row(number, value, **changes):
    point = {
        "learning_rate": 1e-4 * (number + 1), "weight_decay": 0.01, "augmentation_strength": number / 10,
        "dense_layers": ("none", "512-128")[number % 2], "size": (112, 160, 224)[number % 3],
        "stage": ("full", "frozen")[number % 2],
    }  # fmt: skip
    return {
        "number": number, "state": "complete", "value": value, "log_loss": value, "auc": 0.99, "epochs": 2,
        "seconds": 60.0, "reason": None, "parameters": point,
        "curve": [(value or 0) + 0.2, (value or 0) + 0.1], **changes,
    }  # fmt: skip


def document(rows, **changes):
    complete = [r for r in rows if r["state"] == "complete"]
    return {
        "search": SEARCH.model_dump(mode="json"), "searched": NAMES,
        "films": {"dataset": "images <of> mine", "split": "default", "training": 4000, "validation": 500,
                  "validation_patients": 380, "validation_classes": {"normal": 130, "viral": 370}},
        "inputs": {"dataset": "ab" * 32, "split": "cd" * 32}, "versions": {"optuna": "5.0.0"},
        "direction": "minimize", "base": 0,
        "best": min(complete, key=lambda r: r["value"])["number"] if complete else None,
        "importances": {"learning_rate": 0.75, "size": 0.25}, "trials": rows, **changes,
    }  # fmt: skip


ROWS = [
    row(0, 0.40),
    *(row(number, 0.5 + number / 100) for number in range(1, 13)),
    row(13, 0.3512),
    row(14, None, state="pruned", curve=[0.9], epochs=1, reason="behind the others after epoch 1"),
    row(15, None, state="failed", curve=[], seconds=None, reason="out of <memory>"),
]


def write(content, folder):
    write_search_page(content, folder / "search.html")
    return (folder / "search.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return write(document(ROWS), tmp_path_factory.mktemp("page"))


def test_the_page_is_self_contained_and_escaped(html):
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert "<script" not in html
    assert "images &lt;of&gt; mine" in html
    assert "out of &lt;memory&gt;" in html
    pictures = re.findall(r"<img [^>]*>", html)
    assert len(pictures) == 4
    assert all(re.search(r'alt="[^"]{10,}"', picture) for picture in pictures)


def test_the_best_ten_stand_side_by_side_the_best_first(html):
    heads = re.findall(r'<th scope="col">(\w+)</th>', html)
    assert heads[:11] == ["Trial", "13", "0", *map(str, range(1, 9))]
    for name in NAMES:
        assert f'<th scope="row">{name.replace("_", " ")}</th>' in html
    assert re.search(r"Best log loss</div><div class=\"value\">0\.3512", html)
    assert re.search(r"Base configuration</div><div class=\"value\">0\.4000", html)
    assert "1 pruned" in html


def test_what_is_not_known_is_said(tmp_path):
    html = write(document(ROWS[:2] + ROWS[14:], base=None, importances={}), tmp_path)
    assert "lies outside the space" in html
    assert "2 complete trials are too few" in html
    empty = write(document([row(0, None, state="running", curve=[], seconds=None)]), tmp_path)
    assert "No trial is complete yet" in empty
    assert "<img" not in empty


def test_the_best_so_far_never_gets_worse():
    lines = search_figures.history(ROWS, "log-loss").axes[0].get_lines()
    best = lines[1].get_ydata()
    assert list(best) == [0.4] * 13 + [0.3512]
    assert list(lines[2].get_xdata()) == [14], "the pruned trial"
    rising = [row(0, 0.8), row(1, 0.9), row(2, 0.7)]
    assert list(search_figures.history(rising, "auc").axes[0].get_lines()[1].get_ydata()) == [0.8, 0.9, 0.9]


def test_every_parameter_has_a_panel_with_its_choices_in_order():
    figure = search_figures.slices(ROWS, SEARCH.model_dump(mode="json"), 13)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}
    assert list(panels) == [name.replace("_", " ") for name in NAMES]
    assert panels["learning rate"].get_xscale() == "log"
    labels = [label.get_text() for label in panels["stage"].get_xticklabels()]
    assert labels == ["full", "frozen", "fine-tune-\nlast", "staged"]
    assert [label.get_text() for label in panels["dense layers"].get_xticklabels()] == [
        "none", "128", "512-128",
    ]  # fmt: skip


def test_the_best_curve_is_drawn_over_the_others():
    axes = search_figures.curves(ROWS, "log-loss", 13).axes[0]
    last = axes.get_lines()[-1]
    assert last.get_label() == "trial 13, the best"
    assert list(last.get_ydata()) == pytest.approx([0.5512, 0.4512])


def test_what_does_not_vary_has_no_panel_and_no_bar(tmp_path):
    content = document(ROWS, importances={"size": 0.0, "learning_rate": 1.0})
    content["search"]["space"]["size"] = [112]
    content["search"]["space"]["weight_decay"] = {"low": 0.01, "high": 0.01, "log": True}
    figure = search_figures.slices(ROWS, content["search"], 13)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    assert titles == ["learning rate", "augmentation strength", "dense layers", "stage"]
    content["search"]["base"]["epochs"] = 1
    html = write(content, tmp_path)
    assert "Epoch by epoch" not in html
    assert "up to 1 epoch each" in html
