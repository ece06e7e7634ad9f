"""The public Python API does real work on phantoms: train, evaluate, compare, commission, figures, tables."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import pneumoscope as ps
from pneumoscope.core.errors import ConfigError, InputError, MissingExtraError
from pneumoscope.core.files import read_json
from pneumoscope.data.phantoms import WriteConfig, write_phantoms
from pneumoscope.evaluation.comparison import auc_covariance, delong_test
from pneumoscope.evaluation.evaluate import EvaluationConfig
from pneumoscope.reporting import evaluation_page
from pneumoscope.workflows.evaluation import Comparison, EvaluationResult
from pneumoscope.workflows.training import TrainingResult
from tests.tiny_bundle import write_tiny_bundle

SMALL = {"init": "random", "size": 32, "batch_size": 16, "epochs": 2, "threads": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ps.Dataset:
    folder = tmp_path_factory.mktemp("phantoms")
    images = write_phantoms(folder / "images", WriteConfig(count=72, size=48, seed=1, test_fraction=0.4))
    return ps.import_dataset(images, folder / "dataset")


@pytest.fixture(scope="module")
def trained(
    dataset: ps.Dataset, tmp_path_factory: pytest.TempPathFactory, quick_exports: None
) -> TrainingResult:
    return ps.train(dataset, "mlp", output=tmp_path_factory.mktemp("runs") / "run", **SMALL)


@pytest.fixture(scope="module")
def evaluated(dataset, trained, tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    output = tmp_path_factory.mktemp("runs") / "evaluation"
    return ps.evaluate(trained.bundle, dataset, output=output, resamples=100)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny").directory


@pytest.fixture(scope="module")
def comparison(dataset, trained, tiny, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    output = tmp_path_factory.mktemp("runs") / "comparison"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluation_page, "write_evaluation_page", lambda *_: None)
        return ps.compare({"mlp": trained.bundle, "tiny": tiny}, dataset, output=output, resamples=100)


@pytest.fixture(autouse=True)
def no_page(evaluated: EvaluationResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the page out, which takes longer than everything else; the fixture's evaluation has one."""
    monkeypatch.setattr(evaluation_page, "write_evaluation_page", lambda *_: None)


def test_a_run_has_its_bundle_history_and_validation_figures(trained: TrainingResult) -> None:
    assert ps.load_bundle(trained.bundle).id == trained.document["bundle"]
    assert list(trained.history["epoch"]) == [0, 1]
    assert {"train_loss", "validation_loss", "validation_auc"} <= set(trained.history)
    assert trained.to_dict()["validation"] == trained.validation
    assert {row["figure"] for row in trained.rows()} == set(trained.validation)


def test_an_evaluation_is_its_json(evaluated: EvaluationResult, dataset: ps.Dataset) -> None:
    assert evaluated.to_dict() == read_json(evaluated.directory / "evaluation.json")
    assert evaluated.document["dataset_hash"] == dataset.hash
    assert len(evaluated.predictions) == evaluated.document["n"]
    assert (evaluated.directory / "evaluation.html").is_file()
    rows = {row["figure"]: row for row in evaluated.rows()}
    assert rows["roc_auc"]["value"] == evaluated.estimates["roc_auc"]["value"]


def test_figures_are_drawn_from_results(evaluated: EvaluationResult, trained: TrainingResult) -> None:
    for name in ("confusion_matrix", "decisions", "roc_curve", "precision_recall", "calibration"):
        assert isinstance(getattr(ps.figures, name)(evaluated), Figure)
    assert isinstance(ps.figures.roc_curve(trained), Figure)


def test_learning_curves_are_those_of_the_run(trained: TrainingResult) -> None:
    lines = ps.figures.learning_curves(trained).axes[0].get_lines()
    assert np.allclose(lines[0].get_ydata(), trained.history["train_loss"])


def test_networks_are_compared_on_the_same_images(comparison: Comparison) -> None:
    (pair,) = comparison.pairs
    assert (pair.first, pair.second) == ("mlp", "tiny")
    values = {name: figures["roc_auc"]["value"] for name, figures in comparison.estimates.items()}
    assert pair.auc.difference == pytest.approx(values["mlp"] - values["tiny"])
    assert pair.auc.low <= pair.auc.difference <= pair.auc.high
    names = sorted(values, key=lambda name: -values[name])
    assert comparison.ranking == (
        (tuple(names),) if pair.auc.p_corrected >= 0.05 else ((names[0],), (names[1],))
    )
    document = comparison.to_dict()
    assert document["pairs"][0]["accuracy"]["p"] == pair.accuracy.p
    assert [row["figure"] for row in comparison.rows()] == ["roc_auc", "accuracy"]
    assert comparison.contaminated == ()


def test_the_tests_are_paired_by_image_whatever_the_order(dataset, trained, tiny, tmp_path: Path) -> None:
    first, second = (
        ps.evaluate(bundle, dataset, output=tmp_path / name, resamples=100)
        for name, bundle in (("a", trained.bundle), ("b", tiny))
    )
    a, b = first.predictions, second.predictions
    assert a.paths == b.paths
    areas, covariance = auc_covariance(a.positive, np.stack([a.probability, b.probability]), a.patient_ids)
    file = second.directory / "predictions.csv"
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([header, *reversed(lines)]) + "\n")
    found = ps.compare([first.directory, second])
    assert found.pairs[0].auc.p == pytest.approx(delong_test(areas, covariance).p)
    assert (found.images, found.patients) == (len(a), len(set(a.patient_ids)))


def test_networks_that_are_the_same_are_tied(evaluated: EvaluationResult) -> None:
    found = ps.compare(dict.fromkeys(("one", "two", "three"), evaluated))
    assert len(found.pairs) == 3
    assert all(pair.auc.p_corrected == pair.accuracy.p_corrected == 1 for pair in found.pairs)
    assert found.ranking == (("one", "two", "three"),)


def test_other_images_cannot_be_compared(dataset, trained, evaluated, tmp_path: Path) -> None:
    other = ps.evaluate(
        trained.bundle, dataset, split="all", allow_leakage=True, output=tmp_path / "all", resamples=100
    )
    assert other.leaks > 0
    assert other.document["contaminated"]
    with pytest.raises(InputError, match="other images"):
        ps.compare([evaluated, other])
    with pytest.raises(InputError, match="1 networks"):
        ps.compare([evaluated])
    with pytest.raises(InputError, match="no evaluation"):
        ps.compare([evaluated, trained])


def test_a_site_is_commissioned(dataset, tiny, tmp_path: Path) -> None:
    result = ps.commission(tiny, dataset, prevalence=0.3, output=tmp_path / "site")
    assert result.verdict == read_json(tmp_path / "site" / "commissioning.json")["verdict"]
    assert ps.load_bundle(result.bundle).id == result.document["new_bundle"]
    assert len(result.rows()) == len(result.document["checks"])


def test_progress_is_told_by_stage(dataset, tiny, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    ps.evaluate(tiny, dataset, output=tmp_path, resamples=100, progress=lambda *report: told.append(report))
    assert {stage for stage, _, _ in told} >= {"predicting"}
    assert all(done <= total for _, done, total in told)


def test_results_are_html_tables(comparison: Comparison) -> None:
    class Cells(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_data(self, data: str) -> None:
            self.found.append(data)

    parser = Cells()
    parser.feed(comparison._repr_html_())
    assert {"first", "p_corrected", "mlp", "tiny"} <= set(parser.found)


def test_a_data_frame_needs_pandas(evaluated: EvaluationResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="pip install pandas"):
        evaluated.to_frame()


def test_rows_become_a_data_frame(evaluated: EvaluationResult) -> None:
    pytest.importorskip("pandas")
    frame = evaluated.to_frame()
    assert list(frame.columns) == ["figure", "value", "low", "high", "n"]
    assert len(frame) == len(evaluated.estimates)


def test_a_configuration_and_its_keys_exclude_each_other(dataset, tiny, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resamples"):
        ps.evaluate(tiny, dataset, output=tmp_path, config=EvaluationConfig(), resamples=100)
    with pytest.raises(ConfigError, match="unknown key 'resample'"):
        ps.evaluate(tiny, dataset, output=tmp_path, resample=100)
