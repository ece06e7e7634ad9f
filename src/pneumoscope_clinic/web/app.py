"""The ASGI application (FastAPI): REST, pages, health checks. It examines nothing; workers do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import Depends, FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pneumoscope import __version__
from pneumoscope.core.errors import PneumoscopeError
from pneumoscope_clinic.rest_models import HealthOut
from pneumoscope_clinic.settings import ClinicSettings
from pneumoscope_clinic.store.bundles import active_bundle
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.web import api_v1, pages
from pneumoscope_clinic.web.access import LoginRequiredError, api_viewer, is_known, store_of
from pneumoscope_clinic.web.limits import Guard
from pneumoscope_clinic.web.metrics import metrics_text
from pneumoscope_clinic.web.openapi import bearer, describer, problems
from pneumoscope_clinic.web.problems import DATABASE_AWAY, problem_of
from pneumoscope_clinic.web.waiting import Waiting

_DESCRIPTION = "Chest radiographs in, answers about pneumonia out. Decision support, not a medical device."
_FORM_OVERHEAD = 2**20
"""Bytes of a request beyond its images: field names, boundaries, a reference."""


def create_app(store: Store) -> FastAPI:
    """The application on an open store, which it does not close."""
    settings = store.settings
    app = FastAPI(
        title="pneumoscope",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        lifespan=_lifespan,
    )
    app.state.store = store
    app.state.waiting = Waiting(store)
    app.include_router(api_v1.router)
    _add_operation(app)
    app.openapi = describer(app)  # type: ignore[method-assign]
    pages.add_pages(app)
    for kind in (PneumoscopeError, RequestValidationError, HTTPException, *DATABASE_AWAY, Exception):
        app.add_exception_handler(kind, _problem_or_page)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_hosts(settings), www_redirect=False)
    limit = int(settings.server.max_upload_mb * 2**20) + _FORM_OVERHEAD
    public = settings.server.public_url or ""
    app.add_middleware(
        Guard,
        max_bytes=limit,
        seconds=settings.server.request_seconds,
        https=public.startswith("https:"),
        is_known=is_known,
    )
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Starlette writes large parts of a form to a temporary file, unencrypted; ours stay in memory, which the
    # limit on bodies bounds.
    MultiPartParser.spool_max_size = 2**40
    yield


def _add_operation(app: FastAPI) -> None:
    """Health, metrics: what operators ask."""

    @app.get("/health/live", tags=["operation"], response_model=HealthOut, operation_id="live")
    def live() -> HealthOut:
        """The process answers."""
        return HealthOut(status="ok", checks={})

    @app.get(
        "/health/ready",
        tags=["operation"],
        response_model=HealthOut,
        responses={503: {"model": HealthOut, "description": "not ready"}},
        operation_id="ready",
    )
    def ready(request: Request) -> Response:
        """Database and bundle can be used."""
        store, checks = store_of(request), {}
        try:
            with store.read() as session:
                session.execute(text("SELECT 1"))
            checks["database"] = "ok"
            checks["bundle"] = active_bundle(store).bundle_id
        except (SQLAlchemyError, PneumoscopeError) as error:
            checks["problem"] = type(error).__name__
        good = "problem" not in checks
        body = HealthOut(status="ok" if good else "not ready", checks=checks)
        return JSONResponse(body.model_dump(), 200 if good else 503)

    @app.get(
        "/metrics",
        tags=["operation"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems()},
        dependencies=[Security(bearer, scopes=["read"])],
        operation_id="metrics",
    )
    def metrics(request: Request, allowed: Annotated[None, Depends(_may_see_metrics)]) -> Response:
        """Prometheus metrics; they need a token with the scope read, unless the settings open them."""
        return Response(
            metrics_text(store_of(request)), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


def _may_see_metrics(request: Request) -> None:
    if not store_of(request).settings.server.open_metrics:
        api_viewer("read")(request)


def _problem_or_page(request: Request, error: Exception) -> Response:
    """Programs get a problem, browsers a page."""
    if request.scope["path"].startswith(("/v1/", "/health/", "/metrics")):
        return problem_of(request, error)
    if isinstance(error, LoginRequiredError) and request.method == "GET":
        target = quote(request.scope["path"])
        return RedirectResponse(f"/login?next={target}", 303)
    return pages.error_page(request, problem_of(request, error).status_code)


def _hosts(settings: ClinicSettings) -> list[str]:
    """Names by which browsers may call us; another may be an attack (DNS rebinding)."""
    if settings.server.public_url:
        name = urlsplit(settings.server.public_url).hostname
        return [name or "*", "localhost", "127.0.0.1"]
    if settings.server.host in ("127.0.0.1", "localhost", "::1"):
        return ["localhost", "127.0.0.1", "[::1]", "testserver"]
    return ["*"]
