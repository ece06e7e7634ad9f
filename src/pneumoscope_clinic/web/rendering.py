"""Page rendering: a Jinja template in the reader's language, navigation, CSRF token, hashed asset URLs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment

from pneumoscope import __version__
from pneumoscope.core.files import sha256_file
from pneumoscope.reporting.pages import environment
from pneumoscope_clinic.store.viewers import Viewer
from pneumoscope_clinic.web.access import LoginRequiredError, csrf_token, page_viewer, store_of
from pneumoscope_clinic.web.translation import Words, choose_language, languages, words

ASSETS = Path(__file__).resolve().parent / "assets"
LANGUAGE_COOKIE = "pneumoscope_language"

N_ = str  # marks messages for the extraction

_PAGES = (
    ("worklist", "/", N_("Worklist"), "reader"),
    ("upload", "/upload", N_("Add images"), "reader"),
    ("dashboard", "/dashboard", N_("Dashboard"), "reader"),
    ("bundle", "/bundle", N_("Bundle"), "reader"),
    ("users", "/users", N_("Users"), "admin"),
    ("configuration", "/configuration", N_("Configuration"), "admin"),
    ("audit", "/audit", N_("Audit log"), "admin"),
)
_ROLES = {"reader": N_("Reader"), "reviewer": N_("Reviewer"), "admin": N_("Administrator")}


def current_viewer(request: Request) -> Viewer | None:
    """Who is logged in; None when nobody is."""
    try:
        return page_viewer(request)
    except LoginRequiredError:
        return None


def reader_words(request: Request, viewer: Viewer | None = None) -> Words:
    """The language that this reader chose, or that the browser asks for."""
    wishes = (request.cookies.get(LANGUAGE_COOKIE), None if viewer is None else viewer.language)
    accepted = request.headers.get("accept-language", "")
    return words(choose_language(wishes, accepted, store_of(request).settings.language))


def role_title(role: str, of: Words) -> str:
    """A role in words."""
    return of(_ROLES[role])


def page(
    request: Request,
    template: str,
    viewer: Viewer | None,
    *,
    status: int = 200,
    here: str = "",
    **context: Any,
) -> HTMLResponse:
    """The page ``templates/<template>`` for ``viewer`` (None: nobody is logged in).

    Args:
        request: in answer to which.
        template: its file.
        viewer: who reads.
        status: of the response.
        here: the entry of the navigation that the page belongs to.
        context: the template's values.
    """
    of = reader_words(request, viewer)
    role = "" if viewer is None else viewer.role
    frame = {
        "_": of,
        "ngettext": of.translations.ngettext,
        "words": of,
        "viewer": viewer,
        "role_title": role_title(role, of) if role else "",
        "navigation": [
            (name, to, of(title))
            for name, to, title, least in _PAGES
            if viewer is not None and viewer.has_role(least)
        ],
        "languages": [(code, words(code).name) for code in languages()],
        "here": here,
        "address": request.url.path,
        "csrf_token": "" if viewer is None else csrf_token(request),
        "shadow": store_of(request).settings.shadow,
        "version": __version__,
    }
    html = _environment().get_template(template).render({**frame, **context})
    return HTMLResponse(html, status_code=status)


@cache
def asset(name: str) -> str:
    """Address of a file of ``assets/``; it holds the start of the content's hash."""
    return f"/assets/{name}?{sha256_file(ASSETS / name)[:12]}"


@cache
def _environment() -> Environment:
    made = environment("pneumoscope_clinic.web")
    made.globals["asset"] = asset
    return made
