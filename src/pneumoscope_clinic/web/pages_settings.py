"""A user's own settings: password and API tokens; a new token is shown once."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from pneumoscope.core.errors import ConfigError, ForbiddenError, TooManyAttemptsError
from pneumoscope_clinic.store.accounts import LONGEST_PASSWORD, SHORTEST_PASSWORD, authenticate, set_password
from pneumoscope_clinic.store.tables import User
from pneumoscope_clinic.store.viewers import (
    SCOPES,
    Viewer,
    create_token,
    list_tokens,
    open_session,
    revoke_token,
)
from pneumoscope_clinic.web.access import (
    RowNumber,
    check_csrf,
    client_address,
    page_viewer,
    set_cookie,
    store_of,
)
from pneumoscope_clinic.web.rendering import page, reader_words
from pneumoscope_clinic.web.translation import Words

router = APIRouter(include_in_schema=False)

N_ = str  # marks messages for the extraction

_SCOPES = {
    "examine": N_("send images"),
    "read": N_("read studies and results"),
    "feedback": N_("give diagnoses"),
    "admin": N_("administer"),
}
_SAID = {"password": N_("The password is changed."), "revoked": N_("The token is revoked.")}
LONGEST_DAYS = 3650

Reader = Annotated[Viewer, Depends(page_viewer)]
Secret = Annotated[str, Form(max_length=4 * LONGEST_PASSWORD)]


@router.get("/settings")
def settings_page(request: Request, viewer: Reader, said: str = "") -> Response:
    """The page."""
    notice = reader_words(request, viewer)(_SAID[said]) if said in _SAID else ""
    return _page(request, viewer, notice=notice)


@router.post("/settings/password", dependencies=[Depends(check_csrf)])
def change_password(
    request: Request, viewer: Reader, current: Secret = "", new: Secret = "", again: Secret = ""
) -> Response:
    """Give oneself a new password; all other browsers are logged out."""
    store, of = store_of(request), reader_words(request, viewer)
    if new != again:
        return _page(request, viewer, problem=of("The new passwords differ."))
    try:
        user = authenticate(store, viewer.name, current, client_address(request))
        set_password(store, viewer.name, new, viewer.actor)
    except TooManyAttemptsError:
        pause = of.number(store.settings.security.login_pause_minutes)
        return _page(
            request,
            viewer,
            problem=of("Too many failed attempts. Wait {n} minutes and try again.").format(n=pause),
        )
    except ForbiddenError:
        return _page(request, viewer, problem=of("The current password is wrong."))
    except ConfigError:
        return _page(request, viewer, problem=password_rule(of))
    cookie, _ = open_session(store, user)
    response = RedirectResponse("/settings?said=password", status_code=303)
    set_cookie(request, response, cookie)
    return response


@router.post("/settings/tokens", dependencies=[Depends(check_csrf)])
def make_token(
    request: Request,
    viewer: Reader,
    name: Annotated[str, Form(max_length=64)] = "",
    days: Annotated[str, Form(max_length=8)] = "",
    scopes: Annotated[list[str], Form()] = [],  # noqa: B006
) -> Response:
    """Make an API token and show it this once."""
    of = reader_words(request, viewer)
    allowed = days == "" or (days.isascii() and days.isdigit() and 1 <= int(days) <= LONGEST_DAYS)
    if not name.strip() or not scopes or not allowed:
        return _page(
            request, viewer, problem=of("A token needs a name, something that it may do, and 1 to 3650 days.")
        )
    try:
        secret = create_token(store_of(request), viewer, name.strip(), scopes, int(days) if days else None)
    except ConfigError:
        return _page(
            request, viewer, problem=of("A token needs a name, something that it may do, and 1 to 3650 days.")
        )
    return _page(request, viewer, new_token=secret)


@router.post("/settings/tokens/{token_id}/revoke", dependencies=[Depends(check_csrf)])
def end_token(request: Request, token_id: RowNumber, viewer: Reader) -> Response:
    """End an API token."""
    revoke_token(store_of(request), viewer, token_id)
    return RedirectResponse("/settings?said=revoked", status_code=303)


def password_rule(of: Words) -> str:
    """What a password must be."""
    return of("A password has {low} to {high} characters and is not the user's name.").format(
        low=SHORTEST_PASSWORD, high=LONGEST_PASSWORD
    )


def _page(
    request: Request, viewer: Viewer, *, notice: str = "", problem: str = "", new_token: str = ""
) -> Response:
    store, of = store_of(request), reader_words(request, viewer)
    with store.read() as session:
        has_password = session.get_one(User, viewer.user_id).password_hash is not None
    return page(
        request,
        "settings.html",
        viewer,
        status=422 if problem else 200,
        here="settings",
        tokens=list_tokens(store, viewer),
        scopes=[
            (scope, of(_SCOPES[scope])) for scope in SCOPES if scope != "admin" or viewer.has_role("admin")
        ],
        scope_titles={scope: of(title) for scope, title in _SCOPES.items()},
        has_password=has_password,
        shortest=SHORTEST_PASSWORD,
        notice=notice,
        problem=problem,
        new_token=new_token,
    )
