"""The ladder's page: one file, everything that the JSON holds is on it."""

import re

import pytest

from pneumoscope.reporting.ladder_page import (
    curve_panels,
    forest,
    ladder_csv,
    ladder_markdown,
    ranking_sentences,
    significance_matrix,
    write_ladder,
)

from .ladders import ladder_document


@pytest.fixture(scope="module")
def result():
    return ladder_document()


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    directory = tmp_path_factory.mktemp("ladder")
    assert write_ladder(result, directory) == directory / "ladder.html"
    return directory


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "ladder.html").read_text(encoding="utf-8")


def test_the_page_is_self_contained(html):
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert "<script" not in html
    pictures = re.findall(r"<img [^>]*>", html)
    assert len(pictures) == 3
    assert all(re.search(r'alt="[^"]{10,}"', picture) for picture in pictures)


def test_everything_is_on_the_page(html, result):
    for row in result["rungs"]:
        assert f'<th scope="row">{row["name"]}' in html
    for row in result["rungs"][:3]:
        for estimate in (row["estimates"]["roc_auc"], row["estimates"]["ece"]):
            assert f"{estimate['value']:.4f}" in html
    for sentence in (*result["cut"], *ranking_sentences(result), *ranking_sentences(result, "accuracy")):
        assert sentence in html
    assert "cannot be &lt;downloaded&gt;" in html
    assert "augmentation.enabled false" in html


def test_tables_are_files_too(folder, result):
    assert (folder / "ladder.csv").read_text() == ladder_csv(result)
    assert (folder / "ladder.md").read_text() == ladder_markdown(result)


def test_a_ladder_of_one_rung_has_no_pairs(result, tmp_path):
    alone = {**result, "rungs": result["rungs"][:1], "pairs": [], "controls": [], "cut": []}
    alone["ranking"] = {"roc_auc": [["good"]], "accuracy": [["good"]]}
    html = write_ladder(alone, tmp_path).read_text(encoding="utf-8")
    assert "Every pair" not in html
    assert "Nothing was cut" in html


def test_the_forest_draws_the_intervals(result):
    rows = {row["name"]: row["estimates"] for row in result["rungs"][:3]}
    figure = forest(rows, {"roc_auc": ["good"]}, {"roc_auc": "ROC AUC"})
    (axes,) = figure.axes
    intervals = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    assert [tuple(ends) for ends in intervals] == [
        (row["roc_auc"]["low"], row["roc_auc"]["high"]) for row in rows.values()
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(rows)


def test_the_matrix_shows_auc_above_and_accuracy_below_the_diagonal():
    better = {("a", "b"): (1, 0), ("b", "a"): (-1, -1)}
    figure = significance_matrix(["a", "b"], better)
    cells = figure.axes[0].images[0].get_array()
    assert (cells[0, 1], cells[1, 0]) == (1, -1), "AUC of a against b; accuracy of b against a"


def test_every_rung_has_its_panel():
    history = {"epoch": [0.0, 1.0], "train_loss": [1.0, 0.5], "validation_loss": [1.1, 0.7]}
    figure = curve_panels({f"rung-{number}": history for number in range(6)})
    titles = [axes.get_title("left") for axes in figure.axes]
    assert [title for title in titles if title] == [f"rung-{number}" for number in range(6)]
    assert [list(line.get_ydata()) for line in figure.axes[5].lines] == [[1.0, 0.5], [1.1, 0.7]]
