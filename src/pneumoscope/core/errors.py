"""The exception tree, and the message table of errors that reach people in their own language.

The command line turns an error into one message and an exit code: 0 done, 1 our fault, 2 the input's or the
user's fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self

from pneumoscope.core.findings import Value, fill

__all__ = [
    "BundleError",
    "ConfigError",
    "ConflictError",
    "DatasetError",
    "DeliveryError",
    "DownloadError",
    "ForbiddenError",
    "InputError",
    "LeakageError",
    "MissingExtraError",
    "NotFoundError",
    "PneumoscopeError",
    "TooManyAttemptsError",
    "UnreadableFileError",
]


class ErrorText(NamedTuple):
    """English templates of an error: what was wrong, what would have been right, what to do."""

    problem: str
    expected: str | None = None
    remedy: str | None = None


ERRORS: Mapping[str, ErrorText] = MappingProxyType(
    {
        "file-missing": ErrorText("there is no such file"),
        "file-is-folder": ErrorText("this is a folder", "an image file"),
        "file-unopenable": ErrorText("the file cannot be opened: {reason}"),
        "file-empty": ErrorText("the file is empty", remedy="copy it again from its source"),
        "file-too-long": ErrorText("the file has {length:,} bytes", "at most {limit:,} bytes"),
        "not-an-image": ErrorText("this is no image file", "DICOM, JPEG, PNG, TIFF or BMP content"),
        "image-too-small": ErrorText(
            "the image has {rows} x {columns} pixels", "at least {limit} rows and columns"
        ),
        "image-too-large": ErrorText(
            "the image declares {rows} x {columns} pixels and was not decoded",
            "at most {limit:,} pixels, and {side:,} on a side",
            "if this is a real radiograph, export it at a lower resolution",
        ),
        "image-unidentified": ErrorText(
            "the image cannot be identified", "a whole JPEG, PNG, TIFF or BMP file"
        ),
        "image-undecodable": ErrorText(
            "the image cannot be decoded: {reason}", "a whole JPEG, PNG, TIFF or BMP file"
        ),
        "tiff-pages": ErrorText(
            "the TIFF file holds {pages} pages, and which one is the radiograph is not known",
            "one page",
            "export the one page that is meant",
        ),
        "photograph-undecodable": ErrorText("the image cannot be decoded", "a whole photograph"),
        "dicom-undecodable": ErrorText(
            "the DICOM file cannot be decoded: {reason}",
            remedy="export it again, without compression where possible",
        ),
        "dicom-bomb": ErrorText(
            "the deflated data set is a decompression bomb", "at most {limit:,} bytes once inflated"
        ),
        "dicom-without-image": ErrorText(
            "the DICOM file holds no image ({kind})", "a radiograph (CR, DX or secondary capture)"
        ),
        "dicom-frames": ErrorText(
            "the DICOM file holds {frames} frames, and which one is the radiograph is not known",
            "a single-frame radiograph",
            "export the one frame that is meant",
        ),
        "dicom-bits": ErrorText("the DICOM file stores {bits} bits per sample", "1 to {limit}"),
        "array-unusable": ErrorText("the array {reason}", "(H, W) or (H, W, 3) of finite numbers"),
    }
)  # fmt: skip
"""Templates by code, the msgids of the catalogues, of errors in reading an image."""


class PneumoscopeError(Exception):
    """Base of every error raised on purpose.

    Args:
        problem: what was wrong, as one sentence without a final full stop.
        where: the file, row, key or value that it is about.
        expected: what would have been right.
        remedy: what the user can do.

    Attributes:
        code, params: key and parameters of :data:`ERRORS`; None and empty where the error is not in it.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        where: str | Path | None = None,
        expected: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.where = None if where is None else str(where)
        self.expected = expected
        self.remedy = remedy
        self.code: str | None = None
        self.params: Mapping[str, Value] = {}
        super().__init__(str(self))

    @classmethod
    def of(cls, code: str, where: str | Path | None = None, **params: Value) -> Self:
        """The error of :data:`ERRORS` with this code."""
        problem, expected, remedy = (text and fill(text, params) for text in ERRORS[code])
        error = cls(problem or code, where=where, expected=expected, remedy=remedy)
        error.code, error.params = code, params
        return error

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.problem}" if self.where else self.problem]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.remedy:
            parts.append(self.remedy)
        return "; ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip back from a worker process."""
        parts = (self.problem, self.where, self.expected, self.remedy)
        return _rebuild, (type(self), parts, self.code, dict(self.params))


def _rebuild(
    kind: type[PneumoscopeError],
    parts: tuple[str, str | None, str | None, str | None],
    code: str | None,
    params: Mapping[str, Value],
) -> PneumoscopeError:
    problem, where, expected, remedy = parts
    error = kind(problem, where=where, expected=expected, remedy=remedy)
    error.code, error.params = code, params
    return error


class InputError(PneumoscopeError):
    """The input or the request is at fault."""

    exit_code = 2


class UnreadableFileError(InputError):
    """An image cannot be read: missing, empty, truncated, of a wrong type, or too large to be true."""


class DatasetError(InputError):
    """A folder, table or manifest does not describe a usable data set."""


class ConfigError(InputError):
    """A configuration has an unknown key or a value out of range."""


class BundleError(InputError):
    """A bundle is missing a file, was altered, or has a schema that this version cannot read."""


class LeakageError(InputError):
    """A test image or its patient was in the bundle's training data."""


class DownloadError(InputError):
    """A download failed, or what came does not have the pinned hash."""


class DeliveryError(InputError):
    """A destination did not take a result, or a source did not give an image; it may do so later.

    Attributes:
        destination_down: nothing at all gets through, so that another image need not try.
    """

    destination_down = False

    @classmethod
    def down(cls, problem: str, *, where: str | None = None, remedy: str | None = None) -> DeliveryError:
        """The error of a destination that nothing gets through to."""
        error = cls(problem, where=where, remedy=remedy)
        error.destination_down = True
        return error


class MissingExtraError(InputError):
    """A command needs an optional dependency that is not installed."""


class NotFoundError(InputError):
    """What was asked for is not there, or not for the one who asks."""


class ForbiddenError(InputError):
    """Who asks is not known, or may not do this."""


class ConflictError(InputError):
    """The request contradicts what is there already."""


class TooManyAttemptsError(InputError):
    """Too many attempts in too short a time."""
