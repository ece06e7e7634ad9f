"""Errors as answers: problem+json for programs (RFC 9457), a page for browsers.

In: an error. Out: its status, and a body that says what was wrong and what to do. What a client sent is never
quoted back by the validation of parameters; unexpected errors say nothing at all of their cause.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pneumoscope.clinic.web.access import LoginRequiredError
from pneumoscope.core.errors import (
    ConflictError,
    ForbiddenError,
    InputError,
    NotFoundError,
    PneumoscopeError,
    TooManyAttemptsError,
)

__all__ = ["problem", "problem_of", "status_of"]

_log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[PneumoscopeError], int], ...] = (
    (LoginRequiredError, 401),
    (ForbiddenError, 403),
    (NotFoundError, 404),
    (ConflictError, 409),
    (TooManyAttemptsError, 429),
    (InputError, 422),
    (PneumoscopeError, 500),
)


def status_of(error: PneumoscopeError) -> int:
    """The HTTP status that fits an error."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def problem(status: int, title: str, **members: Any) -> JSONResponse:
    """A problem; members that are None are left out."""
    said = {name: value for name, value in members.items() if value is not None}
    body = {"type": "about:blank", "title": title, "status": status, **said}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def problem_of(request: Request, error: Exception) -> JSONResponse:
    """Any error as a problem."""
    if isinstance(error, PneumoscopeError):
        status = status_of(error)
        if status == 500:
            _log.error("%s %s: %s", request.method, request.scope["path"], type(error).__name__)
        return problem(status, error.problem, expected=error.expected, remedy=error.remedy)
    if isinstance(error, RequestValidationError):
        errors = [
            {"where": [str(part) for part in one["loc"]], "problem": one["msg"]} for one in error.errors()
        ]
        return problem(422, "the request is not as described", errors=errors, remedy="see /v1/openapi.json")
    if isinstance(error, HTTPException):
        return problem(error.status_code, str(error.detail))
    _log.error("%s %s: unexpected %s", request.method, request.scope["path"], type(error).__name__)
    return problem(500, "an unexpected error of ours")
