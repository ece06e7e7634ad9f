"""All page routers, the assets, and the error pages."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

from pneumoscope_clinic.web import (
    oidc,
    pages_admin,
    pages_batches,
    pages_dashboard,
    pages_login,
    pages_settings,
    pages_study,
    pages_upload,
    pages_worklist,
)
from pneumoscope_clinic.web.rendering import ASSETS, current_viewer, page, reader_words

N_ = str  # marks messages for the extraction

_TEXTS = {
    400: (N_("Not understood"), N_("The request is not complete or not well formed.")),
    401: (N_("Log in first"), N_("Nobody is logged in in this browser.")),
    403: (
        N_("Not allowed"),
        N_("You may not do this, or the page is too old. Go back, load it again and repeat."),
    ),
    404: (N_("Not found"), N_("There is no such page, or it is not yours to see.")),
    408: (N_("Too slow"), N_("The images took too long to arrive. Send fewer at a time.")),
    413: (N_("Too large"), N_("The file is larger than allowed here.")),
    422: (N_("Not understood"), N_("The request is not complete or not well formed.")),
    429: (N_("Too many requests"), N_("Wait a few minutes and try again.")),
    500: (
        N_("Something went wrong here"),
        N_("The error is in the server's log. Images that were received are safe."),
    ),
    503: (N_("Not ready"), N_("The server cannot do this at the moment. Try again in a minute.")),
}
_KEEP_S = 365 * 24 * 3600


class _Assets(StaticFiles):
    """Assets; their addresses change with their content, so that browsers keep them."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, to be kept when the address names its version."""
        response = await super().get_response(path, scope)
        named = bool(scope["query_string"])
        response.headers["Cache-Control"] = f"public, max-age={_KEEP_S}, immutable" if named else "no-cache"
        return response


def add_pages(app: FastAPI) -> None:
    """Put pages and assets on ``app``, whose state holds the store."""
    app.mount("/assets", _Assets(directory=ASSETS), name="assets")
    for part in (
        pages_login,
        oidc,
        pages_worklist,
        pages_upload,
        pages_batches,
        pages_study,
        pages_dashboard,
        pages_settings,
        pages_admin,
    ):
        app.include_router(part.router)


def error_page(request: Request, status: int) -> HTMLResponse:
    """The page for an error's status; it says nothing of what was sent."""
    of = reader_words(request)
    title, text = _TEXTS.get(status, _TEXTS[500 if status >= 500 else 400])
    viewer = current_viewer(request)
    return page(
        request, "error.html", viewer, status=status, code=status, title=of(title), text=of(text), remedy=""
    )
