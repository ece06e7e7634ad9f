"""A run directory: what it holds, that it goes on after a kill, and that it is never another run's."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pneumoscope.core.errors import ConfigError, DatasetError, InputError
from pneumoscope.core.files import read_json, sha256_bytes, write_json
from pneumoscope.core.records import Label, Task
from pneumoscope.core.run_manifest import RunManifest
from pneumoscope.data.cache import build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.splits import Split, SplitConfig, split_dataset, split_file
from pneumoscope.evaluation.predictions import read_predictions
from pneumoscope.inference.prediction import run_network
from pneumoscope.learning import training
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.networks import NetworkConfig, create_network
from pneumoscope.learning.training import TrainingSet, train, training_set

from ..data.films import sample
from .phantoms import SIDE, Killed, Listener, small_run


@pytest.fixture(scope="module")
def films(dataset):
    return training_set(dataset)


@pytest.fixture(scope="module")
def finished(films, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "run"
    listener = Listener()
    return SimpleNamespace(
        directory=directory, bundle=train(films, small_run(), directory, listener), listener=listener
    )


@pytest.fixture
def networks(monkeypatch):
    """Leave out the bundle, which takes longer than everything else; the networks that would go into it."""
    packaged = []

    def keep(network, *_):
        packaged.append(network)
        return SimpleNamespace(id=f"kept-{len(packaged)}")

    monkeypatch.setattr(training, "_package", keep)
    return packaged


def rows(file):
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_directory_is_enough_to_repeat_the_run(finished, films):
    names = {path.name for path in finished.directory.iterdir()}
    assert names == {
        "run.json", "config.json", "split.csv", "environment.txt", "history.csv", "checkpoints",
        "tensorboard", "predictions", "evaluation", "bundle",
    }  # fmt: skip
    run = read_json(finished.directory / "run.json")
    assert (run["command"], run["outcome"], run["seeds"]) == ("train", "done", {"training": 5})
    assert run["inputs"]["dataset"] == films.dataset.hash
    assert run["results"]["bundle"] == finished.bundle.id
    assert Path(run["results"]["dataset_directory"]) == films.dataset.directory.resolve()
    assert run["results"]["split_name"] == "default"
    assert set(run["durations_s"]) == {"cache", "network", "teachers", "fit", "package", "total"}
    assert TrainConfig(**read_json(finished.directory / "config.json")) == small_run()
    parts = Counter(row["part"] for row in rows(finished.directory / "split.csv"))
    assert parts == {"train": len(films.training), "validation": len(films.validation)}
    assert "torch==" in (finished.directory / "environment.txt").read_text()
    assert len(rows(finished.directory / "history.csv")) == 3


def test_the_bundle_answers_as_the_predictions_say(finished, films):
    table = read_predictions(finished.directory / "predictions" / "validation.csv")
    assert table.paths == tuple(s.path for s in films.validation)
    cache = build_cache(films.dataset, finished.bundle.preprocessing)
    pixels = cache.pixels[cache.rows(films.validation)]
    logits, features = run_network(finished.bundle, pixels[:, None].astype(np.float32) / 255)
    np.testing.assert_allclose(logits, table.logits, atol=1e-4)
    assert list(features.shape[1:]) == finished.bundle.document["network"]["feature_shape"] == [256, 4, 4]


def test_the_bundle_names_what_it_has_seen_and_nothing_else(finished, films):
    document = finished.bundle.document
    seen = [*films.training, *films.validation]
    assert document["training"]["films"] == sorted(s.sha256[:16] for s in seen)
    assert set(document["training"]["patients"]) == {sha256_bytes(s.patient_id.encode())[:16] for s in seen}
    tested = set(films.dataset.samples) - set(seen)
    assert tested
    assert not {s.sha256[:16] for s in tested} & set(document["training"]["films"])
    assert document["training"]["initial_weights"] == "random"
    assert document["training"]["split"] == {"name": "default", "method": "fractions", "seed": 0}
    assert document["preprocessing"]["size"] == SIDE
    assert document["explanation"]["method"] == "class-activation"
    assert finished.bundle.arrays["head_weight"].shape == (3, 256)


def test_thresholds_come_from_the_validation_films(finished):
    evaluation = read_json(finished.directory / "evaluation" / "validation.json")
    table = read_predictions(finished.directory / "predictions" / "validation.csv")
    assert evaluation["n"] == len(table)
    positive = table.probability[table.positive]
    for point in finished.bundle.operating_points.values():
        if point.sensitivity is not None:
            assert point.sensitivity == pytest.approx((positive >= point.threshold).mean())


def test_the_listener_hears_every_stage(finished):
    assert [stage.split()[0] for stage in finished.listener.stages] == ["building", "training", "writing"]
    assert len(finished.listener.epochs) == 3


def test_a_finished_run_is_not_repeated(finished, films):
    listener = Listener()
    before = (finished.directory / "run.json").read_bytes()
    assert train(films, small_run(), finished.directory, listener).id == finished.bundle.id
    assert listener.stages == listener.steps == []
    assert (finished.directory / "run.json").read_bytes() == before


def test_the_same_seed_gives_the_same_model_also_after_a_kill(finished, films, tmp_path):
    """The bundle's id holds the hash of the model file."""
    with pytest.raises(Killed):
        train(films, small_run(), tmp_path / "run", Listener(stop_at_step=5))
    assert read_json(tmp_path / "run" / "run.json")["outcome"] == "failed"
    assert train(films, small_run(), tmp_path / "run").id == finished.bundle.id
    assert read_json(tmp_path / "run" / "run.json")["outcome"] == "done"
    logits = [
        read_predictions(run / "predictions" / "validation.csv").logits
        for run in (finished.directory, tmp_path / "run")
    ]
    assert np.array_equal(*logits)


def test_a_run_stopped_while_packaging_goes_on_from_there(films, tmp_path, networks, monkeypatch):
    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(training, "_package", killed)
        with pytest.raises(Killed):
            train(films, small_run(network="mlp"), tmp_path)
    listener = Listener()
    train(films, small_run(network="mlp"), tmp_path, listener)
    assert listener.steps == []
    assert len(networks) == 1


@pytest.mark.parametrize("changes", [{"seed": 6}, {"learning_rate": 0.1}, {"augmentation": {"noise": 0.01}}])
def test_a_folder_of_another_configuration_is_refused(finished, films, changes):
    with pytest.raises(ConfigError, match="another configuration"):
        train(films, small_run(**changes), finished.directory)
    assert read_json(finished.directory / "run.json")["outcome"] == "done"


def test_a_folder_of_other_films_is_refused(finished, films, dataset):
    moved = replace(films, training=films.training[:-1], validation=(*films.validation, films.training[-1]))
    with pytest.raises(ConfigError, match="other images"):
        train(moved, small_run(), finished.directory)
    renamed = Dataset(dataset.directory, dataset.root, "other", "csv", dataset.samples[:-1])
    with pytest.raises(ConfigError, match="other images"):
        train(replace(films, dataset=renamed), small_run(), finished.directory)
    assert read_json(finished.directory / "run.json")["outcome"] == "done"


def test_a_folder_of_another_command_is_refused(films, tmp_path):
    write_json(tmp_path / "run.json", {"command": "evaluate", "outcome": "done"})
    with pytest.raises(ConfigError, match="another kind"):
        train(films, small_run(), tmp_path)
    assert read_json(tmp_path / "run.json")["command"] == "evaluate"


def test_a_run_killed_before_it_wrote_its_configuration_begins_anew(films, tmp_path, networks):
    config = small_run(network="mlp", epochs=1)
    RunManifest(tmp_path, "train", config.model_dump(mode="json")).save()
    assert train(films, config, tmp_path).id == "kept-1"
    assert (tmp_path / "config.json").exists()


def test_threads_and_the_callers_chance_are_as_before(films, tmp_path, networks):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(films, small_run(network="mlp", epochs=1), tmp_path)
    assert torch.equal(torch.rand(1), expected)


def made(*labels):
    """One image a label, each of its own patient."""
    return tuple(sample(f"{number}.png", str(number), label) for number, label in enumerate(labels))


N, B, V, P = Label.NORMAL, Label.BACTERIAL, Label.VIRAL, Label.PNEUMONIA


def test_films_of_unknown_etiology_teach_the_binary_task_only(dataset):
    both = TrainingSet(dataset, made(N, B, P, V), made(P, V, B, N), {})
    three, binary = both.usable(Task.THREE_CLASS), both.usable(Task.BINARY)
    assert [s.label for s in three.training] == [N, B, V]
    assert [s.label for s in three.validation] == [V, B, N]
    assert (binary.training, binary.validation) == (both.training, both.validation)


@pytest.mark.parametrize(
    ("training_labels", "validation_labels", "message"),
    [
        ((N, B, P), (N, B, V), "training part has no image of class viral"),
        ((N, B, V), (P, P), "validation part has no image of class normal, bacterial, viral"),
    ],
)
def test_a_class_without_films_is_named(dataset, training_labels, validation_labels, message):
    films = TrainingSet(dataset, made(*training_labels), made(*validation_labels), {})
    with pytest.raises(DatasetError, match=message):
        films.usable(Task.THREE_CLASS)


def test_a_missing_split_is_made_and_kept(dataset, films):
    split = Split.load(split_file(dataset.directory))
    assert films.training == split.samples(dataset, "train")
    assert films.validation == split.samples(dataset, "validation")
    assert training_set(dataset, seed=99).training == films.training, "the split that is there is used"
    groups = [{s.group_id for s in split.samples(dataset, part)} for part in split.names]
    assert not set.intersection(*groups)


@pytest.mark.parametrize(
    ("parts", "method"),
    [
        (("train", "test"), "publisher"),
        (("train", "train"), "fractions"),
        (("train", "test", None), "fractions"),
    ],
)
def test_the_publishers_split_is_taken_when_every_film_has_one(dataset, tmp_path, parts, method):
    given = tuple(
        replace(film, publisher_split=parts[number % len(parts)], group_id=film.path)
        for number, film in enumerate(dataset.samples)
    )
    copy = Dataset(tmp_path, dataset.root, "copy", "csv", given)
    assert training_set(copy).split["method"] == method


def test_a_split_of_another_name_is_not_made_on_the_way(dataset):
    with pytest.raises(DatasetError, match="no such split"):
        training_set(dataset, "defualt")


def test_another_split_is_taken_by_its_name(dataset):
    split = split_dataset(dataset, SplitConfig(seed=3), name="other")
    split.save(split_file(dataset.directory, "other"))
    films = training_set(dataset, "other")
    assert films.training == split.samples(dataset, "train")
    assert films.split == {"name": "other", "method": "fractions", "seed": 3}


def test_class_weights_make_classes_count_the_same():
    targets = np.array([0] * 6 + [1] * 3 + [2])
    weights = training._class_weights(targets, small_run(imbalance="weighted-loss"))
    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert (weights[torch.from_numpy(targets)].sum()).item() == pytest.approx(10)


@pytest.mark.parametrize(
    ("imbalance", "weighted", "balanced"),
    [("weighted-loss", True, False), ("sampler", False, True), ("none", False, False)],
)
def test_imbalance_is_met_once(films, tmp_path, networks, monkeypatch, imbalance, weighted, balanced):
    seen = {}

    def look(network, config, data, *_):
        seen.update(weights=data.class_weights, balanced=data.training.order.balanced)

    monkeypatch.setattr(training, "fit", look)
    train(films, small_run(network="mlp", imbalance=imbalance), tmp_path)
    assert (seen["weights"] is not None, seen["balanced"]) == (weighted, balanced)


def test_the_binary_task(films, tmp_path, networks):
    train(films, small_run(task="binary", epochs=1), tmp_path)
    assert networks[0].head_weight().shape == (2, 256)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Weights of a network with other classes, as a local file."""
    torch.manual_seed(7)
    file = tmp_path_factory.mktemp("weights") / "cnn-9.safetensors"
    network = create_network(NetworkConfig(name="cnn-9", classes=5))
    for block in network.blocks()[:-1]:
        block[1].running_mean.uniform_(-0.1, 0.1)
    save_file(network.state_dict(), file)
    return network, file


@pytest.mark.parametrize(
    ("stage", "changes", "trained"),
    [
        ("frozen", {}, 1),
        ("fine-tune-last", {"last_blocks": 2}, 3),
        ("staged", {"epochs": 1}, 1),
        ("staged", {"unfreeze": [{"epoch": 0, "blocks": 0}, {"epoch": 1, "blocks": 4}]}, 5),
        ("staged", {"unfreeze": [{"epoch": 0, "blocks": 0}, {"epoch": 1, "blocks": -1}]}, 9),
        ("full", {}, 9),
    ],
)
def test_a_stage_changes_what_it_trains_and_nothing_else(
    films, tmp_path, networks, pretrained, stage, changes, trained
):
    start, file = pretrained
    train(films, small_run(stage=stage, init=str(file), **{"epochs": 2, **changes}), tmp_path)
    # Not the best epoch's weights, which may be from before a block was unfrozen.
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    networks[0].load_state_dict(last)
    body = list(zip(networks[0].blocks()[:-1], start.blocks()[:-1], strict=True))
    changed = [
        not all(
            torch.equal(a, b)
            for a, b in zip(new.state_dict().values(), old.state_dict().values(), strict=True)
        )
        for new, old in body
    ]
    assert changed == [False] * (9 - trained) + [True] * (trained - 1)
    assert len(rows(tmp_path / "history.csv")) == changes.get("epochs", 2)


def test_a_frozen_run_learns_from_features(films, tmp_path, networks, pretrained):
    train(
        films,
        small_run(
            stage="frozen", init=str(pretrained[1]), epochs=30, patience=30, learning_rate=0.02, dropout=0
        ),
        tmp_path,
    )
    losses = [float(row["train_loss"]) for row in rows(tmp_path / "history.csv")]
    # Features of random filters say little, but something.
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.01


def test_the_runs_record_where_the_weights_came_from(films, tmp_path, networks, pretrained):
    train(films, small_run(init=str(pretrained[1]), epochs=1), tmp_path)
    assert "cnn-9.safetensors" in read_json(tmp_path / "run.json")["results"]["initial_weights"]


def test_weights_of_another_network_are_refused(films, tmp_path, pretrained):
    with pytest.raises(InputError, match="fill"):
        train(films, small_run(network="cnn-14", init=str(pretrained[1])), tmp_path)
    assert read_json(tmp_path / "run.json")["outcome"] == "failed"


def test_a_network_without_published_weights(films, tmp_path, networks):
    with pytest.raises(ConfigError, match="no published weights for 'mlp'"):
        train(films, small_run(network="mlp", init="hub"), tmp_path / "hub")
    train(films, small_run(network="mlp", init="auto", epochs=1), tmp_path / "auto")
    assert read_json(tmp_path / "auto" / "run.json")["results"]["initial_weights"] == "random"
