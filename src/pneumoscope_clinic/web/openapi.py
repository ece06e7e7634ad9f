"""OpenAPI: parameters, callers and problems that the REST operations share, and their description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Header, Path, Request, Security
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer

from pneumoscope.core.errors import ConfigError
from pneumoscope_clinic.rest_models import Problem
from pneumoscope_clinic.store.viewers import Viewer
from pneumoscope_clinic.web.access import api_viewer

_DESCRIPTION = """\
Chest radiographs in, answers about pneumonia out. Research and decision support, not a medical device.

**Log in** with a bearer token: `Authorization: Bearer pns_...`. `pneumoscope clinic tokens add NAME` makes
one; its scopes are `examine`, `read` and `feedback`. The scope that an operation needs stands beside it. A
token sees what its user sees: own studies and those of the PACS, all of them for a reviewer.

**An image** is examined by a queue. `POST /v1/examine` waits for the answer (200); with `wait=false`, or when
it takes too long, it answers 202 and `GET /v1/films/{film_id}` has the answer later. An image whose `state`
is `failed` has a `problem` in place of a result. Whatever was answered with 200 or 202 is on disk.

**Repeat** any POST with the same `Idempotency-Key`, after a broken connection or a 5xx: it makes nothing new
and answers as the first one did. Another request with a used key is answered with 409.

**Errors** are `application/problem+json` (RFC 9457): `title` says what was wrong, `expected` what would have
been right, `remedy` what to do. 503 means later: see `Retry-After`.

**Silent mode**: results are made and stored, and `result` is null with `silent` true.
"""

_TAGS = [
    {"name": "films", "description": "Examine images and see what came of it."},
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


_MEANINGS = {
    400: "the request cannot be read",
    401: "no valid token",
    403: "the token has not this scope",
    404: "not there, or not yours",
    408: "the body took too long",
    409: "the Idempotency-Key was used for another request",
    413: "too large",
    422: "not as described",
    500: "our fault",
    503: "later: the database is away, or there are too many requests",
}

bearer = HTTPBearer(
    auto_error=False,
    bearerFormat="pns_...",
    scheme_name="token",
    description="A token of `pneumoscope clinic tokens add`, with the scopes `examine`, `read`, `feedback`.",
)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems of an operation that needs a token, for its description."""
    return {
        status: {
            "model": Problem,
            "content": {"application/problem+json": {}},
            "description": _MEANINGS[status],
        }
        for status in sorted({401, 403, 500, 503, *statuses})
    }


def _needs(scope: str) -> Any:
    """Who calls, with the right to ``scope``; tools read from the description that a token is needed."""
    check, token = api_viewer(scope), Security(bearer, scopes=[scope])

    def caller(request: Request, _: Any = token) -> Viewer:
        return check(request)

    return Security(caller)


SENT = problems(400, 408, 409, 413, 422)
"""Problems of an operation that takes a body."""

TAKEN: dict[str, Any] = {
    "Location": {"description": "where the answer will be", "schema": {"type": "string"}},
    "Retry-After": {"description": "seconds", "schema": {"type": "integer"}},
}

Examiner = Annotated[Viewer, _needs("examine")]
Reader = Annotated[Viewer, _needs("read")]
Diagnostician = Annotated[Viewer, _needs("feedback")]
Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=100,
        pattern="^[!-~]+$",
        description="Any text of your own, such as a UUID; the same for a repetition of this request.",
    ),
]
Age = Annotated[
    float | None,
    Form(ge=0, le=130, allow_inf_nan=False, description="of the patient, where the image does not say it"),
]

Photograph = Annotated[
    bool, Form(description="a photograph of a film: it is made grey, cut to the image, and warned of")
]


def fields(*once: str, many: str = "") -> Any:
    """A dependency: a form has no other fields than these, and ``once`` at most once each.

    A field that is misspelt, or given twice, would otherwise be passed over: an age, for instance.
    """

    async def check(request: Request) -> None:
        given = Counter(name for name, _ in (await request.form()).multi_items())
        if given.keys() - {*once, many}:
            raise ConfigError(
                "the form has an unknown field", expected=", ".join(filter(None, (*once, many)))
            )
        for name in once:
            if given[name] > 1:
                raise ConfigError(f"the form has {given[name]} fields '{name}'", expected="one")

    return Depends(check)


def of_type(*types: str) -> dict[int | str, dict[str, Any]]:
    """The description of an answer that is a file."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in types}
    return {200: {"content": content}}
