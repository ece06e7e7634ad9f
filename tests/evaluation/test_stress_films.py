"""Who is asked about which images, and that every answer is the one that ``examine`` gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumoscope.core.errors import InputError, LeakageError
from pneumoscope.core.records import Verdict
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.importers import import_dataset
from pneumoscope.evaluation.predictions import tabulate, write_predictions
from pneumoscope.evaluation.scoring import film_key
from pneumoscope.evaluation.stress import choose_some, plan_stress, run_stress
from pneumoscope.imaging.stress import STRESSES
from pneumoscope.inference.pipeline import examine
from tests.films import write_film
from tests.tiny_bundle import document, write_tiny_bundle


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("films")
    for number in range(6):
        write_film(folder / "films" / "test" / "NORMAL" / f"IM-{number:04d}-0001.png", 0.3 + 0.03 * number)
        ill = f"person{number}_bacteria_{number}.png"
        write_film(folder / "films" / "test" / "PNEUMONIA" / ill, 0.6 + 0.03 * number)
    return import_dataset(folder / "films", folder / "dataset")


def point(threshold: float) -> list[dict[str, object]]:
    return [{"name": "balanced", "threshold": threshold}]


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Path:
    """A cross-validation of two folds that differ in their threshold; the last image was tested by none."""
    run = tmp_path_factory.mktemp("runs") / "cv"
    for number, threshold in enumerate((0.2, 0.9)):
        bundle = write_tiny_bundle(run / f"fold-{number}" / "bundle", operating_points=point(threshold))
        tested = dataset.samples[number:-1:2]
        logits = np.zeros((len(tested), 3))
        table = tabulate(tested, bundle.task, logits, np.full((len(tested), 3), 1 / 3))
        write_predictions(run / f"fold-{number}" / "predictions" / "test.csv", table)
    return run


def test_each_fold_is_asked_about_the_films_that_it_tested(folds: Path, dataset: Dataset) -> None:
    plan = plan_stress(folds, dataset)
    assert [examiner.name for examiner in plan.examiners] == ["fold-0", "fold-1"]
    assert [examiner.samples for examiner in plan.examiners] == [
        dataset.samples[0:-1:2],
        dataset.samples[1:-1:2],
    ]
    assert plan.left_out == 1
    table = run_stress(plan, dataset, stresses=STRESSES[:1])
    assert table.examiners == ("fold-0",) * 6 + ("fold-1",) * 5
    assert table.thresholds.tolist() == [0.2] * 6 + [0.9] * 5


def test_answers_are_those_of_the_line(folds: Path, dataset: Dataset, tmp_path: Path) -> None:
    plan = plan_stress(folds, dataset)
    seen: list[tuple[int, int]] = []
    table = run_stress(plan, dataset, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (11, 11)
    assert table.names == ("unchanged", *(stress.name for stress in STRESSES))
    assert table.probabilities.shape == (11, 1 + len(STRESSES))
    corners = table.names.index("blank-corners")
    for row in (0, 7):
        sample = table.samples[row]
        bundle = plan.examiners[row // 6].bundle
        alone = examine(dataset.file(sample), bundle, explain=False)
        assert alone.prediction is not None
        assert table.probabilities[row, 0] == pytest.approx(alone.prediction.probability, abs=1e-6)
        assert table.verdicts[row][0] is alone.gate.verdict
        pixels = np.asarray(Image.open(dataset.file(sample)), np.float32) / 255
        changed = STRESSES[corners - 1].apply(pixels, sample.sha256)
        Image.fromarray(np.rint(changed * 255).astype(np.uint8)).save(tmp_path / "changed.png")
        again = examine(tmp_path / "changed.png", bundle, explain=False)
        assert again.prediction is not None
        assert table.probabilities[row, corners] == pytest.approx(again.prediction.probability, abs=1e-6)
    assert table.verdicts[0][0] in Verdict


def test_films_are_chosen_by_hash_whatever_their_order(folds: Path, dataset: Dataset) -> None:
    plan = plan_stress(folds, dataset)
    chosen = choose_some(plan, 4, 3)
    turned = replace(plan, examiners=plan.examiners[::-1])
    assert len(chosen.samples) == 4
    assert set(choose_some(turned, 4, 3).samples) == set(chosen.samples)
    assert set(choose_some(plan, 4, 4).samples) != set(chosen.samples)
    assert "4 of these images, drawn with seed 3" in chosen.protocol
    assert choose_some(plan, 99, 0).samples == plan.samples


def test_a_bundle_is_not_asked_about_films_that_it_has_seen(dataset: Dataset, tmp_path: Path) -> None:
    training = {**document()["training"], "films": [film_key(s.sha256) for s in dataset.samples[:3]]}
    write_tiny_bundle(tmp_path / "run" / "bundle", training=training)
    for subject in (tmp_path / "run", tmp_path / "run" / "bundle"):
        plan = plan_stress(subject, dataset, "all")
        assert plan.samples == dataset.samples[3:]
        assert plan.left_out == 3
    training["films"] = [film_key(s.sha256) for s in dataset.samples]
    write_tiny_bundle(tmp_path / "all", training=training)
    with pytest.raises(LeakageError, match="12 of 12 images"):
        plan_stress(tmp_path / "all", dataset)


def test_other_copies_of_the_films_go_by_the_patient(folds: Path, tmp_path: Path) -> None:
    for number in range(2):
        write_film(tmp_path / "films" / "NORMAL" / f"IM-{number:04d}-0001.png", 0.5)
    copies = import_dataset(tmp_path / "films", tmp_path / "dataset")
    plan = plan_stress(folds, copies)
    assert {examiner.name: [s.patient_id for s in examiner.samples] for examiner in plan.examiners} == {
        "fold-0": ["IM-0000"],
        "fold-1": ["IM-0001"],
    }
    assert plan.left_out == 0


def test_a_cross_validation_has_no_parts_and_must_know_the_films(
    folds: Path, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="not about a part"):
        plan_stress(folds, dataset, "test")
    write_film(tmp_path / "films" / "NORMAL" / "IM-0900-0001.png", 0.55)
    other = import_dataset(tmp_path / "films", tmp_path / "dataset")
    with pytest.raises(InputError, match="no image of the data set was tested"):
        plan_stress(folds, other)
