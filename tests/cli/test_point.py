"""``pneumoscope point`` from the command line."""

import json

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from pneumoscope.cli import point
from pneumoscope.core.errors import DatasetError, LeakageError
from pneumoscope.data.importers import import_dataset
from pneumoscope.evaluation.scoring import film_key
from tests.films import write_film
from tests.tiny_bundle import document, write_tiny_bundle


@pytest.fixture
def played(tmp_path):
    """One image with a bright lesion on the left, and its mask."""
    file = write_film(tmp_path / "films" / "BACTERIA" / "a.png", 0.7)
    write_film(tmp_path / "films" / "NORMAL" / "b.png", 0.2)
    pixels = np.asarray(Image.open(file)).copy()
    mask = np.zeros(pixels.shape, np.uint8)
    pixels[40:80, :80] = mask[40:80, :80] = 255
    Image.fromarray(pixels).save(file)
    (tmp_path / "films-masks" / "BACTERIA").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "films-masks" / "BACTERIA" / "a.png")
    return import_dataset(tmp_path / "films", tmp_path / "dataset")


def run(bundle, dataset, *options):
    app = typer.Typer()
    point.register(app)
    result = CliRunner().invoke(app, [str(bundle.directory), str(dataset.directory), *map(str, options)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_hits_as_a_table_and_as_json(played, tmp_path):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    table = run(bundle, played)
    assert "bacterial" in table
    assert "100.0%" in table
    found = json.loads(run(bundle, played, "--json"))
    assert (found["bundle"], found["dataset_hash"]) == (bundle.id, played.hash)
    assert found["classes"]["bacterial"]["hit"]["value"] == found["mean"]["near"] == 1.0
    assert 1 / 6 < found["classes"]["bacterial"]["energy"] < 1  # the lesion is a sixth of the image


def test_films_without_masks_and_films_that_were_trained_on_are_refused(played, tmp_path):
    with pytest.raises(DatasetError, match="no image has a lesion mask"):
        run(write_tiny_bundle(tmp_path / "tiny"), played, "--masks", tmp_path)
    training = document()["training"] | {"films": [film_key(played.samples[0].sha256)]}
    with pytest.raises(LeakageError, match="1 of 2 images"):
        run(write_tiny_bundle(tmp_path / "knowing", training=training), played)
