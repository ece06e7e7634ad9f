"""Users whom an OpenID Connect provider vouches for.

In: who the provider says they are. Out: our user. Nobody gets into an account with a password of ours by
bearing its name at the provider; an account that was made without one waits for whoever first bears it there.
Where the provider gives roles, it takes them, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from pneumoscope.core.errors import ForbiddenError
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import User
from pneumoscope_clinic.store.viewers import ROLES


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
                user = User(name=_sound(known.name))
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


def _sound(name: str) -> str:
    if not (1 <= len(name) <= 64 and name.isprintable() and name == name.strip()):
        raise ForbiddenError("the provider gives no usable name")
    return name
