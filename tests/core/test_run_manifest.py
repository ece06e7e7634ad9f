"""A run can be told to be running, failed or done, at every moment, from its file alone."""

import platform

import pytest

from pneumoscope import __version__
from pneumoscope.core.config import Config
from pneumoscope.core.errors import ConfigError
from pneumoscope.core.files import read_json
from pneumoscope.core.run_manifest import RunManifest, earlier_run, library_versions


@pytest.fixture
def run(tmp_path):
    return RunManifest(tmp_path / "run", "train", {"epochs": 3}, {"training": 7})


def stored(run):
    return read_json(run.directory / "run.json")


def test_versions_of_what_the_numbers_depend_on():
    versions = library_versions()
    assert versions["python"] == platform.python_version()
    assert versions["pneumoscope"] == __version__
    assert {"numpy", "onnxruntime", "pillow"} <= versions.keys()


def test_a_run_that_began_says_that_it_is_running(run):
    run.add_input("dataset", "abc")
    run.save()
    content = stored(run)
    assert (content["command"], content["outcome"]) == ("train", "running")
    assert (content["config"], content["seeds"]) == ({"epochs": 3}, {"training": 7})
    assert content["inputs"] == {"dataset": "abc"}
    assert content["versions"] == library_versions()


def test_a_killed_run_still_says_running_after_its_last_stage(run):
    with run.stage("cache"):
        pass
    content = stored(run)
    assert content["outcome"] == "running"
    assert content["durations_s"]["cache"] >= 0


@pytest.mark.parametrize(
    ("error", "message"), [(ValueError("no images"), "no images"), (KeyboardInterrupt(), "KeyboardInterrupt")]
)
def test_a_stage_that_raises_leaves_failed_behind(run, error, message):
    with pytest.raises(type(error)), run.stage("fit"):
        raise error
    content = stored(run)
    assert (content["outcome"], content["error"]) == ("failed", message)
    assert "fit" in content["durations_s"]


def test_a_finished_run_keeps_its_results(run):
    run.content["results"]["dataset_directory"] = "films"
    with run.stage("fit"):
        pass
    run.finish(bundle="reference@0123")
    content = stored(run)
    assert content["outcome"] == "done"
    assert content["results"] == {"dataset_directory": "films", "bundle": "reference@0123"}
    assert content["durations_s"]["total"] >= content["durations_s"]["fit"]


def test_configuration_and_seeds_are_copies(tmp_path):
    config = {"epochs": 3}
    run = RunManifest(tmp_path, "train", config)
    config["epochs"] = 9
    assert run.content["config"] == {"epochs": 3}


class Settings(Config):
    epochs: int = 3
    size: int = 224


def test_a_new_folder_holds_no_earlier_run(tmp_path):
    assert earlier_run(tmp_path / "new", "train", Settings(), {}) is None


def test_the_same_run_may_go_on(run):
    run.add_input("dataset", "abc")
    run.save()
    found = earlier_run(run.directory, "train", Settings(), {"dataset": "abc", "split": "def"})
    assert found == run.content, "a key that is new since then has its default"


@pytest.mark.parametrize(
    ("command", "config", "dataset", "message"),
    [
        ("evaluate", Settings(), "abc", r"another kind \(train\)"),
        ("train", Settings(size=64), "abc", "another configuration"),
        ("train", Config(), "abc", "another configuration"),
        ("train", Settings(), "xyz", "other images"),
    ],
)
def test_the_folder_of_another_run_is_refused(run, command, config, dataset, message):
    run.add_input("dataset", "abc")
    run.save()
    with pytest.raises(ConfigError, match=message):
        earlier_run(run.directory, command, config, {"dataset": dataset})
    assert stored(run) == run.content
