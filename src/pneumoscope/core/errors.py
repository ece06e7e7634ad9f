"""The one tree of errors: what a user did not expect, said so that they can act on it.

In: the four parts of a useful message (what was wrong, with what, what was expected, what to do).
Out: exceptions that the command line turns into one message and an exit code (0 done, 1 our fault,
2 the input's or the user's fault).
"""

from __future__ import annotations

from pathlib import Path

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


class PneumoscopeError(Exception):
    """Base of every error raised on purpose.

    Args:
        problem: what was wrong, as one sentence without a final full stop.
        where: the file, row, key or value that it is about.
        expected: what would have been right.
        remedy: what the user can do.
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
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.problem}" if self.where else self.problem]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.remedy:
            parts.append(self.remedy)
        return "; ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip back from a worker process."""
        return (_rebuild, (type(self), self.problem, self.where, self.expected, self.remedy))


def _rebuild(
    kind: type[PneumoscopeError], problem: str, where: str | None, expected: str | None, remedy: str | None
) -> PneumoscopeError:
    return kind(problem, where=where, expected=expected, remedy=remedy)


class InputError(PneumoscopeError):
    """The input or the request is at fault."""

    exit_code = 2


class UnreadableFileError(InputError):
    """A film cannot be read: missing, empty, truncated, of a wrong type, or too large to be true."""


class DatasetError(InputError):
    """A folder, table or manifest does not describe a usable data set."""


class ConfigError(InputError):
    """A configuration has an unknown key or a value out of range."""


class BundleError(InputError):
    """A bundle is missing a file, was altered, or has a schema that this version cannot read."""


class LeakageError(InputError):
    """A test film or its patient was in the bundle's training data."""


class DownloadError(InputError):
    """A download failed, or what came does not have the pinned hash."""


class DeliveryError(InputError):
    """A destination did not take a result, or a source did not give a film; it may do so later.

    Attributes:
        destination_down: nothing at all gets through, so that another film need not try.
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
