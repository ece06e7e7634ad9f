"""Training on lung fields: the crop moves on the image, and the bundle carries its segmenter."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pneumoscope.core.errors import BundleError
from pneumoscope.data.cache import build_cache
from pneumoscope.imaging.preprocessing import middle, to_model_input
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.inference.bundle import load_bundle
from pneumoscope.inference.pipeline import examine
from pneumoscope.inference.schema import check_document
from pneumoscope.learning.augmentation import augment, to_unit
from pneumoscope.learning.config import AugmentationConfig
from pneumoscope.learning.training import train, training_set

from .phantoms import phantom_dataset, small_run

STILL = AugmentationConfig(
    rotation_degrees=0, translation=0, scale=0, aspect=0, shear_degrees=0, brightness=0, contrast=0, gamma=0,
    noise=0, soften_probability=0, erasing_probability=0, border_probability=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return phantom_dataset(tmp_path_factory.mktemp("phantoms"), size=96)


@pytest.fixture(scope="module")
def bundle(dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    return train(training_set(dataset), small_run(fit="lungs", epochs=1), run)


def test_the_cache_gives_the_model_inputs(dataset):
    preprocessing = small_run(fit="lungs").preprocessing
    cache = build_cache(dataset, preprocessing)
    assert cache.pixels.shape[1:] == (44, 44)
    (batch,) = cache.batches(dataset.samples[:3], 8)
    for film, sample in zip(batch, dataset.samples, strict=False):
        seen = to_model_input(read_radiograph(dataset.file(sample)), preprocessing)
        np.testing.assert_allclose(film, seen.array, atol=1 / 255)


def test_without_changes_augmentation_gives_the_middle():
    films = torch.randint(0, 256, (2, 44, 44), generator=torch.Generator().manual_seed(1)).byte()
    wanted = to_unit(torch.from_numpy(middle(films.numpy(), 32)))
    for config in (STILL, AugmentationConfig(enabled=False)):
        found = augment(films, config, torch.Generator().manual_seed(0), 32)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_shift_brings_in_what_lies_beside_the_crop():
    films = torch.zeros(200, 44, 44, dtype=torch.uint8)
    films[:, :, 38:] = 255  # six pixels beside the crop on the right
    config = STILL.model_copy(
        update={"translation": 0.18}
    )  # up to 5.8 pixels; the strip begins after 38 - 38
    found = augment(films, config, torch.Generator().manual_seed(0), 32)
    shown = found[:, 0].amax(dim=(1, 2)) > 0.5
    assert 0.3 < shown.float().mean() < 0.7


def test_the_bundle_answers_with_its_own_segmenter(bundle, dataset):
    assert bundle.preprocessing.segmenter == bundle.directory / "lungs.onnx"
    assert bundle.document["preprocessing"]["fit"] == "lungs"
    examination = examine(dataset.file(dataset.samples[0]), bundle, force=True)
    explanation = examination.explanation
    assert explanation.heat_map.shape == examination.image.shape
    rows, columns = np.nonzero(explanation.heat_map)
    if len(rows):
        top, left, bottom, right = to_model_input(
            read_radiograph(dataset.file(dataset.samples[0])), bundle.preprocessing
        ).geometry.crop
        assert top <= rows.min() <= rows.max() < bottom
        assert left <= columns.min() <= columns.max() < right


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_a_bundle_without_its_segmenter_is_refused(bundle, tmp_path, damage):
    for file in bundle.directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if damage == "missing":
        (tmp_path / "lungs.onnx").unlink()
    else:
        (tmp_path / "lungs.onnx").write_bytes(b"another")
    with pytest.raises(BundleError, match=r"lungs\.onnx"):
        load_bundle(tmp_path)


def test_withdrawn_settings_are_read_where_they_ask_for_nothing():
    assert AugmentationConfig(body_probability=0.0, hidden_lungs_probability=0.0) == AugmentationConfig()
    with pytest.raises(ValidationError):
        AugmentationConfig(body_probability=0.1)


@pytest.mark.parametrize(
    ("place", "values"),
    [
        ("preprocessing", {"segmenter": None}),
        ("preprocessing", {"segmenter": ""}),
        ("gate", {"lungs": {}}),
        ("gate", {"lungs": {"warn_distance": 0.0, "refuse_distance": 1.0}}),
    ],
)
def test_a_document_that_says_nothing_of_the_lungs_is_refused(bundle, place, values):
    document = {**bundle.document, place: {**bundle.document[place], **values}}
    with pytest.raises(BundleError, match=r"segmenter|lungs"):
        check_document(document, bundle.directory)
