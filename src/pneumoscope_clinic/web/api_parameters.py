"""What the operations of the REST interface share: who may call, parameters, the problems they answer with.

In: nothing. Out: types for FastAPI's signatures, from which it checks requests and writes the description.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from fastapi import Depends, Form, Header, Path, Request, Security
from fastapi.security import HTTPBearer

from pneumoscope.core.errors import ConfigError
from pneumoscope_clinic.store.viewers import Viewer
from pneumoscope_clinic.web.access import api_viewer
from pneumoscope_clinic.web.schemas import Problem

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
    Form(ge=0, le=130, allow_inf_nan=False, description="of the patient, where the film does not say it"),
]

Photograph = Annotated[
    bool, Form(description="a photograph of a film: it is made grey, cut to the film, and warned of")
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
