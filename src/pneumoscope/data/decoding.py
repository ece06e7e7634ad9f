"""Decode image files in parallel worker processes: hash, size and model input, each file opened once.

A file that cannot be read comes back with its reason; so does one whose decoder takes its whole process down.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import PneumoscopeError, UnreadableFileError
from pneumoscope.core.files import sha256_file
from pneumoscope.core.findings import messages
from pneumoscope.core.records import Preprocessing
from pneumoscope.imaging.lungs import lung_findings, lung_shape
from pneumoscope.imaging.preprocessing import to_training_input
from pneumoscope.imaging.radiograph import read_radiograph

_CHUNK = 16  # images a task: long enough to hide the cost of passing it, short enough for a smooth bar
_FILMS_WORTH_A_WORKER = 48  # starting a process costs about as much as decoding this many images


@dataclass(frozen=True, slots=True)
class FilmFacts:
    """What opening an image told: hash, stored width and height in pixels, header fields, warnings, and where
    the preprocessing looks for lungs their shape (:func:`pneumoscope.imaging.lungs.lung_shape`).
    """

    sha256: str
    width: int
    height: int
    source: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    lungs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class DecodedFilm:
    """An image after opening.

    Attributes:
        file: what was opened; file_bytes: its length; sha256: of its content, None when it cannot be read.
        facts, pixels: (C, C) uint8, round(255 * training input); both None when the image failed or was
            known.
        error: why the image cannot be used, or None.
    """

    file: Path
    file_bytes: int = 0
    sha256: str | None = None
    facts: FilmFacts | None = None
    pixels: npt.NDArray[np.uint8] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Job:
    preprocessing: Preprocessing
    known: frozenset[str]

    def decode(self, file: Path) -> DecodedFilm:
        try:
            file_bytes = file.stat().st_size
            digest = sha256_file(file)
            if digest in self.known:
                return DecodedFilm(file, file_bytes, digest)
            radiograph = read_radiograph(file, min_size=self.preprocessing.source_size)
        except UnreadableFileError as error:
            return DecodedFilm(file, error=_reason(error))
        except Exception as error:  # whatever a decoder trips over is told as this image's problem
            return DecodedFilm(file, error=f"{type(error).__name__}: {error}")
        array, lungs = to_training_input(radiograph, self.preprocessing)
        height, width = radiograph.original_size
        findings = (*radiograph.findings, *lung_findings(lungs))
        shape = () if lungs is None else tuple(lung_shape(lungs).tolist())
        facts = FilmFacts(digest, width, height, dict(radiograph.source), messages(findings), shape)
        return DecodedFilm(file, file_bytes, digest, facts, np.rint(array * 255).astype(np.uint8))


def _reason(error: UnreadableFileError) -> str:
    return f"{error.problem} (expected {error.expected})" if error.expected else error.problem


_job: _Job | None = None  # set in worker processes only


def _start_worker(job: _Job) -> None:
    """One thread a process (the processes are the parallelism), and no life without the parent."""
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted import is the parent's to end
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

    threadpool_limits(1)
    _job = job


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers to stop; they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _decode_chunk(files: Sequence[Path]) -> list[DecodedFilm]:
    assert _job is not None
    return [_job.decode(file) for file in files]


def decode_films(
    files: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    known: frozenset[str] = frozenset(),
    workers: int | None = None,
) -> Iterator[DecodedFilm]:
    """Open ``files`` in parallel; results come in their order, a few chunks ahead of the reader.

    Args:
        files: images.
        preprocessing: of the pixels.
        known: hashes of images that need no decoding; they come back with hash and length only.
        workers: processes; None takes the number of processors, and no more than are worth starting.
    """
    job = _Job(preprocessing, known)
    wanted = min(workers or os.cpu_count() or 1, max(1, len(files) // _FILMS_WORTH_A_WORKER))
    if wanted == 1:
        yield from map(job.decode, files)
        return
    waiting = deque(files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK))
    while waiting:
        broken: list[Sequence[Path]] = []
        yield from _decode_in_pool(waiting, job, wanted, broken)
        if broken:
            _require_processes(job)
        for chunk in broken:
            for file in chunk:
                yield _decode_alone(file, job)


def _pool(job: _Job, workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(job,),
    )


def _decode_in_pool(
    waiting: deque[Sequence[Path]], job: _Job, workers: int, broken: list[Sequence[Path]]
) -> Iterator[DecodedFilm]:
    """Work off ``waiting``; when a worker dies, leave the chunks under way in ``broken`` and return."""
    running: deque[tuple[Sequence[Path], Future[list[DecodedFilm]]]] = deque()
    with _pool(job, workers) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < 3 * workers:
                    running.append((waiting[0], pool.submit(_decode_chunk, waiting[0])))
                    waiting.popleft()
                yield from running[0][1].result()
                running.popleft()
        except BrokenProcessPool:
            broken.extend(chunk for chunk, _ in running)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _require_processes(job: _Job) -> None:
    """Tell a worker that cannot start at all from one that an image killed.

    Raises:
        PneumoscopeError: no worker process can be started.
    """
    try:
        with _pool(job, 1) as pool:
            pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise PneumoscopeError(
            "no worker process can be started to open images",
            remedy="in a script of your own, start from 'if __name__ == \"__main__\":', or give workers=1",
        ) from error


def _decode_alone(file: Path, job: _Job) -> DecodedFilm:
    """Open one image in a process of its own, to learn whether it is the one that kills its decoder."""
    try:
        with _pool(job, 1) as pool:
            return pool.submit(_decode_chunk, [file]).result()[0]
    except BrokenProcessPool:
        return DecodedFilm(file, error="the decoder crashed on this file")
