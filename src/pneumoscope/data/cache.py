"""Pixel cache: decoded images in one memory-mapped array, so that training never decodes an image twice.

``DATASET/cache/<key of the preprocessing>/`` holds ``pixels.u8`` (raw rows of C * C bytes) and
``index.jsonl`` (one line a row: hash, size, header fields), both append-only. Rows are keyed by the hash
of the file's content; a build that was killed goes on behind its last whole row.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.files import write_json
from pneumoscope.core.records import FloatArray, Preprocessing, Progress, Sample
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.decoding import DecodedFilm, FilmFacts, decode_films
from pneumoscope.imaging.preprocessing import described, fingerprint, middle

_ROWS_A_FLUSH = 64


def cache_directory(dataset_directory: Path, preprocessing: Preprocessing) -> Path:
    """Where the cache of ``preprocessing`` lies."""
    return Path(dataset_directory) / "cache" / fingerprint(preprocessing)


class PixelCache:
    """A finished cache, read-only.

    Attributes:
        pixels: (N, C, C) uint8 memory map, round(255 * model input) in the middle (S, S); round it lies what
            augmentation may move into it (``Preprocessing.margin``).
        preprocessing: what the pixels were made with.
    """

    def __init__(self, directory: Path, preprocessing: Preprocessing) -> None:
        self.directory = Path(directory)
        self.preprocessing = preprocessing
        facts = read_index(self.directory)
        side = preprocessing.context
        self._shapes = np.array([fact.lungs for fact in facts], np.float64)
        self._rows: Mapping[str, int] = {fact.sha256: row for row, fact in enumerate(facts)}
        try:
            self.pixels: npt.NDArray[np.uint8] = np.memmap(
                self.directory / "pixels.u8", np.uint8, mode="r", shape=(len(facts), side, side)
            )
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"the pixel cache cannot be mapped ({error})",
                where=directory,
                remedy="delete this folder; it is rebuilt",
            ) from error

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[FloatArray]:
        """The samples as model inputs, in their order: batches (at most ``size``, 1, S, S) in [0, 1].

        Raises:
            DatasetError: an image is not in the cache.
        """
        rows = self.rows(samples)
        for start in range(0, len(rows), size):
            films = self.pixels[rows[start : start + size]]
            pixels = middle(films, self.preprocessing.size).astype(np.float32)
            yield pixels[:, None] / np.float32(255)

    def lung_shapes(self, samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
        """(N, 15) shapes of the samples' lungs (``imaging.lungs.lung_shape``); (N, 0) without fit ``lungs``.

        Raises:
            DatasetError: an image is not in the cache.
        """
        return self._shapes[self.rows(samples)]

    def rows(self, samples: Sequence[Sample]) -> npt.NDArray[np.int64]:
        """The row of each sample, (len(samples),) int64.

        Raises:
            DatasetError: an image is not in the cache.
        """
        missing = [sample.path for sample in samples if sample.sha256 not in self._rows]
        if missing:
            raise DatasetError(
                f"{len(missing)} images are not in the cache, the first is {missing[0]}",
                where=self.directory,
                remedy="build the cache for this data set",
            )
        return np.fromiter((self._rows[sample.sha256] for sample in samples), np.int64, len(samples))


def build_cache(
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> PixelCache:
    """The cache of ``dataset`` under ``preprocessing``; only images that it lacks are decoded.

    Args:
        dataset: whose images.
        preprocessing: of the pixels.
        workers: processes that decode; None takes the number of processors.
        progress: called with the number of images done.

    Raises:
        DatasetError: an image has changed or cannot be read any more.
    """
    directory = cache_directory(dataset.directory, preprocessing)
    if finished := _finished(directory, preprocessing, dataset):
        return finished
    with CacheWriter(directory, preprocessing) as writer:
        first = {s.sha256: s for s in reversed(dataset.samples) if s.sha256 not in writer.facts}
        missing = sorted(first.values(), key=lambda sample: sample.path)
        total, done = len(dataset.samples), len(dataset.samples) - len(missing)
        files = [dataset.file(sample) for sample in missing]
        for sample, film in zip(missing, decode_films(files, preprocessing, workers=workers), strict=True):
            if film.sha256 != sample.sha256:
                raise DatasetError(
                    film.error or "the image has changed since it was imported",
                    where=film.file,
                    remedy="import the data set again",
                )
            writer.add(film)
            done += 1
            if progress:
                progress(done, total)
    return PixelCache(directory, preprocessing)


def _finished(directory: Path, preprocessing: Preprocessing, dataset: Dataset) -> PixelCache | None:
    """The cache when it holds every image, read without its lock: processes that only read never collide."""
    try:
        cache = PixelCache(directory, preprocessing)
        cache.rows(dataset.samples)
    except DatasetError:
        return None
    return cache


class CacheWriter:
    """Appends rows to a cache; one writer at a time.

    Attributes:
        facts: what is known of each cached image, by hash.
    """

    def __init__(self, directory: Path, preprocessing: Preprocessing) -> None:
        self.directory = Path(directory)
        self.preprocessing = preprocessing
        self.facts: dict[str, FilmFacts] = {}
        self._waiting: list[tuple[bytes, FilmFacts]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> CacheWriter:
        self.directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_only_writer(self.directory))
            self.facts = {fact.sha256: fact for fact in self._recover()}
            self._pixels = stack.enter_context(open(self.directory / "pixels.u8", "ab"))
            self._index = stack.enter_context(open(self.directory / "index.jsonl", "a", encoding="utf-8"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            self._flush()

    def add(self, film: DecodedFilm) -> None:
        """Append a decoded image, unless an image of the same content is there."""
        if film.facts is None or film.pixels is None or film.facts.sha256 in self.facts:
            return
        self.facts[film.facts.sha256] = film.facts
        self._waiting.append((film.pixels.tobytes(), film.facts))
        if len(self._waiting) >= _ROWS_A_FLUSH:
            self._flush()

    def _flush(self) -> None:
        """Pixels reach the disk before the lines that vouch for them."""
        if not self._waiting:
            return
        self._pixels.write(b"".join(row for row, _ in self._waiting))
        self._pixels.flush()
        os.fsync(self._pixels.fileno())
        self._index.writelines(json.dumps(asdict(facts)) + "\n" for _, facts in self._waiting)
        self._index.flush()
        self._waiting.clear()

    def _recover(self) -> list[FilmFacts]:
        """Cut both files back to their last whole common row."""
        write_json(self.directory / "preprocessing.json", described(self.preprocessing))
        pixels, index = self.directory / "pixels.u8", self.directory / "index.jsonl"
        pixels.touch()
        index.touch()
        row_bytes = self.preprocessing.context**2
        whole_rows = pixels.stat().st_size // row_bytes
        facts: list[FilmFacts] = []
        end = 0
        with open(index, "rb") as stream:
            for line in stream:
                if not line.endswith(b"\n") or len(facts) == whole_rows:
                    break
                facts.append(_to_facts(line))
                end += len(line)
        os.truncate(index, end)
        os.truncate(pixels, len(facts) * row_bytes)
        return facts


def read_index(directory: Path) -> list[FilmFacts]:
    """The lines of a cache's index, in the order of its rows.

    Raises:
        DatasetError: there is no cache.
    """
    try:
        with open(Path(directory) / "index.jsonl", "rb") as stream:
            return [_to_facts(line) for line in stream if line.endswith(b"\n")]
    except FileNotFoundError as error:
        raise DatasetError("no pixel cache", where=directory, remedy="build it with build_cache") from error


def _to_facts(line: bytes) -> FilmFacts:
    values = json.loads(line)
    return FilmFacts(**{**values, **{name: tuple(values[name]) for name in ("warnings", "lungs")}})


@contextlib.contextmanager
def _only_writer(directory: Path) -> Iterator[None]:
    """Hold the cache's lock; the system lets go of it when the process ends, however it ends.

    Raises:
        DatasetError: another process is writing.
    """
    with open(directory / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(
                "another process is building this cache", where=directory, remedy="wait until it is done"
            ) from error
        yield
