"""The JSON document of an evaluation holds the record and everything that a figure needs."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from pneumoscope.core.records import OperatingPoint
from pneumoscope.evaluation.evaluate import (
    EvaluationConfig,
    Scoring,
    evaluate,
    evaluation_to_json,
)
from pneumoscope.evaluation.operating_points import CostConfig

from .films import binary_table, draw_samples, draw_table

POINT = OperatingPoint("balanced", 0.6, 0.9, 0.8, 500)
QUICK = EvaluationConfig(resamples=100)


def _round_trip(document):
    return json.loads(json.dumps(document, allow_nan=False))


def test_the_record_is_in_the_document_and_json_keeps_every_bit() -> None:
    table = draw_table(120)
    scoring = Scoring("abc", "cross-validation", contaminated=True)
    evaluation = evaluate(table, POINT, samples=draw_samples(120), scoring=scoring, config=QUICK)
    document = _round_trip(evaluation_to_json(evaluation, table))
    assert document["estimates"] == {name: asdict(one) for name, one in evaluation.estimates.items()}
    assert list(document["by_subgroup"]) == list(evaluation.by_subgroup)
    assert document["operating_point"] == asdict(POINT)
    for key in ("n", "patients", "prevalence", "dataset_hash", "protocol", "contaminated"):
        assert document[key] == getattr(evaluation, key)


def test_everything_that_a_figure_needs_is_there() -> None:
    table = draw_table(300)
    costs = CostConfig(prevalence=0.2)
    document = evaluation_to_json(
        evaluate(table, POINT, config=QUICK), table, costs=costs, bundle_id="tiny@0", scorings=3
    )
    assert (document["bundle"], document["scorings"], document["contaminated"]) == ("tiny@0", 3, False)
    assert document["stated_prevalence"] == document["costs"]["prevalence"] == 0.2
    assert document["undefined"] == {}
    assert sum(document["decisions"].values()) == sum(one["n"] for one in document["reliability"]) == 300
    roc, pr = document["curves"]["roc"], document["curves"]["precision_recall"]
    assert (roc["false_positive_rate"][0], roc["sensitivity"][0]) == (0, 0)
    assert (roc["false_positive_rate"][-1], roc["sensitivity"][-1]) == (1, 1)
    area = np.trapezoid(roc["sensitivity"], roc["false_positive_rate"])
    assert area == pytest.approx(document["estimates"]["roc_auc"]["value"], abs=1e-9)
    assert len(pr["recall"]) == len(pr["precision"])
    achieved = document["costs"]["at_operating_point"]
    assert achieved["sensitivity"] == pytest.approx(document["estimates"]["sensitivity"]["value"])
    assert achieved["threshold"] == 0.6
    assert _round_trip(document) == document


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    table = draw_table(4000, skill=0.3)
    document = evaluation_to_json(evaluate(table, POINT, config=QUICK), table)
    sensitivity = document["curves"]["roc"]["sensitivity"]
    assert len(sensitivity) == 400
    assert (sensitivity[0], sensitivity[-1]) == (0, 1)


def test_undefined_figures_say_why() -> None:
    table = binary_table([0.2, 0.9, 0.3], [False, False, False])
    document = evaluation_to_json(evaluate(table, POINT, config=QUICK), table)
    assert document["curves"] is None
    assert document["costs"] is None
    assert document["undefined"]["roc_auc"] == "needs images with and without pneumonia"
    assert document["undefined"]["sensitivity"] == "needs images with pneumonia"
    assert "macro_f1" not in document["undefined"]
    assert not set(document["undefined"]) & set(document["estimates"])
    assert _round_trip(document) == document
