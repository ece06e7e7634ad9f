"""The description of the REST interface, for people and for the tools that make clients and tests from it.

In: the application's routes. Out: OpenAPI 3.1. FastAPI writes it from the models; errors get their own media
type here (RFC 9457), and the operations of an operator their names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_DESCRIPTION = """\
Chest radiographs in, answers about pneumonia out. Research and decision support, not a medical device.

**Log in** with a bearer token: `Authorization: Bearer pns_...`. `pneumoscope clinic tokens add NAME` makes
one; its scopes are `examine`, `read` and `feedback`. The scope that an operation needs stands beside it. A
token sees what its user sees: own studies and those of the PACS, all of them for a reviewer.

**A film** is examined by a queue. `POST /v1/examine` waits for the answer (200); with `wait=false`, or when
it takes too long, it answers 202 and `GET /v1/films/{film_id}` has the answer later. A film whose `state` is
`failed` has a `problem` in place of a result. Whatever was answered with 200 or 202 is on disk.

**Repeat** any POST with the same `Idempotency-Key`, after a broken connection or a 5xx: it makes nothing new
and answers as the first one did. Another request with a used key is answered with 409.

**Errors** are `application/problem+json` (RFC 9457): `title` says what was wrong, `expected` what would have
been right, `remedy` what to do. 503 means later: see `Retry-After`.

**Silent mode**: results are made and stored, and `result` is null with `silent` true.
"""

_TAGS = [
    {"name": "films", "description": "Examine films and see what came of it."},
    {"name": "studies", "description": "What was examined, to browse and to take over into other systems."},
    {"name": "feedback", "description": "What the readers found."},
    {"name": "bundles", "description": "Which model answers."},
    {"name": "operation", "description": "Health and metrics."},
]


def describer(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """A function that gives the description of ``app``, made when it is first asked for."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                summary="Pneumonia on chest radiographs: answers, heat maps, reports.",
                description=_DESCRIPTION,
                tags=_TAGS,
                routes=app.routes,
            )
            for path in made["paths"].values():
                for operation in path.values():
                    _errors_as_problems(operation)
            app.openapi_schema = made
        return app.openapi_schema

    return describe


def _errors_as_problems(operation: dict[str, Any]) -> None:
    """FastAPI describes every model as application/json; a problem has a media type of its own."""
    for answer in operation["responses"].values():
        content = answer.get("content", {})
        if "application/problem+json" in content:
            content["application/problem+json"] = content.pop("application/json")
