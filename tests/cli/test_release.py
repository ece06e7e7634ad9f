"""``pneumoscope release-check`` on phantoms: same images and budget for both, resumed, bad inputs refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from pneumoscope.cli import documents, release
from pneumoscope.core.errors import BundleError, ConfigError, DatasetError, InputError
from pneumoscope.core.files import read_json, write_json
from pneumoscope.core.records import Label
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.predictions import PredictionTable, read_predictions, write_predictions
from pneumoscope.evaluation.scoring import check_leakage
from pneumoscope.inference.bundle import load_bundle
from pneumoscope.learning import cross_validation
from pneumoscope.learning.training import TrainingSet, train
from tests.learning.phantoms import phantom_dataset, small_run

QUICK = ("--clusters", 1, "--folds", 3, "--stress-images", 25)
PARTS = ("fold/fold-0", "clusters/fold-0", "contrary/fold-0", "framing/fold-0")


def run(command: str, *arguments: object) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    release.register(app)
    documents.register(app)
    result = CliRunner().invoke(app, [command, *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def renamed(dataset: Dataset, directory: Path, **changes: object) -> Dataset:
    """The data set with patients of its own, in another folder."""
    samples = tuple(
        replace(s, patient_id=f"other-{s.patient_id}", group_id=f"other-{s.group_id}", **changes)  # type: ignore[arg-type]
        for s in dataset.samples
    )
    directory.mkdir()
    made = replace(dataset, directory=directory, name="elsewhere", samples=samples)
    made.save()
    return made


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, its twin at twice the size, images of elsewhere, and a bundle."""
    folder = tmp_path_factory.mktemp("phantoms")
    dataset = phantom_dataset(folder / "own", count=100)
    phantom_dataset(folder / "twins", count=100, size=64)
    renamed(phantom_dataset(folder / "other", count=12, seed=9), folder / "elsewhere")
    config = small_run(
        network="cnn-small", epochs=1, task="binary", name="phantom", checkpoint="last",
        augmentation={"sharpness_probability": 0.5, "rotation_degrees": 3.0},
    )  # fmt: skip
    films = TrainingSet(dataset, dataset.samples[:60], dataset.samples[60:80], {"method": "made up"})
    train(films, config, folder / "run")
    return folder


@pytest.fixture(scope="module")
def checked(phantoms: Path) -> tuple[Path, Result]:
    """A check that runs to its end, with everything that can be given."""
    out = phantoms / "out"
    result = run(
        "release-check", phantoms / "run" / "bundle", "--data", phantoms / "own" / "dataset", *QUICK,
        "--twins", phantoms / "twins" / "dataset", "--external", phantoms / "elsewhere", "-o", out,
    )  # fmt: skip
    return out, result


def test_every_view_is_in_the_result(phantoms: Path, checked: tuple[Path, Result]) -> None:
    out, result = checked
    document = read_json(out / "release.json")
    kinds = [view["kind"] for view in document["views"]]
    assert kinds == ["fold", "cluster", "contrary", "framing", "stress", "twins", "external"]
    votes = {view["kind"]: view["vote"] for view in document["views"]}
    assert votes["fold"] == "no vote"
    assert set(votes.values()) <= {"no vote", "worse", "not worse"}
    assert document["verdict"] == ("released" if "worse" not in votes.values() else "not released")
    assert result.exit_code == (0 if document["verdict"] == "released" else 1)
    assert document["bundle"] == load_bundle(phantoms / "run" / "bundle").id
    assert set(document["inputs"]) == {"bundle", "dataset", "twins", "external elsewhere"}
    assert len(document["changes"]) == 17
    assert document["shortened"] == ["all acquisition clusters", "all images under stress"]
    assert "A shortened check" in result.stdout
    assert [one["name"] for one in document["trainings"]] == list(PARTS)
    twins = next(view for view in document["views"] if view["kind"] == "twins")
    assert set(twins["changed"]) == {"candidate", "plain", "difference"}
    tested = read_predictions(out / "candidate" / "fold" / "fold-0" / "predictions" / "test.csv")
    assert twins["films"] == document["views"][0]["films"] == len(tested)
    assert next(view["films"] for view in document["views"] if view["kind"] == "external") == 12
    assert "framing" in result.stdout
    assert "<h1>Release check:" in (out / "release.html").read_text(encoding="utf-8")
    manifest = read_json(out / "run.json")
    assert (manifest["command"], manifest["outcome"]) == ("release-check", "done")
    assert str(phantoms) not in (out / "release.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("part", PARTS)
def test_both_recipes_get_the_same_images_and_budget(
    phantoms: Path, checked: tuple[Path, Result], part: str
) -> None:
    out, _ = checked
    runs = [out / recipe / part for recipe in ("candidate", "plain")]
    splits = [(run / "split.csv").read_text() for run in runs]
    assert splits[0] == splits[1]
    tables = [read_predictions(run / "predictions" / "test.csv") for run in runs]
    assert tables[0].paths == tables[1].paths
    candidate, plain = (read_json(run / "config.json") for run in runs)
    budget = ("network", "init", "size", "epochs", "patience", "batch_size", "learning_rate", "task", "seed")
    assert {key: candidate[key] for key in budget} == {key: plain[key] for key in budget}
    assert candidate["augmentation"]["sharpness_probability"] == 0.5
    assert (plain["augmentation"]["sharpness_probability"], plain["checkpoint"]) == (0.0, "best")
    steps = [(run / "history.csv").read_text().splitlines() for run in runs]
    assert len(steps[0]) == len(steps[1]) == 2
    samples = {sample.path: sample for sample in Dataset.open(phantoms / "own" / "dataset").samples}
    for run_folder, table in zip(runs, tables, strict=True):
        bundle = load_bundle(run_folder / "bundle")
        assert check_leakage(bundle.document, [samples[path] for path in table.paths]) == ()


def test_contrary_images_leave_with_their_patients(phantoms: Path, checked: tuple[Path, Result]) -> None:
    out, _ = checked
    group = {s.path: s.group_id for s in Dataset.open(phantoms / "own" / "dataset").samples}
    folder = out / "plain" / "contrary" / "fold-0"
    learnt = [line.split(",")[0] for line in (folder / "split.csv").read_text().splitlines()[1:]]
    tested = read_predictions(folder / "predictions" / "test.csv").paths
    assert not {group[path] for path in learnt} & {group[path] for path in tested}


def test_a_stopped_check_goes_on(
    phantoms: Path, checked: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is finished is read; what is missing is trained; the result is the same."""
    out, _ = checked
    before = read_json(out / "release.json")
    (out / "plain" / "contrary" / "fold-0" / "predictions" / "test.csv").unlink()
    trained = []
    real = cross_validation.train

    def counting(films, config, folder, listener):
        trained.append(folder.relative_to(out).as_posix())
        return real(films, config, folder, listener)

    monkeypatch.setattr(cross_validation, "train", counting)
    arguments = (
        phantoms / "run" / "bundle", "--data", phantoms / "own" / "dataset", *QUICK,
        "--twins", phantoms / "twins" / "dataset", "--external", phantoms / "elsewhere", "-o", out,
    )  # fmt: skip
    again = json.loads(run("release-check", *arguments, "--json").stdout)
    assert trained == ["plain/contrary/fold-0"]
    assert {**again, "when": None} == {**before, "when": None}


def worsened(table: PredictionTable) -> PredictionTable:
    """The table of a network that calls everything what it is not."""
    wrong = np.where(table.positive, 0.01, 0.99) + np.linspace(0, 0.005, len(table))
    both = np.column_stack([1 - wrong, wrong])
    return replace(table, probabilities=both)


def righted(table: PredictionTable) -> PredictionTable:
    """The table of a network that is always right."""
    right = np.where(table.positive, 0.99, 0.01) + np.linspace(0, 0.005, len(table))
    return replace(table, probabilities=np.column_stack([1 - right, right]))


def put(out: Path, part: str, candidate_is_worse: bool) -> None:
    """Let one recipe be always right and the other always wrong about a part's images."""
    makers = (worsened, righted) if candidate_is_worse else (righted, worsened)
    for recipe, make in zip(("candidate", "plain"), makers, strict=True):
        file = out / recipe / part / "predictions" / "test.csv"
        write_predictions(file, make(read_predictions(file)))


def test_a_worse_view_refuses_and_the_ordinary_fold_cannot(
    phantoms: Path, checked: tuple[Path, Result]
) -> None:
    out, _ = checked
    arguments = (phantoms / "run" / "bundle", "--data", phantoms / "own" / "dataset", *QUICK, "-o", out)
    for part in PARTS:
        put(out, part, candidate_is_worse=part == "fold/fold-0")
    result = run("release-check", *arguments, "--json")
    document = json.loads(result.stdout)
    votes = {view["key"]: view["vote"] for view in document["views"]}
    assert document["views"][0]["difference"]["value"] == -1.0
    assert votes["fold"] == "no vote"
    stress = next(view for view in document["views"] if view["kind"] == "stress")
    assert document["worse"] == ([stress["key"]] if stress["vote"] == "worse" else [])
    put(out, "framing/fold-0", candidate_is_worse=True)
    result = run("release-check", *arguments)
    assert result.exit_code == 1
    document = read_json(out / "release.json")
    assert document["verdict"] == "not released"
    assert "framing" in document["worse"]
    assert "Not released" in result.stdout
    card = run("card", phantoms / "run" / "bundle", "--release", out / "release.json").stdout
    assert "## Release check" in card
    assert "**Not released:**" in card
    assert "| Contrary by framing |" in card


def test_the_card_refuses_the_check_of_another_bundle(
    phantoms: Path, checked: tuple[Path, Result], tmp_path: Path
) -> None:
    out, _ = checked
    with pytest.raises(InputError, match="another bundle"):
        run("card", "reference", "--release", out / "release.json")
    bundle = phantoms / "run" / "bundle"
    with pytest.raises(InputError, match="cannot be read"):
        run("card", bundle, "--release", tmp_path / "missing.json")
    write_json(tmp_path / "other.json", {"verdict": "pass"})
    with pytest.raises(InputError, match="not a release check"):
        run("card", bundle, "--release", tmp_path / "other.json")


def test_bad_inputs_are_named_before_anything_is_trained(phantoms: Path, tmp_path: Path) -> None:
    bundle, own, out = phantoms / "run" / "bundle", phantoms / "own" / "dataset", tmp_path / "out"
    other = phantoms / "other" / "dataset"
    sick = Dataset.open(phantoms / "elsewhere")
    ill_only = replace(sick, directory=tmp_path / "ill", samples=tuple(
        sample for sample in sick.samples if sample.label is not Label.NORMAL))  # fmt: skip
    ill_only.directory.mkdir()
    ill_only.save()
    renamed(Dataset.open(other), tmp_path / "labels", label=Label.NORMAL)
    cases = (
        (BundleError, "another data set", (bundle, "--data", other)),
        (BundleError, "weights", ("reference", "--data", own)),
        (DatasetError, "no such file", (bundle, "--data", own, "--external", tmp_path / "missing")),
        (
            DatasetError,
            "in the data set too",
            (bundle, "--data", own, "--external", other),
        ),
        (
            DatasetError,
            "only images with pneumonia",
            (bundle, "--data", own, "--external", ill_only.directory),
        ),
        (InputError, "the same label", (bundle, "--data", own, "--twins", tmp_path / "labels")),
        (ConfigError, "4 of 3 folds", (bundle, "--data", own, "--folds", 3, "--run-folds", 4)),
    )
    for kind, message, arguments in cases:
        with pytest.raises(kind, match=message) as caught:
            run("release-check", *arguments, "-o", out)
        assert caught.value.exit_code == 2
    assert not out.exists()
    write_json(tmp_path / "used" / "run.json", {"command": "train"})
    with pytest.raises(InputError, match="another run"):
        run("release-check", bundle, "--data", own, "-o", tmp_path / "used")
