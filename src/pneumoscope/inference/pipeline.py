"""The lower line, film to answer: radiograph, gate, model input, prediction, explanation.

In: paths and a bundle. Out: one :class:`Examination` a film. The command line, the server and the PACS node
call this module and nothing else. A film that the gate refuses gets no probability, unless it is forced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np

from pneumoscope import __version__
from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.files import sha256_file
from pneumoscope.core.findings import Finding
from pneumoscope.core.records import Examination, FloatArray, ModelInput, Radiograph, Verdict
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.explanation import explain as explain_film
from pneumoscope.inference.gate import Patient, inspect_source, judge
from pneumoscope.inference.prediction import decide, run_network
from pneumoscope.inference.session import thread_count
from pneumoscope.inference.zones import is_mirrored

BATCH = 8
"""Films in one pass of :func:`examine_many`; twice as many more are decoded ahead."""


@dataclass(frozen=True, slots=True)
class _Film:
    """What is left of a film once it is read and prepared: its pixels are gone."""

    path: Path
    sha256: str
    model_input: ModelInput
    findings: tuple[Finding, ...]
    image_findings: tuple[Finding, ...]
    mirrored: bool | None


def examine(
    path: str | Path,
    bundle: Bundle,
    *,
    force: bool = False,
    operating_point: str | None = None,
    explain: bool = True,
    age_years: float | None = None,
    radiograph: Radiograph | None = None,
) -> Examination:
    """Take one film through the whole line.

    Args:
        path: JPEG, PNG, TIFF, BMP or DICOM.
        bundle: the network and what belongs to it.
        force: answer although the gate refuses; the result says so (``forced``).
        operating_point: name of one of the bundle's; None is its default.
        explain: also make the heat maps, and say which zones they light and which training films look alike.
        age_years: of the patient; None: as the file says, if it does.
        radiograph: the film at ``path``, already decoded.

    Raises:
        UnreadableFileError: the file is missing or is no readable film.
        ConfigError: the bundle has no such operating point.
    """
    bundle.operating_point(operating_point)
    wishes = _Wishes(force, operating_point, explain, age_years)
    film = _prepare(Path(path), bundle, wishes, radiograph)
    logits, features = run_network(bundle, film.model_input.array[None])
    return _conclude(film, bundle, logits[0], features[0], wishes)


def examine_many(
    paths: Iterable[str | Path],
    bundle: Bundle,
    *,
    force: bool = False,
    operating_point: str | None = None,
    explain: bool = True,
    age_years: float | None = None,
) -> Iterator[tuple[Path, Examination | PneumoscopeError]]:
    """Take any number of films through the line, in constant memory and in the order given.

    Films are decoded ahead by a pool of threads and pass the network in small batches.

    Args:
        paths: files; an endless iterator is fine.
        bundle, force, operating_point, explain, age_years: as in :func:`examine`.

    Yields:
        Each path with its examination, or with the error that says why it has none.

    Raises:
        ConfigError: the bundle has no such operating point.
    """
    bundle.operating_point(operating_point)
    wishes = _Wishes(force, operating_point, explain, age_years)
    films = _read_ahead((Path(path) for path in paths), bundle, wishes)
    while batch := list(islice(films, BATCH)):
        inputs = [film.model_input.array for _, film in batch if isinstance(film, _Film)]
        answers = iter(zip(*run_network(bundle, np.stack(inputs)), strict=True) if inputs else ())
        for path, film in batch:
            yield path, _conclude(film, bundle, *next(answers), wishes) if isinstance(film, _Film) else film


@dataclass(frozen=True, slots=True)
class _Wishes:
    force: bool
    operating_point: str | None
    explain: bool
    age_years: float | None


def _prepare(path: Path, bundle: Bundle, wishes: _Wishes, radiograph: Radiograph | None = None) -> _Film:
    """Read a film, at reduced size where the format allows, and make the network's input."""
    size = bundle.preprocessing.size
    film = radiograph or read_radiograph(path, min_size=size)
    return _Film(
        path=path,
        sha256=sha256_file(path),
        model_input=to_model_input(film, bundle.preprocessing),
        findings=inspect_source(film, size, Patient(wishes.age_years, bundle.usual_ages)),
        image_findings=film.findings,
        mirrored=is_mirrored(film.source),
    )


def _conclude(
    film: _Film, bundle: Bundle, logits: FloatArray, features: FloatArray, wishes: _Wishes
) -> Examination:
    """From the network's outputs to the answer: gate, decision, heat map."""
    gate = judge(bundle, film.findings, film.model_input.array, features.mean(axis=(1, 2)))
    refused = gate.verdict is Verdict.REFUSE
    prediction = explanation = None
    if wishes.force or not refused:
        prediction = decide(bundle, logits, wishes.operating_point)
        if wishes.explain:
            explanation = explain_film(bundle, film.model_input, features, prediction, film.mirrored)
    return Examination(
        file=str(film.path),
        sha256=film.sha256,
        gate=gate,
        prediction=prediction,
        explanation=explanation,
        image_findings=film.image_findings,
        bundle_card=MappingProxyType(bundle.card()),
        limitations=tuple(bundle.document["limitations"]),
        versions=_versions(),
        forced=refused and wishes.force,
    )


def _read_ahead(
    paths: Iterator[Path], bundle: Bundle, wishes: _Wishes
) -> Iterator[tuple[Path, _Film | PneumoscopeError]]:
    """Prepare films in threads (Pillow and NumPy release the interpreter lock), a bounded number ahead."""
    pool = ThreadPoolExecutor(thread_count(bundle.threads), "films")
    waiting: deque[tuple[Path, Future[_Film | PneumoscopeError]]] = deque()
    try:
        while True:
            for path in islice(paths, 2 * BATCH - len(waiting)):
                waiting.append((path, pool.submit(_prepare_or_error, path, bundle, wishes)))
            if not waiting:
                return
            path, film = waiting.popleft()
            yield path, film.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_or_error(path: Path, bundle: Bundle, wishes: _Wishes) -> _Film | PneumoscopeError:
    try:
        return _prepare(path, bundle, wishes)
    except PneumoscopeError as error:
        return error
    except Exception as error:  # one film must not end a batch; the caller reports it with the others
        failure = PneumoscopeError(
            f"unexpected {type(error).__name__}: {error}", where=path, remedy="please report this file"
        )
        failure.__cause__ = error
        return failure


def _versions() -> MappingProxyType[str, str]:
    import onnxruntime

    versions = {"pneumoscope": __version__, "onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
    return MappingProxyType(versions)
