"""Why an image has no result: the clinic's own error templates, and errors as plain values for the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from pneumoscope.core import errors
from pneumoscope.core.errors import ERRORS, ErrorText, PneumoscopeError
from pneumoscope.core.findings import Value, fill

E = TypeVar("E", bound=PneumoscopeError)

_LIMITS = (
    "an image that its decoder can read within the limits of time and memory",
    "save it with another program, or raise limits.film_seconds and film_memory_mb",
)
CLINIC_ERRORS: Mapping[str, ErrorText] = MappingProxyType(
    {
        "examination-ended": ErrorText("the image ended its examination", *_LIMITS),
        "examination-too-long": ErrorText("the examination took longer than {seconds:number} s", *_LIMITS),
        "not-deidentifiable": ErrorText(
            "the image cannot be de-identified ({error})",
            "an image whose header is not damaged",
            "export it again",
        ),
        "pixels-deleted": ErrorText("the image's pixels were deleted", remedy="send the image again"),
        "unexpected-in-examination": ErrorText("an unexpected {error} while the image was examined"),
        "unexpected": ErrorText("an unexpected {error} of ours"),
    }
)
"""Templates by code, beside those of ``core.errors.ERRORS``."""


class SandboxDiedError(PneumoscopeError):
    """The image ended the process that examined it, or did not let it end in time."""


def image_error(kind: type[E], code: str, **params: Value) -> E:
    """The error of :data:`CLINIC_ERRORS` with this code."""
    problem, expected, remedy = (text and fill(text, params) for text in CLINIC_ERRORS[code])
    error = kind(problem or code, expected=expected, remedy=remedy)
    error.code, error.params = code, params
    return error


def problem(error: PneumoscopeError) -> dict[str, Any]:
    """An error as plain values, without the file's name."""
    return {
        "kind": type(error).__name__,
        "problem": error.problem,
        "expected": error.expected,
        "remedy": error.remedy,
        "fault": "input" if error.exit_code == 2 else "ours",
        "code": error.code,
        "params": dict(error.params),
    }


def rebuilt(said: Mapping[str, Any]) -> PneumoscopeError:
    """The error of :func:`problem`, from a process that cannot be trusted.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is no such thing.
    """
    known = said["kind"] in errors.__all__
    kind: type[PneumoscopeError] = getattr(errors, said["kind"]) if known else PneumoscopeError
    more = {name: None if said[name] is None else str(said[name]) for name in ("expected", "remedy")}
    error = kind(str(said["problem"]), **more)
    params = {str(name): value for name, value in said["params"].items()}
    if said["code"] is not None and all(isinstance(one, str | int | float) for one in params.values()):
        texts = _texts(str(said["code"]))
        [fill(text, params) for text in texts or () if text]
        error.code, error.params = str(said["code"]), params
    return error


def problem_sentence(said: Mapping[str, Any], translate: Callable[[str], str]) -> str:
    """A stored problem in the reader's language: what was wrong, what was expected, what to do."""
    _ = translate
    texts, params = _texts(said.get("code")), said.get("params") or {}
    if texts is not None:
        parts = [None if text is None else fill(text, params, translate) for text in texts]
    else:
        parts = [_(said[key]) if said.get(key) else None for key in ("problem", "expected", "remedy")]
    problem, expected, remedy = parts
    expected = expected and _("expected: {what}").format(what=expected)
    found = (problem or _("the image could not be examined"), expected, remedy)
    return "; ".join(part for part in found if part) + "."


def _texts(code: str | None) -> ErrorText | None:
    return None if code is None else ERRORS.get(code) or CLINIC_ERRORS.get(code)
