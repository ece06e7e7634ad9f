"""Images are decoded in their order whatever the number of processes; a bad file stops nothing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.files import sha256_file
from pneumoscope.core.records import Preprocessing
from pneumoscope.data import decoding
from pneumoscope.data.decoding import DecodedFilm, decode_films
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.imaging.radiograph import read_radiograph
from tests.data.films import write_film

SMALL = Preprocessing(size=32)


class CrashingJob(decoding._Job):
    """Takes its process down on a file called ``crash.png``."""

    def decode(self, file: Path) -> DecodedFilm:
        if file.name == "crash.png":
            os._exit(3)
        return super().decode(file)


class RaisingJob(decoding._Job):
    """Cannot even be unpickled in a worker."""

    def __setstate__(self, state: object) -> None:
        raise RuntimeError("no worker")


def test_pixels_are_the_rounded_model_input(tmp_path: Path) -> None:
    file = write_film(tmp_path / "a.png", 1, 48)
    (film,) = decode_films([file], SMALL)
    array = to_model_input(read_radiograph(file, min_size=32), SMALL).array[0]
    assert film.pixels is not None
    assert film.pixels.dtype == np.uint8
    np.testing.assert_array_equal(film.pixels, np.rint(array * 255))
    assert film.facts is not None
    assert (film.facts.width, film.facts.height) == (48, 48)
    assert (film.sha256, film.file_bytes) == (sha256_file(file), file.stat().st_size)


def test_a_known_film_is_hashed_only(tmp_path: Path) -> None:
    file = write_film(tmp_path / "a.png", 1)
    (film,) = decode_films([file], SMALL, known=frozenset([sha256_file(file)]))
    assert film.error is None
    assert film.sha256 == sha256_file(file)
    assert film.pixels is None


def test_bad_files_come_back_with_their_reason(tmp_path: Path) -> None:
    good = write_film(tmp_path / "good.jpeg", 1)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "half.jpeg").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (tmp_path / "folder.png").mkdir()
    names = ("empty.png", "text.png", "half.jpeg", "folder.png", "gone.png", "good.jpeg")
    films = list(decode_films([tmp_path / name for name in names], SMALL))
    assert [film.file.name for film in films] == list(names)
    assert [bool(film.error) for film in films] == [True] * 5 + [False]
    assert "empty" in (films[0].error or "")
    assert "expected" in (films[1].error or "")


def test_processes_give_what_one_process_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a decoder that dies takes only its own image with it."""
    monkeypatch.setattr(decoding, "_FILMS_WORTH_A_WORKER", 1)
    monkeypatch.setattr(decoding, "_CHUNK", 3)
    files = [write_film(tmp_path / f"{number}.png", number, 32) for number in range(8)]
    plain = list(decode_films(files, SMALL, workers=1))
    files.insert(4, write_film(tmp_path / "crash.png", 99))
    monkeypatch.setattr(decoding, "_Job", CrashingJob)
    films = list(decode_films(files, SMALL, workers=2))
    assert [film.file for film in films] == files
    assert films[4].error == "the decoder crashed on this file"
    del films[4]
    assert [film.sha256 for film in films] == [film.sha256 for film in plain]
    for film, other in zip(films, plain, strict=True):
        np.testing.assert_array_equal(film.pixels, other.pixels)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_workers_that_cannot_start_are_no_films_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_FILMS_WORTH_A_WORKER", 1)
    monkeypatch.setattr(decoding, "_Job", RaisingJob)
    files = [write_film(tmp_path / f"{number}.png", number, 32) for number in range(2)]
    with pytest.raises(PneumoscopeError, match="no worker process can be started"):
        list(decode_films(files, SMALL, workers=2))
