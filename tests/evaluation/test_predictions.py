"""A table of predictions survives CSV bit by bit; missing or impossible values are refused."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Label, Task
from pneumoscope.evaluation.predictions import concatenate, read_predictions, tabulate, write_predictions

from .films import draw_table, sample


@pytest.mark.parametrize("task", list(Task))
def test_csv_gives_back_the_same_bits(tmp_path: Path, task: Task) -> None:
    table = draw_table(50, task=task)
    write_predictions(tmp_path / "predictions.csv", table)
    again = read_predictions(tmp_path / "predictions.csv")
    assert (again.paths, again.sha256, again.patient_ids) == (table.paths, table.sha256, table.patient_ids)
    assert (again.labels, again.task) == (table.labels, task)
    np.testing.assert_array_equal(again.logits, table.logits)
    np.testing.assert_array_equal(again.probabilities, table.probabilities)


def test_csv_has_the_columns_of_the_contract(tmp_path: Path) -> None:
    write_predictions(tmp_path / "predictions.csv", draw_table(3))
    with open(tmp_path / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    identity = ["path", "sha256", "patient_id", "label"]
    classes = ["normal", "bacterial", "viral"]
    assert list(rows[0]) == [
        *identity,
        "probability",
        *(f"p_{name}" for name in classes),
        *(f"logit_{name}" for name in classes),
    ]
    assert float(rows[0]["probability"]) == pytest.approx(1 - float(rows[0]["p_normal"]), abs=1e-12)


def test_paths_with_commas_quotes_and_umlauts_survive(tmp_path: Path) -> None:
    odd = replace(sample(0), path='Fälle, "2"/a.png')
    table = tabulate([odd], Task.BINARY, np.zeros((1, 2)), np.full((1, 2), 0.5))
    write_predictions(tmp_path / "p.csv", table)
    assert read_predictions(tmp_path / "p.csv").paths == (odd.path,)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_film_without_a_number_is_named(value: float) -> None:
    logits, probabilities = np.zeros((3, 2)), np.full((3, 2), 0.5)
    logits[1, 0] = value
    with pytest.raises(InputError, match="not a number") as caught:
        tabulate([sample(0), sample(1), sample(2)], Task.BINARY, logits, probabilities)
    assert caught.value.where == "films/00001.png"


@pytest.mark.parametrize("row", [(1.2, -0.2), (0.5, 0.4), (0.0, 0.0)])
def test_impossible_probabilities_are_refused(row: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="not a distribution"):
        tabulate([sample(0)], Task.BINARY, np.zeros((1, 2)), np.array([row]))


@pytest.mark.parametrize("cell", ["", "nan", "n/a"])
def test_a_csv_with_a_missing_prediction_is_refused(tmp_path: Path, cell: str) -> None:
    file = tmp_path / "p.csv"
    write_predictions(file, draw_table(4))
    with open(file, newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[2]["logit_viral"] = cell
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(InputError, match=r"films/00002\.png"):
        read_predictions(file)


def test_a_film_twice_is_refused() -> None:
    with pytest.raises(InputError, match="predicted twice") as caught:
        tabulate([sample(7), sample(7)], Task.BINARY, np.zeros((2, 2)), np.full((2, 2), 0.5))
    assert caught.value.where == "films/00007.png"


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(InputError, match="one row an image"):
        tabulate([sample(0)], Task.THREE_CLASS, np.zeros((1, 2)), np.full((1, 2), 0.5))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "are not those of predictions"),
        ("", "are not those of predictions"),
        (
            "path,sha256,patient_id,label,probability,p_normal,p_pneumonia,logit_normal,logit_pneumonia\n"
            "f,0,p,flu,0.5,0.5,0.5,0,0\n",
            "label of image f is 'flu'",
        ),
    ],
)
def test_foreign_csv_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / "p.csv")


def test_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such table"):
        read_predictions(tmp_path / "none.csv")


def test_targets_of_labels_too_coarse_for_the_task_are_minus_one() -> None:
    samples = [sample(0), sample(1, Label.PNEUMONIA), sample(2, Label.VIRAL)]
    table = tabulate(samples, Task.THREE_CLASS, np.zeros((3, 3)), np.full((3, 3), 1 / 3))
    assert table.targets.tolist() == [0, -1, 2]
    assert table.positive.tolist() == [False, True, True]


def test_arrays_are_read_only_copies() -> None:
    logits = np.zeros((1, 2))
    table = tabulate([sample(0)], Task.BINARY, logits, np.full((1, 2), 0.5))
    logits[0, 0] = 9
    assert table.logits[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        table.probabilities[0, 0] = 1


def test_folds_are_pooled() -> None:
    table = draw_table(10)
    rows = np.arange(10) % 3
    pooled = concatenate(table.select(rows == fold) for fold in range(3))
    assert sorted(pooled.paths) == sorted(table.paths)
    assert pooled.probabilities[pooled.paths.index(table.paths[4])] == pytest.approx(table.probabilities[4])
    with pytest.raises(InputError, match="predicted twice"):
        concatenate([table, table])
    with pytest.raises(InputError, match="cannot be pooled"):
        concatenate([])
    with pytest.raises(InputError, match="cannot be pooled"):
        concatenate([draw_table(2), draw_table(2, task=Task.BINARY)])
