"""A run folder is read as it is; what is missing is said, what is no run is refused with a remedy."""

import shutil

import pytest

from pneumoscope.core.errors import InputError
from pneumoscope.core.files import read_json, write_json, write_text
from pneumoscope.reporting.run_report import open_run
from tests.reporting.runs import RunOptions, write_cross_validation, write_dataset, write_run


@pytest.fixture
def copy(run_directory, tmp_path):
    return shutil.copytree(run_directory, tmp_path / "copy")


def test_a_complete_run(run_directory, dataset):
    run = open_run(run_directory)
    assert run.name == "grey-run"
    assert run.scoring == "test"
    assert run.evaluation["n"] == len(run.table) == 30
    assert run.history["validation_loss"] == (0.8, 0.45, 0.4)
    assert run.bundle["id"].startswith("tiny@")
    assert run.dataset.hash == dataset.hash
    assert list(run.split.values()).count("train") == 30
    assert len(run.missing) == 1
    assert "has not been audited" in run.missing[0]


def test_results_on_validation_films_are_used_when_there_are_no_others(tmp_path, dataset):
    run = open_run(write_run(tmp_path / "run", dataset, RunOptions(scoring="validation")))
    assert run.scoring == "validation"


def test_the_latest_evaluation_of_the_bundle_inside_the_run_wins_over_validation(tmp_path, dataset):
    directory = write_run(tmp_path / "run", dataset, RunOptions(scoring="validation"))
    bundle = read_json(directory / "run.json")["results"]["bundle"]
    document = read_json(directory / "evaluation" / "validation.json")
    for name, started, scored, outcome in (
        ("early", "2026-01-01", bundle, "done"),
        ("late", "2026-01-02", bundle, "done"),
        ("unfinished", "2026-01-03", bundle, "failed"),
        ("other-bundle", "2026-01-04", "other@1", "done"),
    ):
        manifest = {
            "command": "evaluate",
            "started": started,
            "outcome": outcome,
            "inputs": {"bundle": scored},
        }
        write_json(directory / name / "run.json", manifest)
        write_json(directory / name / "evaluation.json", {**document, "protocol": name})
        shutil.copy(directory / "predictions" / "validation.csv", directory / name / "predictions.csv")
    run = open_run(directory)
    assert (run.scoring, run.evaluation["protocol"]) == ("test", "late")


def test_a_cross_validation_has_its_folds(tmp_path, dataset):
    run = open_run(write_cross_validation(tmp_path / "cv", dataset))
    assert run.scoring == "cross-validation"
    assert [fold.directory.name for fold in run.folds] == ["fold-0", "fold-1"]
    assert set(run.split.values()) == {"fold-0", "fold-1"}
    tested = run.folds[1].table.paths[0]
    assert run.fold_of(tested) is run.folds[1]
    assert run.fold_of("of no fold") is run


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("history.csv", "no learning curves"),
        ("split.csv", "The split (split.csv) is not there"),
        ("bundle/bundle.json", "no heat maps"),
        ("predictions/test.csv", "no curves, no mistakes"),
    ],
)
def test_what_is_missing_is_said(copy, gone, sentence):
    (copy / gone).unlink()
    assert any(sentence in text for text in open_run(copy).missing)


def test_a_data_set_that_moved_or_changed_is_said(tmp_path):
    dataset = write_dataset(tmp_path / "data", 12)
    directory = write_run(tmp_path / "run", dataset)
    manifest = read_json(directory / "run.json")
    write_json(directory / "run.json", {**manifest, "inputs": {"dataset": "other"}})
    assert any("has changed since this run" in text for text in open_run(directory).missing)
    shutil.rmtree(dataset.directory)
    run = open_run(directory)
    assert run.dataset is None
    assert any("not where it was" in text for text in run.missing)


def test_the_audit_is_read(tmp_path):
    dataset = write_dataset(tmp_path / "data", 12)
    write_json(dataset.directory / "audit" / "audit.json", {"findings": []})
    assert open_run(write_run(tmp_path / "run", dataset)).audit == {"findings": []}


def test_no_folder_and_no_run_are_refused(tmp_path):
    for directory, problem in ((tmp_path / "absent", "no such folder"), (tmp_path, "not a run")):
        with pytest.raises(InputError, match=problem) as caught:
            open_run(directory)
        assert "pneumoscope train" in caught.value.remedy
        assert caught.value.exit_code == 2


def test_an_evaluation_names_its_own_page(tmp_path):
    write_json(tmp_path / "run.json", {"command": "evaluate"})
    with pytest.raises(InputError, match="an evaluation") as caught:
        open_run(tmp_path)
    assert caught.value.remedy.endswith("evaluation.html")


def test_a_run_without_results_says_how_to_go_on(copy):
    shutil.rmtree(copy / "evaluation")
    with pytest.raises(InputError, match="no results") as caught:
        open_run(copy)
    assert "--resume" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("run.json", "{", "not valid JSON"),
        ("evaluation/test.json", "[]", "not a JSON object"),
        ("history.csv", "epoch,stage,train_loss\n0,full,many\n", "damaged training history"),
        ("split.csv", "a,b\n1,2\n", "not a split"),
    ],
)
def test_damaged_files_are_refused(copy, name, content, problem):
    write_text(copy / name, content)
    with pytest.raises(InputError, match=problem):
        open_run(copy)
