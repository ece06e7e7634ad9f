"""The report tells the run's own figures, in an order that a first reader can follow, and hides no gap."""

import re
import shutil
from html import unescape

import numpy as np
import pytest

from pneumoscope.core.errors import InputError
from pneumoscope.core.files import read_json, write_json
from pneumoscope.data.phantoms import write_png
from pneumoscope.reporting import evaluation_page, figures
from pneumoscope.reporting.run_report import write_run_report
from tests.reporting.runs import RunOptions, write_cross_validation, write_dataset, write_run

SECTIONS = (
    "summary", "contents", "asked", "data", "split", "learning", "results", "mistakes", "costs", "limits",
    "provenance",
)  # fmt: skip


def words(page):
    """The page's text as a reader sees it, in one line."""
    body = page.read_text().partition("<body>")[2]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture(scope="module")
def page(run_directory, tmp_path_factory):
    return write_run_report(run_directory, file=tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def quick(monkeypatch):
    """Do not draw: for what is said in words."""
    for module in (evaluation_page, figures):
        monkeypatch.setattr(module, "svg", lambda figure: "<svg/>")


@pytest.fixture
def copy(run_directory, tmp_path):
    return shutil.copytree(run_directory, tmp_path / "copy")


def test_sections_come_in_order_and_every_link_has_its_place(page):
    html = page.read_text()
    assert tuple(re.findall(r'<h2 id="([a-z]+)"', html)) == SECTIONS
    assert set(re.findall(r'href="#([a-z]+)"', html)) <= set(SECTIONS)
    assert not re.search(r"<script|<link|https?://", html)


def test_first_page_has_question_answer_frequencies_and_warnings(page, run_directory):
    evaluation = read_json(run_directory / "evaluation" / "test.json")
    first = words(page).partition("Contents")[0]
    sensitivity, specificity = (evaluation["estimates"][key] for key in ("sensitivity", "specificity"))
    assert "What was asked." in first
    assert f"found {100 * sensitivity['value']:.1f} % of the pneumonias" in first
    assert f"cleared {100 * specificity['value']:.1f} % of the normal images" in first
    assert "Of 100 children with pneumonia" in first
    assert "Of 100 children without pneumonia" in first
    assert f"from {sensitivity['n']} images with pneumonia" in first
    assert "What it must not be used for" in first
    assert "does not rule out pneumonia" in first


def test_goals_carry_value_interval_and_verdict(page, run_directory):
    estimates = read_json(run_directory / "evaluation" / "test.json")["estimates"]
    text = words(page)
    for key in ("precision", "sensitivity", "f1"):
        item = estimates[key]
        state = "met" if item["value"] >= 0.9 else "not met"
        shown = f"0.90 {item['value']:.3f} ({item['low']:.3f} to {item['high']:.3f}) {item['n']} {state}"
        assert shown in text


def test_mistakes_are_shown_with_heat_maps(page, run_directory):
    evaluation = read_json(run_directory / "evaluation" / "test.json")
    wrong = evaluation["decisions"]["fn"] + evaluation["decisions"]["fp"]
    assert page.read_text().count('src="data:image/jpeg;base64,') == min(8, wrong) > 0
    assert re.search(r"(Missed|False alarm): reference \w+, probability of pneumonia 0\.\d{3}", words(page))


def test_provenance_names_hashes_seeds_versions_and_times(page, run_directory):
    manifest = read_json(run_directory / "run.json")
    text = words(page)
    for value in (manifest["inputs"]["dataset"], manifest["platform"], manifest["started"]):
        assert value in text
    assert "Seed: training 7" in text
    assert f"numpy {manifest['versions']['numpy']}" in text
    assert "Time: fit" in text


def test_limits_are_those_of_the_data_and_of_the_bundle(page):
    limits = words(page).rpartition("Limits of the data")[2]
    assert "No clinical histories" in limits
    assert "It knows nothing about pneumonia." in limits


def test_what_is_missing_is_said(page):
    text = words(page)
    assert "What this report lacks" in text
    assert "The data set has not been audited" in text


def test_the_page_goes_into_the_run_unless_told_otherwise(quick, copy):
    assert write_run_report(copy) == copy / "report" / "report.html"


def test_a_cross_validation_lists_its_folds(quick, tmp_path, dataset):
    text = words(write_run_report(write_cross_validation(tmp_path / "cv", dataset)))
    assert text.count("fold-0") == text.count("fold-1") == 1
    assert "Cross-validation of" in text
    assert "one threshold set beforehand" in text
    assert "Right of each image" in text


def test_validation_films_are_said_to_flatter(quick, tmp_path, dataset):
    directory = write_run(tmp_path / "run", dataset, RunOptions(scoring="validation"))
    first = words(write_run_report(directory)).partition("Contents")[0]
    assert "somewhat too good" in first
    assert f"pneumoscope evaluate {directory}/bundle DATASET -o {directory}/test" in first


def test_an_unfinished_run_is_said_to_be_unfinished(quick, tmp_path, dataset):
    directory = write_run(tmp_path / "run", dataset, RunOptions(outcome="running"))
    assert "Not finished." in words(write_run_report(directory)).partition("Contents")[0]


def test_phantoms_are_named_before_anything_else(quick, tmp_path):
    dataset = write_dataset(tmp_path / "data", 24)
    directory = write_run(tmp_path / "run", dataset)
    write_png(dataset.file(dataset.samples[0]), np.full((80, 96), 0.4, np.float32))
    text = words(write_run_report(directory))
    assert text.index("Synthetic images.") < text.index("In short")


def test_findings_of_the_audit_are_shown_by_severity(quick, tmp_path):
    dataset = write_dataset(tmp_path / "data", 24)
    findings = [
        {"severity": "danger", "kind": "leak", "text": "Seven patients are in two parts."},
        {"severity": "note", "kind": "balance", "text": "Most images are ill."},
    ]
    write_json(
        dataset.directory / "audit" / "audit.json",
        {"dataset": {"hash": "other"}, "findings": findings, "parts": "the publisher's folders"},
    )
    text = words(write_run_report(write_run(tmp_path / "run", dataset)))
    assert text.index("Seven patients") < text.index("Most images are ill.")
    assert "The audit was made of other images" in text
    assert "has not been audited" not in text


def test_without_films_there_are_no_mistakes_but_a_sentence(quick, tmp_path):
    dataset = write_dataset(tmp_path / "data", 24)
    directory = write_run(tmp_path / "run", dataset)
    shutil.rmtree(dataset.root)
    text = words(write_run_report(directory))
    assert "A mistake cannot be shown" in text
    shutil.rmtree(dataset.directory)
    text = words(write_run_report(directory))
    assert "Not shown: the predictions or the images are not at hand." in text
    assert "The data set is not at hand" in text


def test_without_a_bundle_mistakes_are_shown_bare(quick, copy):
    shutil.rmtree(copy / "bundle")
    text = words(write_run_report(copy))
    assert "Mistakes are shown without heat maps" in text
    assert "The bundle is not there" in text


def test_progress_is_told(quick, copy):
    calls = []
    write_run_report(copy, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k + 1, len(calls)) for k in range(len(calls))]
    assert calls


def test_no_run_is_refused_and_nothing_is_written(quick, tmp_path):
    with pytest.raises(InputError):
        write_run_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
