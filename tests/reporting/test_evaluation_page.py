"""The page of an evaluation holds the JSON's own figures, and its pictures as files too."""

import json
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest

from pneumoscope.core.records import OperatingPoint, Task
from pneumoscope.evaluation.evaluate import EvaluationConfig, Scoring, evaluate, evaluation_to_json
from pneumoscope.evaluation.selective import SELECTIVE_TITLES
from pneumoscope.inference.selection import Bounds
from pneumoscope.reporting.evaluation_page import draw_evaluation, write_evaluation_page
from pneumoscope.reporting.pages import render
from tests.evaluation.films import binary_table, draw_samples, draw_table

PICTURE = {"svg": "<svg/>", "caption": "", "alt": ""}


def to_json(table, samples=(), **scoring):
    evaluation = evaluate(
        table,
        OperatingPoint("balanced", 0.5),
        samples=samples,
        scoring=Scoring("ab" * 32, "publisher's split", **scoring),
        config=EvaluationConfig(resamples=100),
    )
    return json.loads(
        json.dumps(evaluation_to_json(evaluation, table, bundle_id="run@0123456789ab", scorings=2))
    )


def words(file):
    """The page's text as a reader sees it, in one line."""
    body = file.read_text().partition("<body>")[2]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("evaluation")
    document = to_json(draw_table(120), draw_samples(120))
    return document, write_evaluation_page(document, draw_table(120), directory)


def test_every_estimate_of_the_json_is_on_the_page(written):
    document, page = written
    text = words(page)
    for name, item in document["estimates"].items():
        shown = f"{item['value']:.4f} {item['low']:.4f} to {item['high']:.4f} {item['n']}"
        assert shown in text, name
    assert "scored 2 times" in text
    assert "run@0123456789ab" in text
    assert "publisher's split" in text
    assert "ab" * 32 in text


def test_costs_and_subgroups_of_the_json_are_on_the_page(written):
    document, page = written
    text = words(page)
    for row in document["costs"]["by_ratio"]:
        assert f"{row['ratio']:.4g} : 1 {row['cheapest']['threshold']:.3f}" in text
    sensitivity = document["by_subgroup"]["sex=F"]["sensitivity"]
    shown = f"sex=F {sensitivity['value']:.3f} ({sensitivity['low']:.3f} to {sensitivity['high']:.3f})"
    assert shown in text


def test_figures_are_files_and_inside_the_page(written):
    _, page = written
    names = {
        "decisions", "confusion", "scores", "roc", "precision_recall", "reliability", "cost_threshold",
        "cost_ratio", "cost_prevalence",
    }  # fmt: skip
    files = {file.name for file in (page.parent / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}
    assert page.read_text().count('src="data:image/svg+xml;base64,') == len(names)


def test_a_binary_table_has_no_second_confusion_matrix():
    table = draw_table(80, task=Task.BINARY)
    assert "confusion" not in draw_evaluation(to_json(table), table)


def test_films_of_one_class_are_said_to_allow_no_curves(tmp_path):
    table = binary_table([0.1, 0.2, 0.7], [False, False, False])
    document = to_json(table)
    assert "roc" not in draw_evaluation(document, table)
    text = words(write_evaluation_page(document, table, tmp_path))
    assert "No ROC and no precision-recall curve" in text
    assert "Costs cannot be given" in text
    assert "ROC AUC (needs images with and without pneumonia)" in text


@pytest.mark.parametrize(("treat_all", "said"), [(0.0, True), (1e9, False)])
def test_a_network_dearer_than_treating_every_child_is_said(treat_all, said):
    document = to_json(draw_table(60))
    costs = {**document["costs"], "treat_all": treat_all, "treat_none": 1e9}
    pictures = dict.fromkeys(("cost_threshold", "cost_ratio", "cost_prevalence"), PICTURE)
    html = render("costs.html", costs=costs, pictures=pictures)
    assert ("treating every child would cost less" in " ".join(html.split())) is said


def test_contamination_is_said_first(tmp_path):
    table = draw_table(60)
    text = words(write_evaluation_page(to_json(table, contaminated=True), table, tmp_path))
    assert text.index("Contaminated.") < text.index("Results against the goals")


def test_scores_need_the_table():
    table = draw_table(60)
    assert "scores" not in draw_evaluation(to_json(table), None)


def test_abstention_and_every_operating_point_are_on_the_page(tmp_path):
    bounds = Bounds(0.5, 0.025, 0.3, 0.7, 0.15, 0.3, 0.7)
    table = replace(draw_table(120), bounds=np.tile(np.array(bounds), (120, 1)))
    points = (OperatingPoint("screening", 0.2), OperatingPoint("balanced", 0.5))
    evaluation = evaluate(table, points[1], config=EvaluationConfig(resamples=100))
    document = evaluation_to_json(evaluation, table, bundle_id="run@0123456789ab", points=points)
    text = words(write_evaluation_page(document, table, tmp_path))
    assert "Promised error rate: 2.5 % for the answer and 15 % for the etiology" in text
    for name, estimate in document["selection"]["estimates"].items():
        assert f"{SELECTIVE_TITLES[name]} {estimate['value']:.4f}" in text
    assert (tmp_path / "figures" / "risk_coverage.png").stat().st_size > 1000
    sensitivity = document["operating_points"][0]["sensitivity"]
    assert sensitivity == (table.probability >= 0.2)[table.positive].mean()
    assert "screening 0.200" in text
    assert f"{document['uncalibrated']['ece']:.3f} before calibration" in text


def test_without_bounds_every_film_is_answered(written):
    document, page = written
    assert document["selection"] is None
    assert "Every image is answered" in words(page)
