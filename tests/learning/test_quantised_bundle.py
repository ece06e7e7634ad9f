"""The 8-bit twin of a bundle: near its original, calibrated anew, made from the bundle's own images alone."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from pneumoscope.core.errors import BundleError, ConfigError, DatasetError
from pneumoscope.core.files import read_json, sha256_file, write_json
from pneumoscope.data.cache import build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.splits import SplitConfig, split_dataset, split_file
from pneumoscope.evaluation.calibration import choose_calibration
from pneumoscope.evaluation.operating_points import choose_operating_points
from pneumoscope.evaluation.scoring import predict_films
from pneumoscope.inference.bundle import load_bundle, write_bundle
from pneumoscope.inference.pipeline import examine
from pneumoscope.inference.prediction import calibrated_probabilities, run_network
from pneumoscope.learning.quantisation import METHOD, own_films, quantise, quantise_model
from pneumoscope.learning.training import TrainingSet, train

from .phantoms import phantom_dataset, small_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set, a run on its default split, and the twin of the run's bundle."""
    folder = tmp_path_factory.mktemp("quantised")
    dataset = phantom_dataset(folder)
    split = split_dataset(dataset, SplitConfig(validation=0.3, train=0.5, test=0.2))
    split.save(split_file(dataset.directory))
    films = TrainingSet(
        dataset,
        split.samples(dataset, "train"),
        split.samples(dataset, "validation"),
        {"method": "fractions"},
    )
    bundle = train(films, small_run(epochs=1), folder / "run")
    counted = []
    twin = quantise(
        bundle, films, folder / "twin", progress=lambda done, total: counted.append((done, total))
    )
    pixels = np.concatenate(list(build_cache(dataset, bundle.preprocessing).batches(dataset.samples, 16)))
    return SimpleNamespace(
        folder=folder,
        dataset=dataset,
        split=split,
        films=films,
        bundle=bundle,
        twin=twin,
        counted=counted,
        pixels=pixels,
    )


def moved(bundle, directory, **changes):
    """The bundle outside of its run; ``changes`` replace keys of ``training``, None removes one."""
    training = {**bundle.document["training"], **changes}
    training = {key: value for key, value in training.items() if value is not None}
    document = {**bundle.document, "training": training}
    return write_bundle(directory, bundle.directory / "model.onnx", document, bundle.arrays)


def test_weights_are_int8_with_a_scale_a_channel_and_the_head_is_float(made):
    graph = onnx.load(made.twin.directory / "model.onnx").graph
    kinds = {item.name: (item.data_type, tuple(item.dims)) for item in graph.initializer}
    weights = [
        node.input for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in kinds
    ]
    convolutions = [names for names in weights if len(kinds[names[0]][1]) == 4]
    assert len(convolutions) == sum(node.op_type == "Conv" for node in graph.node) > 1
    for name, scale, _ in convolutions:
        kind, shape = kinds[name]
        assert kind == onnx.TensorProto.INT8
        assert kinds[scale][1] == shape[:1]
    head = next(node for node in graph.node if "logits" in node.output)
    assert kinds[head.input[1]][0] == onnx.TensorProto.FLOAT


def test_outputs_are_near_those_of_the_original(made):
    (logits, features), (quantised, rounded) = (
        run_network(bundle, made.pixels) for bundle in (made.bundle, made.twin)
    )
    spread = logits.std(axis=0).max()
    assert 0 < np.sqrt(np.mean((quantised - logits) ** 2)) < 0.1 * spread
    assert np.corrcoef(features.ravel(), rounded.ravel())[0, 1] > 0.995


def test_the_heat_map_is_where_the_logits_came_from(made):
    logits, features = run_network(made.twin, made.pixels)
    np.testing.assert_array_equal(made.twin.arrays["head_weight"], made.bundle.arrays["head_weight"])
    bias = logits - features.mean(axis=(2, 3)) @ made.twin.arrays["head_weight"].T
    np.testing.assert_allclose(bias, np.broadcast_to(bias[0], bias.shape), atol=1e-4)
    film = made.dataset.file(made.films.validation[0])
    explanation = examine(film, made.twin, force=True).explanation
    assert explanation.method == "class-activation"
    assert explanation.heat_map.max() > 0


def test_what_validation_films_decide_is_decided_again(made):
    cache = build_cache(made.dataset, made.twin.preprocessing)
    table = predict_films(made.twin, cache, made.films.validation)
    targets = np.array([made.twin.task.target(sample.label) for sample in made.films.validation])
    found = made.twin.document["calibration"]
    expected = choose_calibration(table.logits.astype(np.float32), targets, table.patient_ids)
    assert found["method"] == expected["method"]
    probabilities = [calibrated_probabilities(table.logits, one) for one in (found, expected)]
    np.testing.assert_allclose(*probabilities, atol=1e-6)
    assert found != made.bundle.document["calibration"]
    assert made.twin.document["selection"]["patients"] == made.bundle.document["selection"]["patients"]
    points = choose_operating_points(table.probability, table.positive)
    assert made.twin.document["operating_points"] != made.bundle.document["operating_points"]
    assert [point.threshold for point in made.twin.operating_points.values()] == pytest.approx(
        [point.threshold for point in points]
    )
    assert made.twin.document["gate"]["n"] == len(made.films.validation)
    assert made.twin.document["gate"]["warn_distance"] != made.bundle.document["gate"]["warn_distance"]
    assert made.twin.document["validation"]["roc_auc"]["n"] == len(made.films.validation)


def test_the_document_says_where_it_came_from(made):
    document, original = made.twin.document, made.bundle.document
    assert document["name"] == "run-int8"
    assert document["derived_from"]["id"] == made.bundle.id
    assert document["derived_from"]["method"] == METHOD
    assert document["derived_from"]["calibration_films"] == len(made.films.training)
    for key in ("task", "classes", "network", "preprocessing", "explanation", "training", "limitations"):
        assert document[key] == original[key]
    # Every training image is seen twice (ranges, gate), every validation image once.
    total = 2 * len(made.films.training) + len(made.films.validation)
    assert made.counted[-1] == (total, total)


def test_the_same_films_give_the_same_bytes(made, tmp_path):
    again = quantise(made.bundle, made.films, tmp_path / "again", "other")
    model = "model.onnx"
    assert sha256_file(again.directory / model) == sha256_file(made.twin.directory / model)
    assert again.id == f"other@{made.twin.id.partition('@')[2]}"
    assert again.document["calibration"] == made.twin.document["calibration"]


def test_the_ranges_come_from_the_films(made, tmp_path):
    quantise_model(made.bundle.directory / "model.onnx", [made.pixels[:2] / 4], tmp_path / "dark.onnx")
    assert sha256_file(tmp_path / "dark.onnx") != sha256_file(made.twin.directory / "model.onnx")


def test_a_whole_network_can_be_quantised(made, tmp_path):
    quantise_model(
        made.bundle.directory / "model.onnx", [made.pixels], tmp_path / "all.onnx", keep_head=False
    )
    graph = onnx.load(tmp_path / "all.onnx").graph
    kinds = {item.name: item.data_type for item in graph.initializer}
    floats = [name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT and "weight" in name]
    assert [name for name in floats if not name.endswith("_scale")] == []


def test_the_films_are_found_by_run_by_split_and_by_hash(made, tmp_path):
    elsewhere = moved(made.bundle, tmp_path / "elsewhere")
    for found in (
        own_films(made.bundle, made.dataset),
        own_films(elsewhere, made.dataset),
        own_films(elsewhere, made.dataset, run=made.folder / "run"),
        own_films(elsewhere, made.dataset, split="default"),
    ):
        assert found.training == made.films.training
        assert found.validation == made.films.validation


def test_a_bundle_that_does_not_name_its_validation_films_needs_a_run_or_a_split(made, tmp_path):
    old = moved(made.bundle, tmp_path / "old", validation_films=None)
    with pytest.raises(ConfigError, match="--run, or the split of the data set with --split"):
        own_films(old, made.dataset)
    assert own_films(old, made.dataset, split="default").validation == made.films.validation
    with pytest.raises(ConfigError, match=r"no split\.csv"):
        own_films(old, made.dataset, run=tmp_path)


def test_films_of_another_split_are_refused(made):
    other = split_dataset(made.dataset, SplitConfig(validation=0.3, train=0.5, test=0.2, seed=3))
    other.save(split_file(made.dataset.directory, "other"))
    with pytest.raises(
        DatasetError, match=r"not the images of run@\w+: \d+ of its images are missing, \d+ are"
    ):
        own_films(made.bundle, made.dataset, split="other")


def test_films_in_the_other_part_are_refused(made, tmp_path):
    swapped = replace(made.films, training=made.films.validation, validation=made.films.training)
    with pytest.raises(DatasetError, match="0 of its images are missing, 0 are others"):
        quantise(made.bundle, swapped, tmp_path / "no")
    # The same counts: only the list of validation images can tell.
    first, second = made.films.training[0], made.films.validation[0]
    traded = replace(
        made.films,
        training=(second, *made.films.training[1:]),
        validation=(first, *made.films.validation[1:]),
    )
    with pytest.raises(DatasetError, match="2 were in the other part"):
        quantise(made.bundle, traded, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_data_set_without_some_of_the_films_is_refused(made):
    some = made.dataset.samples[:40]
    fewer = Dataset(made.dataset.directory, made.dataset.root, "fewer", "csv", some)
    with pytest.raises(DatasetError, match="images are missing, 0 are others"):
        own_films(made.bundle, fewer)


def test_a_twin_has_no_twin(made, tmp_path):
    with pytest.raises(BundleError, match="quantised already"):
        quantise(made.twin, made.films, tmp_path / "no")


def test_a_damaged_origin_is_refused(made, tmp_path):
    document = {**made.twin.document, "derived_from": "reference"}
    with pytest.raises(BundleError, match="'derived_from' is 'reference'"):
        write_bundle(tmp_path / "no", made.twin.directory / "model.onnx", document, made.twin.arrays)


def test_a_cross_validation_is_compared_out_of_fold(tmp_path_factory, dataset):
    from pneumoscope.evaluation.predictions import read_predictions
    from pneumoscope.learning.cross_validation import cross_validate
    from pneumoscope.learning.quantisation import QuantiseConfig, quantise_folds

    folder = tmp_path_factory.mktemp("folds")
    cross_validate(dataset, small_run(network="cnn-9", epochs=1), folder / "cv", 2)
    told = []
    comparison = quantise_folds(
        folder / "cv", dataset, folder / "int8", QuantiseConfig(), lambda *count: told.append(count)
    )
    before, after = (
        read_predictions(folder / kind / "predictions" / "cross-validation.csv") for kind in ("cv", "int8")
    )
    assert after.paths == before.paths
    assert told == [(1, 2), (2, 2)]
    for number in (0, 1):
        twin = load_bundle(folder / "int8" / f"fold-{number}" / "bundle")
        source = load_bundle(folder / "cv" / f"fold-{number}" / "bundle")
        assert twin.document["derived_from"]["id"] == source.id
    changed = np.mean((before.probability >= 0.5) != (after.probability >= 0.5))
    assert comparison["changed_decisions"]["value"] == pytest.approx(changed)
    accuracy = {kind: comparison["estimates"][kind]["accuracy"]["value"] for kind in ("float32", "int8")}
    assert accuracy["float32"] == np.mean((before.probability >= 0.5) == before.positive)
    assert comparison["int8_minus_float32"]["accuracy"]["difference"] == pytest.approx(
        accuracy["int8"] - accuracy["float32"]
    )
    written = folder / "int8" / "evaluation"
    assert read_json(written / "comparison.json") == comparison
    assert read_json(written / "cross-validation.json")["estimates"] == comparison["estimates"]["int8"]
    # Called again, it reads what is there.
    stamp = (folder / "int8" / "fold-0" / "bundle" / "bundle.json").stat().st_mtime_ns
    assert quantise_folds(folder / "cv", dataset, folder / "int8", QuantiseConfig()) == comparison
    assert (folder / "int8" / "fold-0" / "bundle" / "bundle.json").stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match="another configuration"):
        quantise_folds(folder / "cv", dataset, folder / "int8", QuantiseConfig(name="new"))
    smaller = Dataset(dataset.directory, dataset.root, "smaller", "csv", dataset.samples[:50])
    with pytest.raises(DatasetError, match="not the images of"):
        quantise_folds(folder / "cv", smaller, folder / "smaller", QuantiseConfig())


def test_a_folder_without_folds_is_no_cross_validation(tmp_path, dataset):
    from pneumoscope.core.errors import InputError
    from pneumoscope.learning.quantisation import QuantiseConfig, quantise_folds

    write_json(tmp_path / "run.json", {"command": "cross-validate"})
    with pytest.raises(InputError, match="no finished fold"):
        quantise_folds(tmp_path, dataset, tmp_path / "out", QuantiseConfig())
