"""Authentication and authorisation of requests: browser sessions, API tokens, roles and scopes.

Session cookies and tokens are 256 random bits; only their SHA-256 is stored.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, delete, select, update

from pneumoscope.core.errors import ConfigError, ForbiddenError, NotFoundError
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Token, User, WebSession, now

ROLES = ("reader", "reviewer", "admin")
"""Each may what the one before may. A reader sees own studies and those of the PACS; a reviewer sees all; an
admin also manages users, bundles and the audit log."""

SCOPES = ("examine", "read", "feedback", "admin")

_SEEN_EVERY = timedelta(minutes=1)
_TOKEN_PREFIX = "pns_"


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks. ``scopes`` are those of a token; a browser's session has all that its role allows."""

    user_id: int
    name: str
    role: str
    scopes: frozenset[str] = frozenset(SCOPES)
    language: str | None = None

    @property
    def actor(self) -> str:
        """For the audit log."""
        return f"user:{self.name}"

    def has_role(self, role: str) -> bool:
        """Whether the viewer's role is ``role`` or more."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def require(self, *, role: str = "reader", scope: str | None = None) -> None:
        """Check the viewer's rights.

        Raises:
            ForbiddenError: role or scope is missing.
        """
        if not self.has_role(role):
            raise ForbiddenError(f"this needs the role {role}", remedy="ask an administrator")
        if scope is not None and scope not in self.scopes:
            raise ForbiddenError(f"this needs the scope {scope}", remedy="use a token that has it")


def open_session(store: Store, user: User) -> tuple[str, str]:
    """A new session of a browser: its cookie's value and its CSRF token."""
    cookie, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    with store.write() as session:
        session.add(WebSession(hash=_digest(cookie), user_id=user.id, csrf=csrf))
        over = now() - timedelta(hours=store.settings.security.session_hours)
        session.execute(delete(WebSession).where(WebSession.created_at < over))
    return cookie, csrf


def session_viewer(store: Store, cookie: str) -> tuple[Viewer, str] | None:
    """Who is logged in with a cookie, and the CSRF token; None when nobody is or the session is over."""
    limits = store.settings.security
    with store.read() as session:
        row = session.get(WebSession, _digest(cookie))
    if row is None or row.user.disabled:
        return None
    age, idle = now() - row.created_at, now() - row.seen_at
    if age > timedelta(hours=limits.session_hours) or idle > timedelta(minutes=limits.idle_minutes):
        close_session(store, cookie)
        return None
    if idle > _SEEN_EVERY:
        with store.write() as session:
            session.execute(update(WebSession).where(WebSession.hash == row.hash).values(seen_at=now()))
    user = row.user
    return Viewer(user.id, user.name, user.role, language=user.language), row.csrf


def close_session(store: Store, cookie: str) -> None:
    """Log a browser out."""
    with store.write() as session:
        session.execute(delete(WebSession).where(WebSession.hash == _digest(cookie)))


def new_secret() -> str:
    """The text of a new token."""
    return _TOKEN_PREFIX + secrets.token_urlsafe(32)


def token_row(
    secret: str, name: str, scopes: Collection[str], user_id: int, expires: datetime | None = None
) -> Token:
    """The row of a token, which is not in the database yet."""
    return Token(name=name, hash=_digest(secret), scopes=sorted(scopes), user_id=user_id, expires_at=expires)


def create_token(
    store: Store, viewer: Viewer, name: str, scopes: Collection[str], days: int | None = None
) -> str:
    """A new API token of a user; the text is returned once and kept as a hash alone.

    Raises:
        ConfigError: unknown scope, or no name. ForbiddenError: a scope beyond the user's role.
    """
    unknown = set(scopes) - set(SCOPES)
    if unknown or not scopes or not 1 <= len(name) <= 64:
        raise ConfigError("not a token", expected=f"a name, and scopes among {', '.join(SCOPES)}")
    if "admin" in scopes:
        viewer.require(role="admin", scope="admin")
    expires: datetime | None = None if days is None else now() + timedelta(days=days)
    secret = new_secret()
    row = token_row(secret, name, scopes, viewer.user_id, expires)
    with store.write() as session:
        session.add(row)
        session.flush()
        audit_log.append(store, session, viewer.actor, "token.created", str(row.id), scopes=sorted(scopes))
    return secret


def list_tokens(store: Store, viewer: Viewer) -> list[Token]:
    """A user's tokens that are not revoked; an admin's list has everyone's."""
    chosen = select(Token).where(Token.revoked_at.is_(None)).order_by(Token.id)
    if not viewer.has_role("admin"):
        chosen = chosen.where(Token.user_id == viewer.user_id)
    with store.read() as session:
        return list(session.scalars(chosen))


def revoke_token(store: Store, viewer: Viewer, token_id: int) -> None:
    """End a token of the viewer's; an admin may end anyone's.

    Raises:
        NotFoundError: no such token, or another user's.
    """
    with store.write() as session:
        chosen = update(Token).where(Token.id == token_id, Token.revoked_at.is_(None))
        if not viewer.has_role("admin"):
            chosen = chosen.where(Token.user_id == viewer.user_id)
        changed = cast("CursorResult[Any]", session.execute(chosen.values(revoked_at=now())))
        if changed.rowcount != 1:
            raise NotFoundError("there is no such token")
        audit_log.append(store, session, viewer.actor, "token.revoked", str(token_id))


def token_viewer(store: Store, secret: str) -> Viewer | None:
    """Whose token this is; None when it is unknown, revoked or over."""
    with store.read() as session:
        row = session.scalar(select(Token).where(Token.hash == _digest(secret)))
    if row is None or row.revoked_at is not None or row.user.disabled:
        return None
    if row.expires_at is not None and row.expires_at < now():
        return None
    return Viewer(row.user.id, row.user.name, row.user.role, frozenset(row.scopes), row.user.language)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
