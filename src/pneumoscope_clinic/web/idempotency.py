"""A request that is repeated makes nothing new: what is made, and the note of it, are one transaction.

In: an Idempotency-Key and a fingerprint of the request. Out: what the first request with them made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.worker.intake import recalled, remember


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A request: whose, its key or None, and what it says, as a hash."""

    user_id: int
    key: str | None
    fingerprint: str


def once(store: Store, request: Repeatable, make: Callable[[Session], str]) -> str:
    """What ``make`` makes within the transaction, by its id; a repeated request gets the first one's.

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
