"""Users: passwords (argon2id, RFC 9106), log-in with a limit on attempts, and users of OpenID Connect.

Nobody gets into an account with a local password by having its name at the provider; an account without one
belongs to whoever first logs in to it from there. Where the provider gives roles, they are taken over.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from pneumoscope.core.errors import (
    ConfigError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    TooManyAttemptsError,
)
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Attempt, Token, User, WebSession, now
from pneumoscope_clinic.store.viewers import ROLES, SCOPES, new_secret, token_row

SHORTEST_PASSWORD, LONGEST_PASSWORD = 12, 256
"""Characters; NIST SP 800-63B asks for at least 8, and for no rules of composition."""

_ADDRESS_FACTOR = 10
_FIRST = "first"
"""Name of the token that is the first administrator's password, too."""
_HASHING = threading.BoundedSemaphore(2)
"""Checks of passwords at once: each takes 64 MiB (RFC 9106 section 4), and anybody may ask for one."""


def create_user(store: Store, name: str, password: str | None, role: str, actor: str) -> User:
    """Add a user; without a password they can log in by OpenID Connect alone.

    Raises:
        ConfigError: name, password or role is not allowed.
        ConflictError: there is a user of that name.
    """
    if not _is_name(name):
        raise ConfigError("not a user name", expected="1 to 64 printable characters")
    if role not in ROLES:
        raise ConfigError(f"no role '{role}'", expected="one of " + ", ".join(ROLES))
    user = User(name=name, role=role, password_hash=None if password is None else _hashed(password, name))
    try:
        with store.write() as session:
            session.add(user)
            session.flush()
            audit_log.append(store, session, actor, "user.created", name, role=role)
    except IntegrityError as error:
        raise ConflictError(f"there is a user '{name}' already", remedy="choose another name") from error
    return user


def first_admin(store: Store) -> str | None:
    """A secret for user ``admin``, password and API token in one, when there is no user yet; else None."""
    with store.read() as session:
        if session.scalar(select(func.count()).select_from(User)):
            return None
    secret = new_secret()
    try:
        user = create_user(store, "admin", secret, "admin", "setup")
    except ConflictError:  # another process was first, and it says its secret
        return None
    with store.write() as session:
        session.add(token_row(secret, _FIRST, SCOPES, user.id))
    return secret


def authenticate(store: Store, name: str, password: str, address: str) -> User:
    """The user of a right password.

    Args:
        store: the clinic's.
        name, password: as typed.
        address: of the client, for the limit on attempts.

    Raises:
        TooManyAttemptsError: too many failures of this name or address.
        ForbiddenError: unknown name, wrong password or disabled user; it does not say which.
    """
    keys = store.cipher.pseudonym(name.casefold(), "login"), store.cipher.pseudonym(address, "address")
    noted = _note_attempt(store, keys)
    with store.read() as session:
        user = session.scalar(select(User).where(User.name == name))
    known = None if user is None or user.disabled else user.password_hash
    right = _verified(known or _decoy(), password[:LONGEST_PASSWORD]) and known is not None
    with store.write() as session:
        if not right:
            audit_log.append(store, session, "anonymous", "login.failed", keys[0][:12])
        else:
            session.execute(delete(Attempt).where(or_(Attempt.key == keys[0], Attempt.id.in_(noted))))
            audit_log.append(store, session, f"user:{name}", "login", name)
    if user is None or not right:
        raise ForbiddenError("name or password is wrong")
    return user


def set_password(store: Store, name: str, password: str, actor: str) -> None:
    """Give a user a new password and end all their sessions, and the token that the old password was.

    Raises:
        ConfigError: the password is not allowed.
        NotFoundError: no such user.
    """
    hashed = _hashed(password, name)
    with store.write() as session:
        user = user_named(session, name)
        user.password_hash = hashed
        session.execute(delete(WebSession).where(WebSession.user_id == user.id))
        first = update(Token).where(
            Token.user_id == user.id, Token.name == _FIRST, Token.revoked_at.is_(None)
        )
        session.execute(first.values(revoked_at=now()))
        audit_log.append(store, session, actor, "user.password", name)


def change_user(
    store: Store, name: str, actor: str, *, role: str | None = None, disabled: bool | None = None
) -> None:
    """Change a user's role, or shut them out (their sessions and tokens end for good) and let them in again.

    Raises:
        ConfigError: unknown role. NotFoundError: no such user. ConflictError: no admin would be left.
    """
    if role is not None and role not in ROLES:
        raise ConfigError(f"no role '{role}'", expected="one of " + ", ".join(ROLES))
    with store.write() as session:
        user = user_named(session, name)
        if disabled or user.disabled:  # an end for good, also of what an earlier version let stand
            own = update(Token).where(Token.user_id == user.id, Token.revoked_at.is_(None))
            session.execute(own.values(revoked_at=now()))
        user.role = role or user.role
        user.disabled = user.disabled if disabled is None else disabled
        session.flush()
        admins = select(func.count()).select_from(User).where(User.role == "admin", User.disabled.is_(False))
        if not session.scalar(admins):
            raise ConflictError("no administrator would be left", remedy="make another user admin first")
        session.execute(delete(WebSession).where(WebSession.user_id == user.id))
        audit_log.append(store, session, actor, "user.changed", name, role=user.role, disabled=user.disabled)


@dataclass(frozen=True, slots=True)
class ExternalUser:
    """Who logs in: ``issuer`` and ``subject`` identify them for ever (OpenID Connect Core 1.0 section 5.7).

    ``role`` is what the provider says; None when it says nothing.
    """

    issuer: str
    subject: str
    name: str
    role: str | None


def external_user(
    store: Store, known: ExternalUser, default_role: str | None, *, keeps_role: bool = False
) -> User:
    """Our user for ``known``, made at their first log-in; their role follows what the provider says.

    Args:
        store: the clinic's.
        known: by a checked ID token.
        default_role: of a user whom the provider gives no role; None refuses them.
        keeps_role: the provider gives no roles at all: users keep those that they have here.

    Raises:
        ForbiddenError: no role, a name that is another's, no usable name, or a disabled user.
    """
    key = store.cipher.pseudonym(f"{known.issuer}\0{known.subject}", "oidc")
    role = known.role if known.role in ROLES else None
    with store.write() as session:
        user = session.scalar(select(User).where(User.oidc_subject == key))
        if user is None:
            user = session.scalar(select(User).where(User.name == known.name))
            if user is None:
                if not _is_name(known.name):
                    raise ForbiddenError("the provider gives no usable name")
                user = User(name=known.name)
                session.add(user)
            elif user.password_hash is not None or user.oidc_subject is not None:
                raise ForbiddenError("there is another user of that name")
            user.oidc_subject = key
        role = role or (user.role if keeps_role else None) or default_role
        if role is None or user.disabled:
            raise ForbiddenError("this user has no role here", remedy="ask an administrator")
        user.role = role
        session.flush()
        audit_log.append(store, session, f"user:{user.name}", "login.oidc", user.name, role=user.role)
    return user


def user_named(session: Session, name: str) -> User:
    """The user of a name.

    Raises:
        NotFoundError: there is none.
    """
    user = session.scalar(select(User).where(User.name == name))
    if user is None:
        raise NotFoundError(f"there is no user '{name}'")
    return user


def list_users(store: Store) -> list[User]:
    """All users by name."""
    with store.read() as session:
        return list(session.scalars(select(User).order_by(User.name)))


def _note_attempt(store: Store, keys: tuple[str, str]) -> list[int]:
    """Count an attempt before its password is checked, so that many at once gain nothing; its rows."""
    limits = store.settings.security
    since = now() - timedelta(minutes=limits.login_pause_minutes)
    allowed = limits.login_attempts, limits.login_attempts * _ADDRESS_FACTOR
    with store.write() as session:
        session.execute(delete(Attempt).where(Attempt.at <= since))
        for key, most in zip(keys, allowed, strict=True):
            failures = select(func.count()).select_from(Attempt).where(Attempt.key == key)
            if (session.scalar(failures) or 0) >= most:
                raise TooManyAttemptsError(
                    "too many failed attempts", remedy=f"wait {limits.login_pause_minutes:g} minutes"
                )
        rows = [Attempt(key=key) for key in keys]
        session.add_all(rows)
        session.flush()
        return [row.id for row in rows]


def _hashed(password: str, name: str) -> str:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD or password.casefold() == name.casefold():
        raise ConfigError(
            "the password is not allowed",
            expected=f"{SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters, other than the name",
        )
    from argon2 import PasswordHasher
    from argon2.profiles import RFC_9106_LOW_MEMORY

    return PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY).hash(password)


def _verified(hashed: str, password: str) -> bool:
    from argon2 import PasswordHasher
    from argon2.exceptions import VerificationError

    with _HASHING:
        try:
            return PasswordHasher().verify(hashed, password)
        except VerificationError:
            return False


@cache
def _decoy() -> str:
    """A hash that no password fits, so that an unknown name takes as long as a known one."""
    return _hashed(secrets.token_urlsafe(32), "")


def _is_name(name: str) -> bool:
    return 1 <= len(name) <= 64 and name.isprintable() and name == name.strip()
