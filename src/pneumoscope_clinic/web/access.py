"""Authentication of requests: browser sessions, API tokens, CSRF tokens of forms."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Path, Request
from starlette.responses import Response
from starlette.types import Scope

from pneumoscope.core.errors import ForbiddenError
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.viewers import Viewer, session_viewer, token_viewer

RowNumber = Annotated[int, Path(ge=1, lt=2**31)]
"""A number of a row in an address; a greater one is no integer of the database."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class LoginRequiredError(ForbiddenError):
    """Nobody is logged in."""


def store_of(request: Request) -> Store:
    """The application's store."""
    store: Store = request.app.state.store
    return store


def client_address(request: Request) -> str:
    """IP address of the client, as the trusted proxy says it."""
    return request.client.host if request.client else "unknown"


def is_secure(request: Request) -> bool:
    """Whether the browser sees https."""
    public = store_of(request).settings.server.public_url
    return public.startswith("https:") if public else request.url.scheme == "https"


def session_cookie(request: Request) -> str | None:
    """The session's cookie; with https its name begins with __Host-, which no other host can set."""
    return request.cookies.get(_cookie_name(request))


def set_cookie(request: Request, response: Response, value: str) -> None:
    """Give the browser a session; the cookie is out of reach of scripts and of other sites."""
    hours = store_of(request).settings.security.session_hours
    response.set_cookie(
        _cookie_name(request),
        value,
        max_age=int(hours * 3600),
        secure=is_secure(request),
        httponly=True,
        samesite="lax",
    )


def clear_cookie(request: Request, response: Response) -> None:
    """Take the session from the browser."""
    response.delete_cookie(_cookie_name(request), secure=is_secure(request), httponly=True, samesite="lax")


def is_known(scope: Scope) -> bool:
    """Whether a request of the application brings a valid token or session, whatever these allow."""
    request = Request(scope)
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token_viewer(store_of(request), secret.strip()) is not None
    cookie = session_cookie(request)
    return cookie is not None and session_viewer(store_of(request), cookie) is not None


def page_viewer(request: Request) -> Viewer:
    """Who is logged in (a dependency of pages).

    Raises:
        LoginRequiredError: nobody is; the application sends the browser to the log-in page.
    """
    return _session(request)[0]


def page_admin(request: Request) -> Viewer:
    """The administrator who is logged in.

    Raises:
        LoginRequiredError: nobody is. ForbiddenError: it is no administrator.
    """
    viewer = page_viewer(request)
    viewer.require(role="admin")
    return viewer


def csrf_token(request: Request) -> str:
    """What every form of the session must send back in the field ``csrf``."""
    return _session(request)[1]


async def check_csrf(request: Request) -> None:
    """Check that a form comes from our own page (a dependency of every POST of a page).

    Raises:
        LoginRequiredError: nobody is logged in. ForbiddenError: the token is missing or another's.
    """
    expected = csrf_token(request)
    given = request.headers.get("x-csrf-token")
    if given is None:
        given = str((await request.form()).get("csrf", ""))
    check_origin(request)
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise ForbiddenError("the form is not of this session", remedy="load the page again and repeat")


def api_viewer(scope: str, role: str = "reader") -> Callable[[Request], Viewer]:
    """A dependency: who calls, by bearer token (RFC 6750) or by session, with the right to ``scope``.

    A browser's session needs the header X-CSRF-Token for what changes something.
    """

    def viewer_of(request: Request) -> Viewer:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            viewer = token_viewer(store_of(request), secret.strip())
            if viewer is None:
                raise LoginRequiredError("the token is unknown, revoked or over", remedy="make a new one")
        else:
            viewer, csrf = _session(request)
            if request.method not in _SAFE_METHODS:
                check_origin(request)
                if not hmac.compare_digest(request.headers.get("x-csrf-token", "").encode(), csrf.encode()):
                    raise ForbiddenError("a session needs the header X-CSRF-Token", remedy="or use a token")
        viewer.require(role=role, scope=scope)
        return viewer

    return viewer_of


def _session(request: Request) -> tuple[Viewer, str]:
    """Viewer and CSRF token of the session, looked up once a request."""
    state: Any = request.state
    if not hasattr(state, "session"):
        cookie = session_cookie(request)
        state.session = None if cookie is None else session_viewer(store_of(request), cookie)
    if state.session is None:
        raise LoginRequiredError("nobody is logged in", remedy="log in, or send a token")
    found: tuple[Viewer, str] = state.session
    return found


def check_origin(request: Request) -> None:
    """A browser says where a request comes from; another site's is refused, whatever else it brings."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise ForbiddenError("the request comes from another site")


def _cookie_name(request: Request) -> str:
    return "__Host-pneumoscope" if is_secure(request) else "pneumoscope"
