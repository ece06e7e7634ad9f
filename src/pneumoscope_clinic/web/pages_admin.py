"""Administration pages: users, the configuration in effect (without secrets), the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import select

from pneumoscope.core.errors import ConfigError, ConflictError, NotFoundError
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.accounts import (
    LONGEST_PASSWORD,
    SHORTEST_PASSWORD,
    change_user,
    create_user,
    list_users,
)
from pneumoscope_clinic.store.tables import AuditEntry, User
from pneumoscope_clinic.store.viewers import ROLES, Viewer
from pneumoscope_clinic.web.access import RowNumber, check_csrf, page_admin, store_of
from pneumoscope_clinic.web.pages_settings import password_rule
from pneumoscope_clinic.web.rendering import page, reader_words, role_title

router = APIRouter(include_in_schema=False)

N_ = str  # marks messages for the extraction

ENTRIES = 100
"""Of the audit log on one page."""
_SAID = {
    "added": N_("The user is added."),
    "changed": N_("The user is changed; their browsers are logged out."),
}


Admin = Annotated[Viewer, Depends(page_admin)]


@router.get("/users")
def users_page(request: Request, viewer: Admin, said: str = "") -> Response:
    """Who may log in."""
    return _users(request, viewer, notice=reader_words(request, viewer)(_SAID[said]) if said in _SAID else "")


@router.post("/users", dependencies=[Depends(check_csrf)])
def add_user(
    request: Request,
    viewer: Admin,
    name: Annotated[str, Form(max_length=64)] = "",
    password: Annotated[str, Form(max_length=4 * LONGEST_PASSWORD)] = "",
    role: Annotated[str, Form(max_length=16)] = "",
) -> Response:
    """Add a user."""
    of = reader_words(request, viewer)
    try:
        create_user(store_of(request), name.strip(), password, role, viewer.actor)
    except ConfigError:
        return _users(request, viewer, problem=password_rule(of), given_name=name)
    except ConflictError:
        return _users(request, viewer, problem=of("There is a user of that name already."), given_name=name)
    return RedirectResponse("/users?said=added", status_code=303)


@router.post("/users/{user_id}/role", dependencies=[Depends(check_csrf)])
def change_role(
    request: Request, user_id: RowNumber, viewer: Admin, role: Annotated[str, Form(max_length=16)] = ""
) -> Response:
    """Give a user another role."""
    return _change(request, viewer, user_id, role=role)


@router.post("/users/{user_id}/{change}", dependencies=[Depends(check_csrf)])
def lock(request: Request, user_id: RowNumber, change: str, viewer: Admin) -> Response:
    """Shut a user out, or let them in again."""
    if change not in ("enable", "disable"):
        raise NotFoundError("there is no such change")
    return _change(request, viewer, user_id, disabled=change == "disable")


@router.get("/configuration")
def configuration_page(request: Request, viewer: Admin) -> Response:
    """The configuration in effect; secrets show as asterisks."""
    values = store_of(request).settings.model_dump(mode="json")
    return page(request, "configuration.html", viewer, here="configuration", values=list(_flat(values)))


@router.get("/audit")
def audit_page(
    request: Request, viewer: Admin, before: Annotated[int | None, Query(ge=1, lt=2**31)] = None
) -> Response:
    """The audit log, the newest first."""
    return _audit(request, viewer, before=before)


@router.post("/audit/verify", dependencies=[Depends(check_csrf)])
def verify_log(request: Request, viewer: Admin) -> Response:
    """Check that nobody changed the log."""
    found, of = audit_log.verify(store_of(request)), reader_words(request, viewer)
    if found.broken_at is None:
        said = of("The chain holds: {n} entries.").format(n=of.number(found.rows))
        return _audit(request, viewer, notice=said)
    said = of("The chain is broken at entry {n}.").format(n=of.number(found.broken_at))
    return _audit(request, viewer, problem=said)


def _users(
    request: Request, viewer: Viewer, *, notice: str = "", problem: str = "", given_name: str = ""
) -> Response:
    of = reader_words(request, viewer)
    return page(
        request, "users.html", viewer, status=422 if problem else 200, here="users",
        users=list_users(store_of(request)), roles=[(role, role_title(role, of)) for role in ROLES],
        shortest=SHORTEST_PASSWORD, notice=notice, problem=problem, given_name=given_name,
    )  # fmt: skip


def _change(request: Request, viewer: Viewer, user_id: int, **changes: Any) -> Response:
    store, of = store_of(request), reader_words(request, viewer)
    with store.read() as session:
        user = session.get(User, user_id)
    if user is None:
        raise NotFoundError("there is no such user")
    try:
        change_user(store, user.name, viewer.actor, **changes)
    except ConflictError:
        return _users(request, viewer, problem=of("No administrator would be left."))
    return RedirectResponse("/users?said=changed", status_code=303)


def _audit(
    request: Request, viewer: Viewer, *, before: int | None = None, notice: str = "", problem: str = ""
) -> Response:
    chosen = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(ENTRIES)
    if before is not None:
        chosen = chosen.where(AuditEntry.id < before)
    with store_of(request).read() as session:
        rows = list(session.scalars(chosen))
        last, digest = audit_log.head(session)
    entries = [
        {
            "id": row.id,
            "at": row.at,
            "moment": datetime.fromisoformat(row.at),
            "actor": row.actor,
            "action": row.action,
            "object": row.object,
            "detail": json.dumps(row.detail, ensure_ascii=False) if row.detail else "–",
        }
        for row in rows
    ]
    older = rows[-1].id if rows and rows[-1].id > 1 else None
    return page(
        request, "audit.html", viewer, here="audit", entries=entries, older=older, newest=before is None,
        head_id=last, head_hash=digest, notice=notice, problem=problem,
    )  # fmt: skip


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Keys with dots and their values as JSON."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
