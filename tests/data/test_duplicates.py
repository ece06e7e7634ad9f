"""Exact and near duplicates are found, and no two images that merely look alike."""

from __future__ import annotations

import io
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageEnhance

from pneumoscope.data import duplicates as duplicates_module
from pneumoscope.data.duplicates import DuplicateGroup, find_duplicates, load_duplicates
from pneumoscope.data.importers import import_dataset
from tests.data.films import picture, write_film


def folder_of_films(folder: Path, count: int = 12) -> Path:
    """Different images of 224 pixels."""
    for number in range(count):
        write_film(folder / "normal" / f"{number:02d}.png", number, 224)
    return folder / "normal"


def grains(seed: int, side: int, brightness: int) -> npt.NDArray[np.float32]:
    """(224, 224) float32: ``side`` x ``side`` random values, enlarged and kept in [0, ``brightness``]."""
    values = np.random.default_rng(seed).integers(0, brightness, (side, side), dtype=np.uint8)
    image = Image.fromarray(values).resize((224, 224), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(image, np.float32), 0, brightness)


def test_exact_and_near_duplicates_are_found_and_nothing_else(tmp_path: Path) -> None:
    folder = folder_of_films(tmp_path / "films")
    film = Image.fromarray(picture(3, 224))
    (folder / "copy-of-00.png").write_bytes((folder / "00.png").read_bytes())
    Image.fromarray(picture(1, 224)).save(folder / "same-pixels-as-01.bmp")
    film.save(folder / "jpeg-of-03.jpeg", quality=60)
    ImageEnhance.Brightness(film.resize((448, 448), Image.Resampling.BICUBIC)).enhance(0.8).save(
        folder / "darker-and-larger-03.png"
    )
    groups = find_duplicates(import_dataset(tmp_path / "films", tmp_path / "set"))
    assert groups == (
        DuplicateGroup("exact", ("normal/00.png", "normal/copy-of-00.png")),
        DuplicateGroup("exact", ("normal/01.png", "normal/same-pixels-as-01.bmp")),
        DuplicateGroup(
            "near", ("normal/03.png", "normal/darker-and-larger-03.png", "normal/jpeg-of-03.jpeg")
        ),
    )


def test_films_that_share_their_outline_only_are_not_duplicates(tmp_path: Path) -> None:
    """Equal hashes, other structure: the perceptual hash alone would call these the same."""
    folder = tmp_path / "films" / "normal"
    folder.mkdir(parents=True)
    hashes = []
    for number in range(3):
        film = Image.fromarray((0.6 * grains(9, 6, 255) + 0.6 * grains(number, 56, 60)).astype(np.uint8))
        film.save(folder / f"{number}.png")
        hashes.append(imagehash.phash(film))
    assert max(hashes[0] - hashes[1], hashes[0] - hashes[2]) <= duplicates_module._HASH_DISTANCE
    assert find_duplicates(import_dataset(tmp_path / "films", tmp_path / "set")) == ()


def test_the_result_is_kept_for_the_same_films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of_films(tmp_path / "films", 3)
    (folder / "again.png").write_bytes((folder / "00.png").read_bytes())
    dataset = import_dataset(tmp_path / "films", tmp_path / "set")
    assert load_duplicates(dataset) is None
    calls: list[tuple[int, int]] = []
    found = find_duplicates(dataset, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (3, 3)
    assert load_duplicates(dataset) == found
    with monkeypatch.context() as patch:
        patch.delattr(duplicates_module, "_find")
        assert find_duplicates(dataset) == found
    (folder / "again.png").unlink()
    assert find_duplicates(import_dataset(tmp_path / "films", tmp_path / "set")) == ()


def test_close_hashes_crosses_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates_module, "_BLOCK", 4)
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 11, dtype=np.uint64)
    hashes[9] = hashes[2] ^ np.uint64(0b1011)
    hashes[10] = hashes[8] ^ np.uint64(1)
    assert duplicates_module._close_hashes(hashes).tolist() == [[2, 9], [8, 10]]


def test_blank_films_are_exact_duplicates_only(tmp_path: Path) -> None:
    for number in range(2):
        file = tmp_path / "films" / "normal" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (64, 64), 0).save(file)
    write_film(tmp_path / "films" / "normal" / "film.png", 1)
    groups = find_duplicates(import_dataset(tmp_path / "films", tmp_path / "set"))
    assert [group.kind for group in groups] == ["exact"]


@pytest.mark.parametrize("quality", [20, 50, 90])
def test_a_recompressed_copy_keeps_its_fine_structure(quality: int) -> None:
    film = Image.fromarray(picture(5, 224))
    stream = io.BytesIO()
    film.save(stream, "JPEG", quality=quality)
    ours, copy = (duplicates_module._fine_structure(image) for image in (film, Image.open(stream)))
    assert np.linalg.norm(ours) == pytest.approx(1)
    assert float(ours @ copy) > duplicates_module._CORRELATION
