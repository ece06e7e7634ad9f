"""The inference pipeline: radiograph, gate, model input, prediction, explanation.

The command line, the server and the PACS node call this module and nothing else. An image that the gate
refuses gets no probability, unless it is forced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pneumoscope import __version__
from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.findings import Finding
from pneumoscope.core.records import FloatArray, LungField, ModelInput, Radiograph, Verdict
from pneumoscope.imaging.header import to_age
from pneumoscope.imaging.lungs import lung_findings
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.imaging.session import thread_count
from pneumoscope.inference.appearance import Appearance, measure
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.examination import Examination
from pneumoscope.inference.explanation import explain as explain_image
from pneumoscope.inference.explanation import is_mirrored
from pneumoscope.inference.gate import Patient, inspect_source, judge
from pneumoscope.inference.prediction import decide, run_network

if TYPE_CHECKING:
    from pneumoscope.imaging.radiograph import Source

_NO_PIXELS: FloatArray = np.empty((0, 0), np.float32)

BATCH = 8
"""Images in one pass of :func:`examine_many`; twice as many more are decoded ahead."""


@dataclass(frozen=True, slots=True)
class _Request:
    force: bool
    operating_point: str | None
    explain: bool
    age_years: float | None
    keep_image: bool


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is left of an image once it is read: the model input, and pixels only where they are kept."""

    file: str
    radiograph: Radiograph
    model_input: ModelInput
    findings: tuple[Finding, ...]
    image: npt.NDArray[np.uint8] | None


def examine(
    source: Source,
    bundle: Bundle,
    *,
    force: bool = False,
    operating_point: str | None = None,
    explain: bool = True,
    age_years: float | None = None,
    radiograph: Radiograph | None = None,
) -> Examination:
    """Take one image through the whole line.

    Args:
        source: what :func:`~pneumoscope.imaging.radiograph.read_radiograph` reads: a path or the bytes of a
            JPEG, PNG, TIFF, BMP or DICOM file, an array, a PIL image or a ``pydicom.Dataset``.
        bundle: the network and what belongs to it.
        force: answer although the gate refuses; the result says so (``forced``).
        operating_point: name of one of the bundle's; None is its default.
        explain: also make the heat maps, and say which zones they light and which training images look alike.
        age_years: of the patient; None: as the file says, if it does.
        radiograph: ``source``, already read.

    Raises:
        UnreadableFileError: the source is missing or is no readable image.
        ConfigError: the bundle has no such operating point.
    """
    bundle.operating_point(operating_point)
    request = _Request(force, operating_point, explain, age_years, keep_image=True)
    prepared = _prepare(source, bundle, request, radiograph)
    logits, features = run_network(bundle, prepared.model_input.array[None])
    return _conclude(prepared, bundle, logits[0], features[0], request)


def examine_many(
    paths: Iterable[str | Path],
    bundle: Bundle,
    *,
    force: bool = False,
    operating_point: str | None = None,
    explain: bool = True,
    age_years: float | None = None,
    keep_image: bool = False,
) -> Iterator[tuple[Path, Examination | PneumoscopeError]]:
    """Take any number of images through the line, in constant memory and in the order given.

    Images are decoded ahead by a pool of threads and pass the network in small batches.

    Args:
        paths: files; an endless iterator is fine.
        bundle, force, operating_point, explain, age_years: as in :func:`examine`.
        keep_image: keep the decoded pixels in the examination.

    Yields:
        Each path with its examination, or with the error that says why it has none.

    Raises:
        ConfigError: the bundle has no such operating point.
    """
    bundle.operating_point(operating_point)
    request = _Request(force, operating_point, explain, age_years, keep_image)
    for path, one in _answers(paths, bundle, request):
        yield path, one if isinstance(one, PneumoscopeError) else _conclude(*one, request)


def _answers(
    paths: Iterable[str | Path], bundle: Bundle, request: _Request
) -> Iterator[tuple[Path, tuple[_Prepared, Bundle, FloatArray, FloatArray] | PneumoscopeError]]:
    """Each image with the network's logits and features; it passes the network in small batches."""
    prepared = _read_ahead((Path(path) for path in paths), bundle, request)
    while batch := list(islice(prepared, BATCH)):
        inputs = [one.model_input.array for _, one in batch if isinstance(one, _Prepared)]
        answers = iter(zip(*run_network(bundle, np.stack(inputs)), strict=True) if inputs else ())
        for path, one in batch:
            yield path, (one, bundle, *next(answers)) if isinstance(one, _Prepared) else one


@dataclass(frozen=True, slots=True)
class Observation:
    """What gate and network see of an image before there is an answer: what a site's bundle is fitted to.

    Attributes:
        sha256: of the file's content.
        verdict: of the bundle's gate.
        findings: of the source alone (header, patient's age, pixels).
        age_years: as the file says, or None.
        logits: (K,); features: (C,) averaged over rows and columns; appearance: of this one image.
        lungs: the lung field, where the bundle looks at that.
    """

    sha256: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    age_years: float | None
    logits: FloatArray
    features: FloatArray
    appearance: Appearance
    lungs: LungField | None = None


def observe_many(
    paths: Iterable[str | Path], bundle: Bundle
) -> Iterator[tuple[Path, Observation | PneumoscopeError]]:
    """As :func:`examine_many`, up to the network's outputs: no decision and no heat map."""
    request = _Request(force=True, operating_point=None, explain=False, age_years=None, keep_image=False)
    for path, one in _answers(paths, bundle, request):
        yield path, one if isinstance(one, PneumoscopeError) else _observe(*one)


def _observe(prepared: _Prepared, bundle: Bundle, logits: FloatArray, features: FloatArray) -> Observation:
    pooled, seen = features.mean(axis=(1, 2)), prepared.model_input
    return Observation(
        sha256=prepared.radiograph.sha256 or "",
        verdict=judge(bundle, prepared.findings, seen.array, pooled, seen.lungs).verdict,
        findings=prepared.findings,
        age_years=to_age(prepared.radiograph.source.get("patient_age", "")),
        logits=logits,
        features=pooled,
        appearance=measure(seen.array[None]),
        lungs=seen.lungs,
    )


def _prepare(
    source: Source, bundle: Bundle, request: _Request, radiograph: Radiograph | None = None
) -> _Prepared:
    """Read an image, at reduced size where the format allows, and make the network's input."""
    preprocessing = bundle.preprocessing
    read = radiograph or read_radiograph(source, min_size=preprocessing.source_size)
    model_input = to_model_input(read, preprocessing)
    patient = Patient(request.age_years, bundle.usual_ages)
    findings = inspect_source(read, preprocessing.size, patient, model_input.geometry)
    return _Prepared(
        file=str(source) if isinstance(source, str | Path) else "",
        radiograph=replace(read, pixels=_NO_PIXELS),
        model_input=model_input,
        findings=(*findings, *lung_findings(model_input.lungs)),
        image=np.rint(read.pixels * np.float32(255)).astype(np.uint8) if request.keep_image else None,
    )


def _conclude(
    prepared: _Prepared, bundle: Bundle, logits: FloatArray, features: FloatArray, request: _Request
) -> Examination:
    """From the network's outputs to the answer: gate, decision, heat map."""
    seen = prepared.model_input
    gate = judge(bundle, prepared.findings, seen.array, features.mean(axis=(1, 2)), seen.lungs)
    refused = gate.verdict is Verdict.REFUSE
    prediction = explanation = None
    if request.force or not refused:
        prediction = decide(bundle, logits, request.operating_point)
        if request.explain:
            mirrored = is_mirrored(prepared.radiograph.source)
            explanation = explain_image(bundle, seen, features, prediction, mirrored)
    return Examination(
        file=prepared.file,
        sha256=prepared.radiograph.sha256 or "",
        gate=gate,
        prediction=prediction,
        explanation=explanation,
        image_findings=prepared.radiograph.findings,
        bundle_card=MappingProxyType(bundle.card()),
        limitations=tuple(bundle.document["limitations"]),
        versions=_versions(),
        forced=refused and request.force,
        image=prepared.image,
    )


def _read_ahead(
    paths: Iterator[Path], bundle: Bundle, request: _Request
) -> Iterator[tuple[Path, _Prepared | PneumoscopeError]]:
    """Prepare images in threads (Pillow and NumPy release the interpreter lock), a bounded number ahead."""
    pool = ThreadPoolExecutor(thread_count(bundle.threads), "images")
    waiting: deque[tuple[Path, Future[_Prepared | PneumoscopeError]]] = deque()
    try:
        while True:
            for path in islice(paths, 2 * BATCH - len(waiting)):
                waiting.append((path, pool.submit(_prepare_or_error, path, bundle, request)))
            if not waiting:
                return
            path, film = waiting.popleft()
            yield path, film.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_or_error(path: Path, bundle: Bundle, request: _Request) -> _Prepared | PneumoscopeError:
    try:
        return _prepare(path, bundle, request)
    except PneumoscopeError as error:
        return error
    except Exception as error:  # one image must not end a batch; the caller reports it with the others
        failure = PneumoscopeError(
            f"unexpected {type(error).__name__}: {error}", where=path, remedy="please report this file"
        )
        failure.__cause__ = error
        return failure


def _versions() -> MappingProxyType[str, str]:
    import onnxruntime

    versions = {"pneumoscope": __version__, "onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
    return MappingProxyType(versions)
