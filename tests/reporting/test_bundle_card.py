"""A bundle's card says what the bundle says; the shipped ones lie beside their bundles."""

import numpy as np
import pytest

from pneumoscope.core.records import OperatingPoint, Task
from pneumoscope.evaluation.operating_points import describe_operating_points
from pneumoscope.evaluation.release import (
    Pair,
    ReleaseConfig,
    ViewKind,
    ViewName,
    conclude,
    judge,
)
from pneumoscope.evaluation.selective import METHOD
from pneumoscope.inference.bundle import load_bundle, shipped_bundles
from pneumoscope.reporting.bundle_card import CARD, bundle_card
from tests.tiny_bundle import document, write_tiny_bundle

COMPLETE = {
    "id": "tiny@0123456789ab",
    "created": "2026-01-02T03:04:05+00:00",
    "training": {
        "dataset_name": "phantoms",
        "dataset_hash": "ab" * 32,
        "split": {"name": "default", "method": "fractions", "seed": 3},
        "counts": {"training": 1200, "validation": 34},
        "patients": ["p", "q"],
        "initial_weights": "random",
        "versions": {"python": "3.11", "onnxruntime": "1.20"},
    },
}


@pytest.mark.parametrize("name", shipped_bundles())
def test_a_shipped_bundle_has_its_card(name):
    bundle = load_bundle(name)
    committed = (bundle.directory / CARD).read_text(encoding="utf-8")
    assert committed == bundle_card(bundle.document, name), (
        f"write it again: pneumoscope card {name} --output {bundle.directory / CARD}"
    )


def test_every_part_is_there():
    card = bundle_card(document(**COMPLETE), "tiny")
    headings = [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]
    assert headings == [
        "How to load it",
        "What it answers",
        "Preprocessing",
        "Training data",
        "Validation figures",
        "Operating points",
        "Gate",
        "Limits",
        "Made with",
    ]
    for line in (
        "`tiny@0123456789ab`, made on 2026-01-02.",
        'bundle = ps.load_bundle("tiny")',
        f"| SHA-256 of its manifest | `{'ab' * 32}` |",
        "| split | name default, method fractions, seed 3 |",
        "| training images | 1,200 |",
        "| patients | 2 |",
        "| auc | 0.9000 | 0.8000 to 1.0000 | 10 |",
        "| `balanced` | 0.7000 | 0.9000 | 0.9000 | 10 | "
        "weighs images with and without pneumonia alike (default) |",
        "Calibration: temperature, temperature 1.000.",
        "- It knows nothing about pneumonia.",
        "- training: python 3.11, onnxruntime 1.20",
    ):
        assert line in card.splitlines(), line
    assert "than 50.000, and refused beyond 100.000" in card
    assert "its grey values are taken as they are" in card
    assert "differ by less than 0.1." in card
    assert "Derived from" not in card
    assert card.endswith("\n")
    assert not card.endswith("\n\n")


def test_the_card_shows_the_release_check():
    cluster = ViewName("cluster-0", "Acquisition cluster 0", ViewKind.CLUSTER)
    ill = np.arange(40) >= 20
    right = np.linspace(0.01, 0.99, 40)
    answers = Pair(ill, tuple(map(str, range(40))), 1 - right, right)
    views = [judge(cluster, answers, ReleaseConfig())]
    release = {
        **conclude(views).to_dict(),
        "shortened": [],
        "dataset": "phantoms",
        "when": "2026-01-02T03:04:05+00:00",
        "config": ReleaseConfig().model_dump(mode="json"),
        "views": [view.to_dict() for view in views],
        "changes": [],
    }
    card = bundle_card(document(**COMPLETE), "tiny", release)
    assert "## Release check\n\n**Not released:**" in card
    assert "| Acquisition cluster 0 | 40 | 0.000 " in card
    assert "| -1.000 (-1.000 to -1.000) |" in card
    assert "Release check" not in bundle_card(document(**COMPLETE), "tiny")


def test_a_derived_bundle_names_its_origin():
    origin = {"id": "tiny@ba9876543210", "method": "static int8 quantisation", "versions": {"onnx": "1.18"}}
    card = bundle_card(document(**COMPLETE, derived_from=origin), "tiny")
    assert "Derived from `tiny@ba9876543210` by static int8 quantisation." in card
    assert "- quantisation: onnx 1.18" in card.splitlines()


def test_a_binary_bundle_says_nothing_of_the_etiology():
    card = bundle_card(document(Task.BINARY, **COMPLETE), "tiny")
    assert "A probability of pneumonia." in card
    assert "tiology" not in card


def test_a_point_without_figures_says_so():
    points = [{"name": "balanced", "threshold": 0.5, "sensitivity": None, "specificity": None, "n": 0}]
    card = bundle_card(document(**COMPLETE, operating_points=points), "tiny")
    assert "| `balanced` | 0.5000 | not known | not known | 0 |" in card


def test_a_card_in_the_folder_does_not_disturb_the_bundle(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    (bundle.directory / CARD).write_text(bundle_card(bundle.document, "tiny"), encoding="utf-8")
    assert load_bundle(bundle.directory).id == bundle.id


def test_abstention_and_predictive_values_are_told():
    positive = np.arange(300) < 200
    points = [OperatingPoint("balanced", 0.7, sensitivity=0.9, specificity=0.8, n=300)]
    counts = {"normal": 100, "pneumonia": 200}
    card = bundle_card(
        document(
            **COMPLETE,
            operating_points=describe_operating_points(points, positive, 0.1),
            selection={"method": METHOD, "error_rate": 0.025, "patients": counts,
                       "pneumonia_from": 0.3, "normal_to": 0.8},
            etiology={"method": METHOD, "error_rate": 0.15, "patients": {"viral": 90, "bacterial": 110},
                      "bacterial_from": 0.4, "viral_to": 0.7},
            calibration={
                "method": "platt",
                "pneumonia": {"slope": 1.0, "offset": 0.0},
                "etiology": {"slope": 1.0, "offset": 0.0},
                "candidates": [{"method": "platt", "log_loss": 0.4, "brier": 0.02, "above_best": 0.0,
                                "standard_error": 0.0}],
            },
        ),
        "tiny",
    )  # fmt: skip
    assert "lies between 0.3000 and 0.8000 fits both answers" in card
    assert f"({METHOD}; 100 normal and 200 pneumonia validation patients)" in card
    assert "bacterial from 0.400" in card
    assert "| platt | 0.4000 | 0.0200 | 0.0000 | 0.0000 |" in card.splitlines()
    assert "| `balanced` | 10.0% (stated) | 0.3333 (0.2" in card
    assert "| `balanced` | 0.7000 | 0.9000 (0.8" in card


def test_why_nothing_is_abstained_is_told():
    absent = {"method": METHOD, "error_rate": 0.025, "absent": "too few patients"}
    card = bundle_card(document(**COMPLETE, selection=absent, etiology=absent), "tiny")
    assert "Every image that the gate lets pass is answered: too few patients." in card
    assert "The likelier etiology is always named: too few patients." in card
