"""Which images are scored, and that every scoring of a test set is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pneumoscope.core.errors import ConfigError, DatasetError
from pneumoscope.core.records import Label, Sample
from pneumoscope.data.cache import build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.splits import SplitConfig, split_dataset, split_file
from pneumoscope.evaluation.scoring import choose_films, count_scoring, predict_films
from pneumoscope.inference.prediction import calibrated_probabilities, run_network

from ..tiny_bundle import SIZE, write_tiny_bundle
from .films import draw_samples, draw_table, sample


def _dataset(directory: Path, samples: list[Sample]) -> Dataset:
    return Dataset(directory, directory, "made-up", "folders", tuple(samples))


def test_a_data_set_that_was_never_split_is_scored_whole(tmp_path: Path) -> None:
    films = choose_films(_dataset(tmp_path, draw_samples(6)))
    assert (len(films.samples), films.part, films.protocol) == (6, "all", "all images, not split")


def test_the_publishers_test_part_is_the_default_where_there_is_one(tmp_path: Path) -> None:
    parts = ["train", "train", "val", "test", "test", "test"]
    samples = [replace(one, publisher_split=part) for one, part in zip(draw_samples(6), parts, strict=True)]
    dataset = _dataset(tmp_path, samples)
    assert choose_films(dataset).samples == tuple(samples[3:])
    assert choose_films(dataset).protocol == "publisher's split, part test"
    assert choose_films(dataset, "validation").samples == (samples[2],)
    assert choose_films(dataset, "all").samples == dataset.samples
    assert choose_films(dataset, "all").protocol == (
        "all images, the publisher's parts test and train and val together"
    )


@pytest.mark.parametrize(
    ("config", "part", "protocol"),
    [
        (SplitConfig(seed=3), None, "re-split by patient (seed 3), part test"),
        (SplitConfig(method="k-fold", folds=2), "fold-1", "k-fold split by patient (seed 0), part fold-1"),
    ],
)
def test_a_saved_split_wins(tmp_path: Path, config: SplitConfig, part: str | None, protocol: str) -> None:
    dataset = _dataset(tmp_path, draw_samples(60))
    split = split_dataset(dataset, config)
    split.save(split_file(tmp_path, "default"))
    films = choose_films(dataset, part)
    assert films.samples == split.samples(dataset, part or "test")
    assert films.protocol == protocol


def test_a_part_that_is_not_there_is_said(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, draw_samples(4))
    with pytest.raises(DatasetError, match="no part 'test'"):
        choose_films(dataset, "test")
    with pytest.raises(DatasetError, match="no such split"):
        choose_films(dataset, "test", "mine")
    with pytest.raises(ConfigError, match="cannot name a split"):
        choose_films(dataset, "test", "../mine")


def test_scorings_are_counted_by_bundle_and_by_what_the_films_show(tmp_path: Path) -> None:
    ledger, table = tmp_path / "scorings.json", draw_table(10)
    assert count_scoring(ledger, "a@1", table, "test") == 1
    assert count_scoring(ledger, "b@2", table, "test") == 1
    assert count_scoring(ledger, "a@1", table.select(np.arange(5)), "test") == 1
    reversed_and_renamed = replace(table.select(np.arange(10)[::-1]), paths=tuple("0123456789"))
    assert count_scoring(ledger, "a@1", reversed_and_renamed, "all") == 2
    assert count_scoring(ledger, "a@1", table, "test") == 3


def test_a_damaged_ledger_is_not_silently_started_again(tmp_path: Path) -> None:
    for content in ("[{", "[1]", '[{"bundle": 1}]'):
        (tmp_path / "scorings.json").write_text(content)
        with pytest.raises(DatasetError, match="ledger"):
            count_scoring(tmp_path / "scorings.json", "a@1", draw_table(2), "test")


def test_predictions_are_the_networks_in_the_order_of_the_samples(tmp_path: Path) -> None:
    from PIL import Image

    from pneumoscope.core.files import sha256_file

    rng = np.random.default_rng(0)
    samples = []
    for number in range(21):
        file = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 12 * number + 2, (SIZE, SIZE), dtype=np.uint8)).save(file)
        samples.append(replace(sample(number, Label.VIRAL), path=file.name, sha256=sha256_file(file)))
    dataset = _dataset(tmp_path, samples)
    bundle = write_tiny_bundle(tmp_path / "bundle", calibration={"method": "temperature", "temperature": 2.0})
    cache = build_cache(dataset, bundle.preprocessing, workers=1)
    calls: list[tuple[int, int]] = []
    table = predict_films(
        bundle, cache, samples[::-1], progress=lambda done, total: calls.append((done, total))
    )
    assert table.paths == tuple(f"{number}.png" for number in range(20, -1, -1))
    assert calls[-1] == (21, 21)
    pixels = np.stack([np.asarray(Image.open(dataset.file(one))) for one in samples[::-1]])
    logits, _ = run_network(bundle, (pixels[:, None] / 255).astype(np.float32))
    np.testing.assert_allclose(table.logits, logits, atol=0.01)
    expected = calibrated_probabilities(table.logits, {"method": "temperature", "temperature": 2.0})
    np.testing.assert_array_equal(table.probabilities, expected)
