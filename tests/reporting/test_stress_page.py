"""The page of a stress test: one file, every figure of the JSON on it, failures said first."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pneumoscope.evaluation.stress import StressConfig, score_stress
from pneumoscope.imaging.stress import STRESSES
from pneumoscope.reporting.stress_page import change_chart, stress_markdown, stressed_films, write_stress_page
from tests.evaluation.test_stress_scores import CHOSEN
from tests.evaluation.test_stress_scores import table as table  # a fixture


@pytest.fixture
def document(table: Any) -> dict[str, Any]:
    return score_stress(table, StressConfig(resamples=100), CHOSEN) | {
        "dataset": "made-up <images>",
        "dataset_hash": "0" * 64,
        "protocol": "out of fold",
        "left_out": 7,
        "bundles": {"fold-0": "a@1", "fold-1": "b@2"},
        "operating_point": "default",
    }


def test_the_page_says_it_all_in_one_file(document: dict[str, Any], tmp_path: Path) -> None:
    film = np.random.default_rng(0).random((40, 50), dtype=np.float32)
    films = {"Unchanged": film, **{one.title: one.apply(film, "0" * 64) for one in STRESSES}}
    html = write_stress_page(document, films, tmp_path).read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert "<script" not in html
    assert "<films>" not in html
    assert "Failed: Exposure -30 %, Black box over the lungs." in html
    assert "7 images that were trained on or not tested" in html
    for row in document["stresses"][1:]:
        assert row["title"] in html
        assert row["what"].capitalize() in html
    assert "positive from 0.300" in html
    assert (tmp_path / "stress.md").read_text(encoding="utf-8") == stress_markdown(document)


def test_the_table_has_a_line_a_stress(document: dict[str, Any]) -> None:
    lines = stress_markdown(document).splitlines()
    assert len(lines) == 2 + len(document["stresses"]) + 2
    assert len({line.count("|") for line in lines[:-2]}) == 1
    worse = lines[4]
    assert worse.startswith("| Exposure -30 % | 96.0 % | -3.00 (")
    assert "| 3.0 % |" in worse
    assert worse.endswith("| **fail** |")
    assert lines[5].endswith("| not judged |")
    assert lines[-1].startswith("100 images of 100 patients of made-up <images>, out of fold; ")


def test_the_chart_marks_the_limit_and_what_is_beyond(document: dict[str, Any]) -> None:
    rows = document["stresses"][1:4]
    (axes,) = change_chart(rows, 1.5).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [row["title"] for row in rows]
    assert any(set(line.get_xdata()) == {-1.5} for line in axes.lines)
    low, high = axes.get_xlim()
    changes = [row["estimates"]["accuracy_change"] for row in rows]
    assert low < min(one["low"] for one in changes)
    assert high > max(one["high"] for one in changes)


def test_films_of_other_sizes_keep_their_proportions() -> None:
    films = {"a": np.full((100, 100), 1, np.float32), "b": np.full((50, 100), 1, np.float32)}
    picture = np.asarray(
        Image.open(io.BytesIO(stressed_films({"c": 0 * films["a"], "d": 0 * films["b"]}, 2)))
    )
    left, right = picture[30:, :190], picture[30:, 200:]
    assert (left < 60).mean() == pytest.approx(1, abs=0.05)
    assert (right < 60).mean() == pytest.approx(0.48, abs=0.05)
