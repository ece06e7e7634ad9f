"""``pneumoscope predict`` from the command line: three faces of an answer, exit codes, folders, heat maps."""

import csv
import io
import json

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from pneumoscope.cli import predict
from pneumoscope.cli.explanations import Explainer
from pneumoscope.cli.film_files import FilmFiles
from pneumoscope.core.errors import BundleError, ConfigError
from pneumoscope.core.files import sha256_file
from pneumoscope.core.records import Task
from pneumoscope.data.importers import import_dataset
from pneumoscope.inference.bundle import write_bundle
from pneumoscope.inference.neighbours import fit_neighbours
from tests.films import write_film
from tests.tiny_bundle import arrays, document, write_model, write_tiny_bundle

KEYS = {
    "file", "sha256", "gate", "probability", "probability_interval", "probabilities", "decision",
    "abstained_by", "answer_set", "etiology", "etiology_set", "operating_point", "threshold", "reasons",
    "forced", "bundle",
    "explanation", "heatmap", "warnings", "error", "schema_version", "findings",
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def run(bundle):
    app = typer.Typer()
    predict.register(app)

    def invoke(*arguments, code=0):
        result = CliRunner().invoke(app, [*map(str, arguments), "--bundle", str(bundle.directory)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return invoke


@pytest.fixture
def films(tmp_path):
    """A positive and a negative image, one that the gate refuses, a broken one and a text."""
    folder = tmp_path / "films"
    write_film(folder / "a-ill.png", 0.8)
    write_film(folder / "b-well.PNG", 0.2)
    Image.new("L", (100, 100), 128).save(folder / "c-blank.png")
    (folder / "d-broken.png").write_bytes((folder / "a-ill.png").read_bytes()[:99])
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_people_get_a_line_a_film(run, films):
    result = run(films, code=2)
    ill, well, blank, broken = result.stdout.splitlines()
    assert ill.startswith(f"{films / 'a-ill.png'}: POSITIVE, bacterial; probability of pneumonia 9")
    assert "NEGATIVE; probability of pneumonia" in well
    assert well.endswith("(balanced: from 70.0 %)")
    assert blank == f"{films / 'c-blank.png'}: ABSTAIN, refused: the image is blank"
    assert broken.startswith(f"{films / 'd-broken.png'}: error: the image cannot be decoded")
    expected = "1 positive, 1 negative, 1 refused, 1 unreadable, 1 other files skipped. tiny@"
    assert result.stderr.startswith(expected)
    assert "not for primary diagnosis" in result.stderr


def test_machines_get_an_object_a_film(run, films, bundle):
    result = run("--json", films, code=2)
    ill, well, blank, broken = (json.loads(line) for line in result.stdout.splitlines())
    assert all(set(row) == KEYS for row in (ill, well, blank, broken))
    assert ill["file"] == str(films / "a-ill.png")
    assert ill["sha256"] == sha256_file(films / "a-ill.png")
    assert ill["gate"]["verdict"] == "ANSWER"
    assert ill["gate"]["scores"]["feature_distance"] < ill["gate"]["scores"]["warn_distance"]
    assert set(ill["probabilities"]) == {"normal", "bacterial", "viral"}
    assert ill["probability"] == pytest.approx(1 - ill["probabilities"]["normal"])
    assert (ill["decision"], ill["etiology"], ill["operating_point"]) == ("POSITIVE", "BACTERIAL", "balanced")
    assert (ill["bundle"], ill["threshold"], ill["error"]) == (bundle.id, 0.7, None)
    assert (well["decision"], well["etiology"]) == ("NEGATIVE", None)
    assert (blank["decision"], blank["gate"]["verdict"]) == ("ABSTAIN", "REFUSE")
    assert (blank["abstained_by"], ill["abstained_by"], ill["answer_set"]) == ("gate", None, None)
    assert (blank["probability"], blank["probabilities"], blank["operating_point"]) == (None, None, None)
    assert (broken["decision"], broken["sha256"], broken["gate"]) == (None, None, None)
    assert "cannot be decoded" in broken["error"]


def test_tables_have_a_column_a_class(run, films):
    rows = list(csv.DictReader(io.StringIO(run("--csv", films, code=2).stdout)))
    assert [row["decision"] for row in rows] == ["POSITIVE", "NEGATIVE", "ABSTAIN", ""]
    assert sum(float(rows[0][f"p_{name}"]) for name in Task.THREE_CLASS.classes) == pytest.approx(1)
    assert (rows[2]["probability"], rows[2]["p_viral"]) == ("", "")
    assert rows[2]["gate_reasons"] == "the image is blank"
    assert rows[3]["error"]


def test_a_doubtful_film_is_told_apart_from_a_refused_one(films, tmp_path):
    careful = write_tiny_bundle(
        tmp_path / "careful" / "tiny",
        selection={"error_rate": 0.025, "pneumonia_from": 0.01, "normal_to": 0.999},
        etiology={"error_rate": 0.15, "bacterial_from": 0.1, "viral_to": 0.99},
    )
    app = typer.Typer()
    predict.register(app)

    def invoke(*arguments):
        return CliRunner().invoke(app, [*arguments, str(films), "--bundle", str(careful.directory)])

    result = invoke()
    doubtful, blank = result.stdout.splitlines()[0], result.stdout.splitlines()[2]
    assert "ABSTAIN; probability of pneumonia 9" in doubtful
    assert doubtful.endswith("neither answer can be excluded at an error rate of 2.5 %")
    assert "ABSTAIN, refused" in blank
    assert "probability" not in blank
    assert result.stderr.startswith("2 abstained, 1 refused, 1 unreadable")
    row = json.loads(invoke("--json").stdout.splitlines()[0])
    assert (row["decision"], row["abstained_by"], row["etiology"]) == ("ABSTAIN", "selection", None)
    assert row["answer_set"] == {"answers": ["normal", "pneumonia"], "error_rate": 0.025}
    assert row["probability"] > 0.9
    table = list(csv.DictReader(io.StringIO(invoke("--csv").stdout)))
    assert [row["abstained_by"] for row in table] == ["selection", "selection", "gate", ""]
    assert (table[0]["answer_set"], table[2]["answer_set"]) == ("normal; pneumonia", "")
    assert table[0]["reasons"] == row["reasons"][0]


def test_refused_and_answered_films_alone_are_success(run, films):
    (films / "d-broken.png").unlink()
    run(films)
    run(films / "c-blank.png")


def test_a_missing_file_is_reported_and_the_rest_goes_on(run, films, tmp_path):
    result = run("--json", tmp_path / "missing.png", films / "a-ill.png", code=2)
    missing, ill = (json.loads(line) for line in result.stdout.splitlines())
    assert "there is no such file" in missing["error"]
    assert ill["decision"] == "POSITIVE"


def test_a_fault_of_ours_is_exit_code_1(run, films, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("pneumoscope.inference.pipeline.inspect_source", fails)
    assert "unexpected ZeroDivisionError" in run(films / "a-ill.png", code=1).stdout


def test_force_answers_and_says_so(run, films):
    row = json.loads(run("--json", "--force", films / "c-blank.png").stdout)
    assert row["forced"]
    assert row["gate"]["verdict"] == "REFUSE"
    assert row["probability"] == pytest.approx(2 / 3, abs=0.02)
    assert "FORCED although refused" in run("--force", films / "c-blank.png").stdout
    assert not json.loads(run("--json", "--force", films / "a-ill.png").stdout)["forced"]


def test_another_operating_point(run, films):
    row = json.loads(run("--json", "--operating-point", "sensitive", films / "a-ill.png").stdout)
    assert (row["operating_point"], row["threshold"]) == ("sensitive", 0.6)
    with pytest.raises(ConfigError, match="one of balanced, sensitive"):
        run("--operating-point", "lucky", films / "a-ill.png")


def test_heat_maps_lie_on_the_films_grid_and_refused_films_have_none(run, films, tmp_path):
    maps = tmp_path / "out" / "maps"
    lines = run("--json", "--heatmaps", maps, films, code=2).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["heatmap"] is None for row in rows] == [False, False, True, True]
    assert sorted(str(file) for file in maps.iterdir()) == sorted(row["heatmap"] for row in rows[:2])
    with Image.open(rows[0]["heatmap"]) as image:
        assert image.width == 160
        assert image.height > 120  # the legend is below the image
        assert np.ptp(np.asarray(image).astype(int), axis=2).max() > 50


def test_explanations_are_told_where_they_are_asked_for(run, films):
    assert json.loads(run("--json", films / "a-ill.png").stdout)["explanation"] is None
    ill, well, blank, broken = (
        json.loads(line)["explanation"]
        for line in run("--json", "--explain", films, code=2).stdout.splitlines()
    )
    assert (ill["target"], ill["method"], ill["nearest"]) == ("bacterial", "class-activation", None)
    assert "evidence for bacterial pneumonia" in ill["sentence"]
    assert sum(ill["zones"].values()) + (ill["outside_lungs"] or 0) == pytest.approx(1)
    assert (well["sentence"], well["zones"]) == ("No zone stands out.", {})
    assert (blank, broken) == (None, None)
    lines = run("--explain", films / "b-well.PNG").stdout.splitlines()
    assert lines[1:] == ["  No zone stands out.", "  Nearest training images: the bundle keeps none."]
    row = next(csv.DictReader(io.StringIO(run("--csv", "--explain", films / "b-well.PNG").stdout)))
    assert row["evidence"] == "No zone stands out."


def test_styles_and_classes_of_heat_maps(run, films, tmp_path):
    film = films / "a-ill.png"
    widths = {}
    for style, kind in (("overlay", "viral"), ("side-by-side", "auto"), ("contour", "both")):
        options = ("--heatmap-style", style, "--heatmap-class", kind)
        row = json.loads(run("--json", "--heatmaps", tmp_path / style, *options, film).stdout)
        with Image.open(row["heatmap"]) as image:
            widths[style] = image.width
    assert widths == {"overlay": 160, "side-by-side": 320, "contour": 320}


def test_a_class_that_the_bundle_does_not_tell_is_refused(tmp_path):
    binary = write_tiny_bundle(tmp_path / "binary", Task.BINARY)
    with pytest.raises(ConfigError, match="does not tell viral pneumonia"):
        Explainer(binary, None, ("overlay", "viral"), None)
    assert Explainer(binary, None, ("overlay", "both"), None).classes == ("pneumonia",)


def test_alike_films_are_looked_up_in_a_local_data_set(run, films, tmp_path):
    with pytest.raises(ConfigError, match="keeps no codes of its training images"):
        run("--dataset", tmp_path, films / "a-ill.png")
    twin = write_film(tmp_path / "training" / "BACTERIA" / "twin.png", 0.75)
    write_film(tmp_path / "training" / "NORMAL" / "other.png", 0.2)
    dataset = import_dataset(tmp_path / "training", tmp_path / "dataset")
    hashes = [sample.sha256 for sample in dataset.samples] + ["f" * 64]
    features = np.array([[0.75, -0.75], [0.2, -0.3], [0.5, -0.1]])
    kept, codes = fit_neighbours(features, hashes, [1, 0, 2])
    model = write_model(tmp_path / "model.onnx")
    bundle = write_bundle(tmp_path / "knowing", model, document(neighbours=kept), {**arrays(), **codes})
    app = typer.Typer()
    predict.register(app)
    words = [str(films / "a-ill.png"), "--bundle", str(bundle.directory), "--dataset", str(dataset.directory)]
    nearest = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["explanation"]["nearest"]
    assert [case["label"] for case in nearest] == ["bacterial", "normal", "viral"]
    assert [case["path"] for case in nearest] == [
        str(twin),
        str(tmp_path / "training/NORMAL/other.png"),
        None,
    ]
    assert nearest[0]["film"] == sha256_file(twin)[:16]
    plain, drawn = tmp_path / "plain", tmp_path / "drawn"
    text = CliRunner().invoke(app, [*words, "--heatmaps", str(drawn)]).stdout
    assert f"Most alike among the training images: bacterial 1.00 ({twin}), normal" in text
    CliRunner().invoke(app, [*words[:3], "--heatmaps", str(plain)])
    sizes = []
    for folder in (plain, drawn):
        with Image.open(next(folder.iterdir())) as image:
            sizes.append(image.height)
    assert sizes[1] > sizes[0] + 40


def test_a_heat_map_folder_that_cannot_be_made_is_refused_at_once(run, films):
    with pytest.raises(ConfigError, match="cannot be made"):
        run("--heatmaps", films / "notes.txt" / "maps", films)


def test_folders_are_entered_only_when_asked(run, films):
    write_film(films / "deep" / "deeper" / "e-ill.png", 0.8)
    assert len(run(films, code=2).stdout.splitlines()) == 4
    lines = run("-r", films, code=2).stdout.splitlines()
    assert len(lines) == 5
    assert "deeper/e-ill.png: POSITIVE" in lines[-1]


def test_a_folder_without_films_is_an_error_but_does_not_stop_the_rest(run, films, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("")
    result = run(empty, films / "a-ill.png", code=2)
    assert "POSITIVE" in result.stdout
    assert "error: no image in this folder" in result.stderr
    assert str(empty) in result.stderr


def test_films_of_a_folder_are_told_by_extension_or_as_dicom(tmp_path):
    for name in ("a.jpeg", "b.TIF", "c.dcm", ".hidden.png", "d.txt", "e", "1.2.840.7"):
        (tmp_path / name).write_bytes(b"nothing")
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "1.2.840.5").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "empty").write_bytes(b"")
    files = FilmFiles([tmp_path])
    assert [file.name for file in files] == ["1.2.840.5", "IM0001", "a.jpeg", "b.TIF", "c.dcm"]
    assert files.skipped == 4
    assert (files.count(), files.skipped) == (5, 4)
    assert [file.name for file in FilmFiles([tmp_path / "d.txt"])] == ["d.txt"]


def test_both_forms_at_once_are_refused(run, films):
    with pytest.raises(ConfigError, match="exclude each other"):
        run("--json", "--csv", films)


def test_an_unknown_bundle_is_refused(films):
    app = typer.Typer()
    predict.register(app)
    result = CliRunner().invoke(app, [str(films), "--bundle", "nonesuch"])
    assert isinstance(result.exception, BundleError)


def test_a_binary_bundle_has_two_probabilities(films, tmp_path):
    app = typer.Typer()
    predict.register(app)
    binary = write_tiny_bundle(tmp_path / "binary", Task.BINARY)
    arguments = ["--json", str(films / "a-ill.png"), "--bundle", str(binary.directory)]
    row = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert set(row["probabilities"]) == {"normal", "pneumonia"}
    assert (row["decision"], row["etiology"]) == ("POSITIVE", None)


def test_what_the_gate_says_of_the_image_is_not_said_again(run, tmp_path):
    colours = np.random.default_rng(0).random((60, 80, 3)).cumsum(axis=0)
    file = tmp_path / "colour.png"
    Image.fromarray(np.rint(255 * colours / colours.max()).astype(np.uint8)).save(file)
    row = json.loads(run("--json", "--force", file).stdout)
    codes = [finding["code"] for finding in row["findings"]]
    assert codes.count("colour") == 1
    assert row["findings"][codes.index("colour")]["severity"] == "refusal"
    assert all(finding["message"] for finding in row["findings"])
    assert run("--force", file).stdout.count("in colour") == 1
