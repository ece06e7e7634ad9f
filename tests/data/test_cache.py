"""The pixel cache holds every image once, survives a killed build and notices images that changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.records import Preprocessing
from pneumoscope.data import cache as cache_module
from pneumoscope.data.cache import CacheWriter, PixelCache, build_cache, cache_directory
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.decoding import decode_films
from pneumoscope.data.importers import import_dataset
from tests.data.films import write_film, write_kaggle

SMALL = Preprocessing(size=32)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return import_dataset(write_kaggle(tmp_path / "films", normals=3, persons=1), tmp_path / "set")


def test_an_import_leaves_the_default_cache(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "decode_films", lambda files, *a, **k: iter(()))
    pixels = build_cache(dataset, Preprocessing())
    assert pixels.pixels.shape == (10, 224, 224)


def test_rows_follow_the_samples(dataset: Dataset) -> None:
    calls: list[tuple[int, int]] = []
    cache = build_cache(dataset, SMALL, workers=1, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (10, 10)
    assert cache.pixels.shape == (10, 32, 32)
    assert cache.pixels.dtype == np.uint8
    assert not cache.pixels.flags.writeable
    backwards = dataset.samples[::-1]
    for sample, row in zip(backwards, cache.rows(backwards), strict=True):
        (film,) = decode_films([dataset.file(sample)], SMALL)
        np.testing.assert_array_equal(cache.pixels[row], film.pixels)


def test_a_film_that_is_not_there_is_told(dataset: Dataset) -> None:
    cache = build_cache(dataset, SMALL)
    with pytest.raises(DatasetError, match=r"1 images are not in the cache, the first is new\.png"):
        cache.rows([replace(dataset.samples[0], path="new.png", sha256="0" * 64)])


def test_equal_films_share_a_row(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_film(tmp_path / "films" / "normal" / name, 1)
    dataset = import_dataset(tmp_path / "films", tmp_path / "set")
    cache = build_cache(dataset, SMALL)
    assert len(cache) == 1
    assert cache.rows(dataset.samples).tolist() == [0, 0]


def test_a_build_that_was_killed_goes_on(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.array(build_cache(dataset, SMALL).pixels)
    directory = cache_directory(dataset.directory, SMALL)
    # As a kill leaves it: one row of pixels without its line, another half written, a line cut short.
    lines = (directory / "index.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "index.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    pixels = (directory / "pixels.u8").read_bytes()
    (directory / "pixels.u8").write_bytes(pixels[: 5 * 32 * 32 + 100])
    opened: list[int] = []

    def counted(files: list[Path], *args: Any, **kwargs: Any) -> Iterator[Any]:
        opened.append(len(files))
        return decode_films(files, *args, **kwargs)

    monkeypatch.setattr(cache_module, "decode_films", counted)
    np.testing.assert_array_equal(build_cache(dataset, SMALL).pixels, whole)
    assert opened == [6]


def test_lines_without_pixels_are_cut(dataset: Dataset) -> None:
    whole = np.array(build_cache(dataset, SMALL).pixels)
    directory = cache_directory(dataset.directory, SMALL)
    (directory / "pixels.u8").write_bytes((directory / "pixels.u8").read_bytes()[: 3 * 32 * 32 - 1])
    with pytest.raises(DatasetError, match="cannot be mapped"):
        PixelCache(directory, SMALL)
    np.testing.assert_array_equal(build_cache(dataset, SMALL).pixels, whole)


def test_a_film_that_changed_is_told(dataset: Dataset) -> None:
    write_film(dataset.file(dataset.samples[0]), 999)
    with pytest.raises(DatasetError, match="has changed since it was imported"):
        build_cache(dataset, SMALL)
    dataset.file(dataset.samples[0]).unlink()
    with pytest.raises(DatasetError, match="import the data set again"):
        build_cache(dataset, SMALL)


def test_only_one_process_writes(tmp_path: Path) -> None:
    with (
        CacheWriter(tmp_path, SMALL),
        pytest.raises(DatasetError, match="another process"),
        CacheWriter(tmp_path, SMALL),
    ):
        pass
    with CacheWriter(tmp_path, SMALL) as writer:
        assert writer.facts == {}


def test_no_cache(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no pixel cache"):
        PixelCache(tmp_path, SMALL)


def test_a_finished_cache_is_read_while_another_process_holds_it(dataset: Dataset) -> None:
    build_cache(dataset, SMALL)
    with CacheWriter(cache_directory(dataset.directory, SMALL), SMALL):
        assert len(build_cache(dataset, SMALL)) == 10
