"""Idempotency keys: a repeated request makes nothing new, and gets what the first one made.

The key is stored in the transaction that makes the object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from pneumoscope.core.errors import ConflictError
from pneumoscope.core.files import sha256_bytes
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Idempotency


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A request: whose, its key or None, and what it says, as a hash."""

    user_id: int
    key: str | None
    fingerprint: str


def once(store: Store, request: Repeatable, make: Callable[[Session], str]) -> str:
    """The id of what ``make`` makes within the transaction; a repeated request gets the first one's.

    Raises:
        ConflictError: the key was used for another request.
    """
    with store.write() as session:
        known = recalled(session, request.user_id, request.key, request.fingerprint)
        if known is not None:
            return known
        made = make(session)
        if request.key is not None:
            remember(session, request.user_id, request.key, request.fingerprint, made)
        return made


def remember(session: Session, user_id: int, key: str, fingerprint: str, object_id: str) -> None:
    """Store what a request with an Idempotency-Key made."""
    row = Idempotency(user_id=user_id, key=_hashed(key), fingerprint=fingerprint, object_id=object_id)
    session.add(row)


def recalled(session: Session, user_id: int | None, key: str | None, fingerprint: str) -> str | None:
    """What an earlier request with this key made, or None.

    Raises:
        ConflictError: that was another request.
    """
    row = None if user_id is None or key is None else session.get(Idempotency, (user_id, _hashed(key)))
    if row is not None and row.fingerprint != fingerprint:
        raise ConflictError(
            "the Idempotency-Key was used for another request", remedy="use a new key for a new request"
        )
    return None if row is None else row.object_id


def _hashed(key: str) -> str:
    """Only a hash is stored: clients may have made a key of a name."""
    return sha256_bytes(f"idempotency\0{key}".encode())
