"""Error responses: problem+json for programs (RFC 9457), a page for browsers.

Nothing that a client sent is quoted back; unexpected errors say nothing of their cause.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from pneumoscope.core.errors import (
    ConflictError,
    ForbiddenError,
    InputError,
    NotFoundError,
    PneumoscopeError,
    TooManyAttemptsError,
)
from pneumoscope_clinic.web.access import LoginRequiredError
from pneumoscope_clinic.web.limits import shown_path

_log = logging.getLogger(__name__)

DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeoutError)
"""What SQLAlchemy raises when a database cannot be reached, or has no connection left."""

_RETRY_AFTER_S = 5

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
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": str(_RETRY_AFTER_S)}}
    return JSONResponse(body, status, headers.get(status), media_type="application/problem+json")


def problem_of(request: Request, error: Exception) -> JSONResponse:
    """Any error as a problem."""
    if isinstance(error, PneumoscopeError):
        status = status_of(error)
        if status == 500:
            _log.error("%s %s: %s", request.method, shown_path(request.scope), type(error).__name__)
        return problem(status, error.problem, expected=error.expected, remedy=error.remedy)
    if isinstance(error, RequestValidationError):
        errors = [{"where": _where(one), "problem": one["msg"]} for one in error.errors()]
        return problem(422, "the request is not as described", errors=errors, remedy="see /v1/openapi.json")
    if isinstance(error, HTTPException):
        answer = problem(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer
    if isinstance(error, DATABASE_AWAY):
        _log.error("%s %s: %s", request.method, shown_path(request.scope), type(error).__name__)
        return problem(503, "the database does not answer", remedy="repeat the request in a while")
    _log.error("%s %s: unexpected %s", request.method, shown_path(request.scope), type(error).__name__)
    return problem(500, "an unexpected error of ours")


def _where(error: dict[str, Any]) -> list[str]:
    """Which parameter it is; a key that is not ours is the client's and is not repeated."""
    place = [str(part) for part in error["loc"]]
    return place[:-1] if error["type"] == "extra_forbidden" else place
