"""Model bundles: what training writes and everything else loads, one directory without a pickle.

It holds ``model.onnx``, ``bundle.json``, ``arrays.npz`` and ``SHA256SUMS``, checked on load;
where the network looks at the lung field, also ``lungs.onnx``, the segmenter that it was trained with. The
checksums find a damaged or edited file; they prove nothing about who made the bundle. Network and
arrays are opened when they are first needed.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import BundleError, ConfigError
from pneumoscope.core.files import read_json, sha256_bytes, sha256_file, write_json, write_text
from pneumoscope.core.records import OperatingPoint, Preprocessing, Task, freeze
from pneumoscope.imaging.lungs import LUNG_NUMBERS, find_lung_field, segmenter_file
from pneumoscope.imaging.session import open_session, run_session
from pneumoscope.inference.schema import SCHEMA_VERSION, check_document

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MODEL, DOCUMENT, ARRAYS, SUMS = "model.onnx", "bundle.json", "arrays.npz", "SHA256SUMS"
SEGMENTER = "lungs.onnx"
_SHIPPED = Path(__file__).resolve().parent.parent / "bundles"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)")
_NEIGHBOUR_ARRAYS = ("neighbour_mean", "neighbour_components", "neighbour_codes", "neighbour_targets")
_GAUSSIAN = ("mean", "components", "variances", "residual_variance")
_GATE_ARRAYS = tuple(f"gate_{name}" for name in _GAUSSIAN)


@dataclass(frozen=True)
class Bundle:
    """A network with everything that its answers depend on.

    Attributes:
        directory: where it lies.
        document: the content of ``bundle.json``.
        threads: threads of one network pass; None means PNEUMOSCOPE_THREADS or the usable cores.
    """

    directory: Path
    document: Mapping[str, Any]
    threads: int | None = None

    @property
    def id(self) -> str:
        """``<name>@<first 12 hexadecimal digits of a SHA-256>``, ``+<version>`` of a site.

        The digest is that of model.onnx, and of the decisions where they were chosen by themselves.
        """
        return str(self.document["id"])

    @property
    def task(self) -> Task:
        """What the network tells apart."""
        return Task(self.document["task"])

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input."""
        values = self.document["preprocessing"]
        low, high = values["percentiles"]
        segmenter = self.directory / SEGMENTER if values["fit"] == "lungs" else None
        return Preprocessing(
            values["size"], values["fit"], values["exposure"], (float(low), float(high)), segmenter
        )

    @cached_property
    def operating_points(self) -> Mapping[str, OperatingPoint]:
        """Operating points by name."""
        keys = ("name", "threshold", "sensitivity", "specificity", "n")
        points = (
            OperatingPoint(**{key: point.get(key) for key in keys})
            for point in self.document["operating_points"]
        )
        return MappingProxyType({point.name: point for point in points})

    @property
    def default_operating_point(self) -> OperatingPoint:
        """The operating point that holds when none is asked for."""
        return self.operating_points[self.document["default_operating_point"]]

    def operating_point(self, name: str | None = None) -> OperatingPoint:
        """The operating point ``name``, or the default one.

        Raises:
            ConfigError: the bundle has no operating point of that name.
        """
        if name is None:
            return self.default_operating_point
        if name not in self.operating_points:
            raise ConfigError(
                f"no operating point '{name}'",
                where=self.id,
                expected="one of " + ", ".join(self.operating_points),
            )
        return self.operating_points[name]

    @property
    def usual_ages(self) -> tuple[float, float] | None:
        """Lowest and highest age of the training images in years; None where the bundle does not say."""
        ages = self.document.get("population", {}).get("age_years")
        return None if ages is None else (float(ages[0]), float(ages[1]))

    @cached_property
    def session(self) -> InferenceSession:
        """The network, opened at first use."""
        return open_session(self.directory / MODEL, self.threads)

    @cached_property
    def arrays(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """Read-only float32 arrays: ``gate_*``, for class-activation maps ``head_weight`` (K, C), with
        ``head_bias`` (K,) where a site has its own head, and ``neighbour_*`` where the bundle keeps codes of
        its training images.
        """
        file = self.directory / ARRAYS
        try:
            with np.load(file, allow_pickle=False) as content:
                arrays = {name: freeze(content[name].astype(np.float32)) for name in content.files}
        except (OSError, ValueError) as error:
            raise BundleError(f"cannot be read: {error}", where=file) from error
        _check_arrays(arrays, self.document, file)
        return MappingProxyType(arrays)

    def refuse_site(self, done: str) -> None:
        """Make sure that no site has changed the bundle, whose changes would be lost when it is ``done``.

        Raises:
            BundleError: it was commissioned.
        """
        if "adaptation" in self.document or self.document.get("history"):
            raise BundleError(
                "the bundle belongs to a site, whose changes would be lost",
                where=self.id,
                expected="a bundle that was not commissioned",
                remedy=f"take it back with 'pneumoscope rollback'; once it is {done}, commission it again",
            )

    def open(self) -> None:
        """Open and check everything that an answer needs, which is else opened by the first image.

        Raises:
            BundleError: a part is damaged or does not fit the others.
        """
        _ = self.session, self.arrays  # reading the arrays checks them
        if self.preprocessing.fit == "lungs":
            find_lung_field(np.zeros((8, 8), np.float32), self.preprocessing.segmenter)

    def card(self) -> dict[str, Any]:
        """What a reader of a result should know about the bundle, JSON-able."""
        keys = ("id", "name", "created", "task", "classes", "default_operating_point", "validation")
        card = {key: self.document[key] for key in keys}
        card["network"] = self.document["network"].get("name")
        card["training_dataset"] = self.document["training"].get("dataset_name")
        card["intended_use"] = self.document["intended_use"]
        return card


def shipped_bundles() -> tuple[str, ...]:
    """Names of the bundles inside the package."""
    return tuple(sorted(file.parent.name for file in _SHIPPED.glob(f"*/{DOCUMENT}")))


def load_bundle(name_or_directory: str | Path = "reference", *, threads: int | None = None) -> Bundle:
    """Open a bundle that ships with the package, by name, or one on disk, by directory.

    A name of a shipped bundle wins over a directory of the same name; write ``./name`` for the directory.
    The network itself is opened at first use.

    Args:
        name_or_directory: ``reference``, another shipped name, or a directory.
        threads: threads of one network pass; None means PNEUMOSCOPE_THREADS or the usable cores.

    Raises:
        BundleError: there is no such bundle, a file is missing or does not have its listed hash, or
            ``bundle.json`` has another schema version or a wrong value.
    """
    directory = _find(name_or_directory)
    sums = _check_sums(directory)
    file = directory / DOCUMENT
    try:
        document = read_json(file)
    except ValueError as error:
        raise BundleError(f"not valid JSON: {error}", where=file) from error
    check_document(document, file)
    if document["preprocessing"]["fit"] == "lungs":
        _check_segmenter(directory / SEGMENTER, sums, document["preprocessing"]["segmenter"])
    return Bundle(directory, MappingProxyType(document), threads)


def write_bundle(
    directory: Path,
    model: Path,
    document: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
    segmenter: Path | None = None,
) -> Bundle:
    """Write a bundle as a whole: ``directory`` appears, or is replaced, only when everything was checked.

    Args:
        directory: where to; an earlier bundle there is replaced, anything else is refused.
        model: the ONNX file; it must hold its own weights (no external data).
        document: content of ``bundle.json``; ``schema_version`` and ``id`` are set here, ``created`` when
            it is missing.
        arrays: content of ``arrays.npz``; kept as float32.
        segmenter: the lung segmenter of fit ``lungs``; None is the package's.

    Raises:
        BundleError: the document, an array or the network does not follow the contract, or ``directory``
            holds something else.
    """
    directory = Path(directory)
    if directory.exists() and not (directory / DOCUMENT).is_file() and any(directory.iterdir()):
        raise BundleError("the folder holds something else than a bundle", where=directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary:
        staged = Path(temporary) / "new"
        staged.mkdir()
        shutil.copyfile(model, staged / MODEL)
        digest = sha256_file(staged / MODEL)
        content = {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **document,
            "id": _identity(document, digest),
        }
        check_document(content, staged / DOCUMENT)
        write_json(staged / DOCUMENT, content)
        np.savez(staged / ARRAYS, **{k: np.asarray(v, np.float32) for k, v in arrays.items()})  # type: ignore[arg-type]
        names = [ARRAYS, DOCUMENT, MODEL]
        if content["preprocessing"]["fit"] == "lungs":
            shutil.copyfile(segmenter or segmenter_file(), staged / SEGMENTER)
            names.append(SEGMENTER)
        sums = (f"{sha256_file(staged / name)}  {name}\n" for name in sorted(names))
        write_text(staged / SUMS, "".join(sums))
        _check_runs(load_bundle(staged))
        if directory.exists():
            directory.rename(Path(temporary) / "old")
        staged.rename(directory)
    return load_bundle(directory)


def _identity(document: Mapping[str, Any], digest: str) -> str:
    """The id of a bundle; a site's version of it has its number behind.

    Where ``pneumoscope calibrate`` chose the decisions, they are part of the digest: two bundles with one
    network and other thresholds are not one.
    """
    version = document.get("version", 1)
    calibration = document.get("calibration", {})
    if "judged" in calibration:
        decisions = json.dumps([calibration, document["operating_points"]], sort_keys=True)
        digest = sha256_bytes(f"{digest} {decisions}".encode())
    return f"{document.get('name')}@{digest[:12]}" + (f"+{version}" if version != 1 else "")


def _find(name_or_directory: str | Path) -> Path:
    shipped = shipped_bundles()
    if isinstance(name_or_directory, str) and name_or_directory in shipped:
        return _SHIPPED / name_or_directory
    directory = Path(name_or_directory)
    if (directory / DOCUMENT).is_file():
        return directory
    inside = directory / "bundle"
    raise BundleError(
        f"no bundle '{name_or_directory}'",
        expected=f"a directory with {DOCUMENT}, or a shipped bundle ({', '.join(shipped) or 'none here'})",
        remedy=f"this is a run directory: its bundle is {inside}" if (inside / DOCUMENT).is_file() else None,
    )


def _check_sums(directory: Path) -> dict[str, str]:
    """Check every file against SHA256SUMS, and return its hashes; names with a path in them are refused."""
    file = directory / SUMS
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except FileNotFoundError as error:
        raise BundleError("the file is missing from the bundle", where=file) from error
    except UnicodeDecodeError as error:
        raise BundleError("not a list of hashes", where=file) from error
    matches = [_SUM_LINE.fullmatch(line) for line in lines]
    listed = {match[2]: match[1] for match in matches if match}
    if len(listed) != len(lines) or not {MODEL, DOCUMENT, ARRAYS} <= set(listed):
        raise BundleError(
            "not a list of the bundle's hashes",
            where=file,
            expected=f"one line '<sha256>  <name>' each for {MODEL}, {DOCUMENT} and {ARRAYS}",
        )
    for name, digest in listed.items():
        if not (directory / name).is_file():
            raise BundleError("the file is missing from the bundle", where=directory / name)
        if sha256_file(directory / name) != digest:
            raise BundleError(
                "the file was damaged or altered: its SHA-256 is not the one in SHA256SUMS",
                where=directory / name,
                remedy="copy the bundle again from where it came",
            )
    return listed


def _check_segmenter(file: Path, sums: Mapping[str, str], name: str) -> None:
    if not sums.get(file.name, "").startswith(name):
        raise BundleError(
            "missing, or another segmenter than the network was trained with",
            where=file,
            expected=f"a file whose SHA-256 begins with {name}",
            remedy="copy the bundle again from where it came",
        )


def _check_arrays(arrays: Mapping[str, npt.NDArray[Any]], document: Mapping[str, Any], where: Path) -> None:
    channels = document["network"]["feature_shape"][0]
    required = list(_GATE_ARRAYS)
    if document["explanation"]["method"] == "class-activation":
        required.append("head_weight")
    if "adaptation" in document:
        required += [name for name in ("head_weight", "head_bias") if name not in required]
    kept = document.get("neighbours")
    if kept is not None:
        required += _NEIGHBOUR_ARRAYS
    further = [part for part in ("appearance", "lungs") if part in document["gate"]]
    required += [f"{part}_{name}" for part in further for name in _GAUSSIAN]
    missing = [name for name in required if name not in arrays]
    if missing:
        raise BundleError(f"lacks {', '.join(missing)}", where=where, expected=", ".join(required))
    components = len(arrays["gate_components"]) if arrays["gate_components"].ndim else 0
    shapes = {
        "gate_mean": (channels,),
        "gate_components": (components, channels),
        "gate_variances": (components,),
        "gate_residual_variance": (),
        "head_weight": (len(document["classes"]), channels),
        "head_bias": (len(document["classes"]),),
    }
    for part in further:
        length, variances = arrays[f"{part}_mean"].shape, arrays[f"{part}_variances"].shape
        gaussian = (length, variances + length, variances, ())
        shapes |= {f"{part}_{name}": shape for name, shape in zip(_GAUSSIAN, gaussian, strict=True)}
    if "lungs" in further:
        shapes["lungs_mean"] = (LUNG_NUMBERS,)
    if kept is not None:
        films, dimensions = len(kept["films"]), kept["dimensions"]
        codes = ((channels,), (dimensions, channels), (films, dimensions), (films,))
        shapes |= dict(zip(_NEIGHBOUR_ARRAYS, codes, strict=True))
    for name in required:
        if arrays[name].shape != shapes[name] or not np.isfinite(arrays[name]).all():
            raise BundleError(
                f"'{name}' has shape {arrays[name].shape} or is not finite",
                where=where,
                expected=f"finite numbers of shape {shapes[name]}",
            )


def _check_runs(bundle: Bundle) -> None:
    """Open everything and run one empty image, so that a bundle which cannot answer is never written."""
    size = bundle.preprocessing.size
    bundle.open()
    logits, features = run_session(bundle.session, np.zeros((2, 1, size, size), np.float32))
    expected = (2, len(bundle.task.classes)), (2, *bundle.document["network"]["feature_shape"])
    if (logits.shape, features.shape) != expected:
        raise BundleError(
            f"the network gives logits {logits.shape} and features {features.shape} for two images",
            where=bundle.directory / MODEL,
            expected=f"{expected[0]} and {expected[1]} (the batch axis is dynamic)",
        )
