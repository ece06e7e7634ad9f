"""Log-in, log-out and choice of language. A wrong name and a wrong password read the same."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from pneumoscope.core.errors import ForbiddenError, TooManyAttemptsError
from pneumoscope_clinic.store.accounts import LONGEST_PASSWORD, authenticate
from pneumoscope_clinic.store.tables import User
from pneumoscope_clinic.store.viewers import close_session, open_session
from pneumoscope_clinic.web.access import (
    check_csrf,
    check_origin,
    clear_cookie,
    client_address,
    is_secure,
    session_cookie,
    set_cookie,
    store_of,
)
from pneumoscope_clinic.web.rendering import LANGUAGE_COOKIE, current_viewer, page, reader_words
from pneumoscope_clinic.web.translation import languages

router = APIRouter(include_in_schema=False)

_YEAR_S = 365 * 24 * 3600


async def check_form(request: Request) -> None:
    """A form of our own: by the session's token, or, before there is a session, by its origin.

    Raises:
        ForbiddenError: it is another site's.
    """
    if await run_in_threadpool(current_viewer, request) is None:
        check_origin(request)
    else:
        await check_csrf(request)


@router.get("/login")
def login_page(request: Request, next: str = "/") -> Response:
    """The form; whoever is logged in already goes on."""
    if current_viewer(request) is not None:
        return RedirectResponse(inside(next), status_code=303)
    return _form(request, inside(next))


@router.post("/login", dependencies=[Depends(check_form)])
def login(
    request: Request,
    name: Annotated[str, Form(max_length=64)] = "",
    password: Annotated[str, Form(max_length=4 * LONGEST_PASSWORD)] = "",
    next: Annotated[str, Form(max_length=500)] = "/",
) -> Response:
    """Open a session."""
    store, of = store_of(request), reader_words(request)
    try:
        user = authenticate(store, _typed(name), password, client_address(request))
    except TooManyAttemptsError:
        pause = of.number(store.settings.security.login_pause_minutes)
        problem = of("Too many failed attempts. Wait {n} minutes and try again.").format(n=pause)
        return _form(request, inside(next), name, problem, 429)
    except ForbiddenError:
        return _form(request, inside(next), name, of("Name or password is wrong."), 403)
    earlier = session_cookie(request)
    if earlier is not None:
        close_session(store, earlier)
    cookie, _ = open_session(store, user)
    response = RedirectResponse(inside(next), status_code=303)
    set_cookie(request, response, cookie)
    return response


@router.post("/logout", dependencies=[Depends(check_csrf)])
def logout(request: Request) -> Response:
    """End the session."""
    response = RedirectResponse("/login", status_code=303)
    cookie = session_cookie(request)
    if cookie is not None:
        close_session(store_of(request), cookie)
    clear_cookie(request, response)
    return response


@router.post("/language", dependencies=[Depends(check_form)])
def choose(
    request: Request,
    language: Annotated[str, Form(max_length=16)] = "",
    next: Annotated[str, Form(max_length=500)] = "/",
) -> Response:
    """Keep the language in this browser, and for the user where one is logged in."""
    response = RedirectResponse(inside(next), status_code=303)
    if language not in languages():
        return response
    response.set_cookie(
        LANGUAGE_COOKIE, language, max_age=_YEAR_S, httponly=True, secure=is_secure(request), samesite="lax"
    )
    viewer = current_viewer(request)
    if viewer is not None:
        with store_of(request).write() as session:
            session.get_one(User, viewer.user_id).language = language
    return response


def _typed(name: str) -> str:
    """A name that a user may have; any other is the empty one, nobody's (PostgreSQL takes no NUL)."""
    return name.strip() if name.strip().isprintable() else ""


def _form(request: Request, to: str, name: str = "", problem: str = "", status: int = 200) -> Response:
    oidc = store_of(request).settings.security.oidc.issuer is not None
    return page(
        request, "login.html", None, status=status, next=to, name=name, problem=problem, notice="", oidc=oidc
    )


def inside(address: str) -> str:
    """``address`` if it is a path of ours, else the worklist: nobody is led elsewhere."""
    ours = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if ours else "/"
