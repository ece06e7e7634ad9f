"""The figures in the README and in docs/results.md are those of the committed predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pneumoscope.core.files import read_json
from pneumoscope.core.records import Estimate, OperatingPoint
from pneumoscope.evaluation.evaluate import evaluate
from pneumoscope.evaluation.metrics import TITLES
from pneumoscope.evaluation.predictions import read_predictions
from pneumoscope.evaluation.selective import SELECTIVE_TITLES, selective_report

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
IN_THE_README = (
    "roc_auc",
    "accuracy",
    "sensitivity",
    "specificity",
    "false_negative_rate",
    "f1",
    "ece",
    "three_class_accuracy",
    "bacterial_vs_viral_auc",
)


def _row(name: str, estimate: Estimate, titles: Mapping[str, str] = TITLES) -> str:
    interval = f"{estimate.low:.4f} to {estimate.high:.4f}"
    return f"| {titles[name]} | {estimate.value:.4f} | {interval} | {estimate.n:,} |"


def test_the_committed_predictions_give_the_committed_figures() -> None:
    committed = read_json(RESULTS / "cross-validation.json")
    point = OperatingPoint(**committed["operating_point"])
    again = evaluate(read_predictions(RESULTS / "cross-validation.csv"), point)
    assert _values(again.estimates) == _about(_flat(committed["estimates"]))


def test_abstention_is_told_as_the_committed_predictions_show_it() -> None:
    committed = read_json(RESULTS / "cross-validation.json").get("selection")
    again = selective_report(read_predictions(RESULTS / "cross-validation.csv"))
    if committed is None:
        pytest.skip("the committed predictions come from bundles that never abstain")
    assert _flat(again) == _about(_flat(committed))
    text = (ROOT / "docs" / "abstention.md").read_text(encoding="utf-8")
    rows = [
        _row(name, Estimate(**values), SELECTIVE_TITLES) for name, values in committed["estimates"].items()
    ]
    assert [row for row in rows if row not in text] == []


def test_calibration_is_told_as_the_committed_predictions_show_it() -> None:
    document = read_json(RESULTS / "cross-validation.json")
    if "uncalibrated" not in document:
        pytest.skip("the committed evaluation is one without figures before calibration")
    before, after = document["uncalibrated"], document["estimates"]
    text = (ROOT / "docs" / "abstention.md").read_text(encoding="utf-8")
    for name in ("brier", "log_loss", "ece"):
        assert f"| {TITLES[name]} | {before[name]:.4f} | {after[name]['value']:.4f} |" in text


@pytest.mark.parametrize(
    ("page", "names"), [("README.md", IN_THE_README), ("docs/results.md", tuple(TITLES))]
)
def test_the_tables_show_those_figures(page: str, names: tuple[str, ...]) -> None:
    committed = read_json(RESULTS / "cross-validation.json")["estimates"]
    estimates = {name: Estimate(**values) for name, values in committed.items()}
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [row for row in (_row(name, estimates[name]) for name in names) if row not in text] == []


def _values(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    return _flat({name: asdict(estimate) for name, estimate in estimates.items()})


def _flat(content: Any, name: str = "") -> dict[str, Any]:
    """Every number and text of nested content by its place."""
    parts: Iterable[tuple[Any, Any]]
    if isinstance(content, Mapping):
        parts = content.items()
    elif isinstance(content, list | tuple):
        parts = enumerate(content)
    else:
        return {name: content}
    return {key: value for part, inner in parts for key, value in _flat(inner, f"{name}/{part}").items()}


def _about(content: dict[str, Any]) -> dict[str, Any]:
    """The same but for the last bits, which depend on how a processor's vector units add."""
    return {
        key: pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
        for key, value in content.items()
    }
