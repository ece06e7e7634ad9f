"""Tamper-evident audit log: who did what and when, as a hash chain (HMAC-SHA-256).

Each row's hash covers the row before; whoever changes, removes or inserts one breaks the chain, which cannot
be repaired without the key file. Rows cut off the end show only against an earlier head, which :func:`head`
gives and ``pneumoscope audit verify --head`` takes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from pneumoscope.core.errors import ConfigError
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import AuditEntry, now

_START = "0" * 64
_BLOCK = 1000


@dataclass(frozen=True, slots=True)
class Verification:
    """What :func:`verify` found: rows checked, hash of the last, and the id of the first bad row or None."""

    rows: int
    head: str
    broken_at: int | None
    reason: str = ""


def append(
    store: Store, session: Session, actor: str, action: str, object_: str = "", **detail: Any
) -> AuditEntry:
    """Add a row within the caller's writing transaction; ``detail`` must not name a patient."""
    session.flush()
    last = session.scalar(select(AuditEntry).order_by(AuditEntry.id.desc()).limit(1))
    entry = AuditEntry(
        id=1 if last is None else last.id + 1,
        at=now().isoformat(timespec="microseconds"),
        actor=actor,
        action=action,
        object=object_,
        detail=detail,
        previous=_START if last is None else last.hash,
    )
    entry.hash = _hash(entry, store.cipher.audit_key)
    session.add(entry)
    session.flush()
    return entry


def head(session: Session) -> tuple[int, str]:
    """Id and hash of the last row; (0, zeros) of an empty log."""
    last = session.scalar(select(AuditEntry).order_by(AuditEntry.id.desc()).limit(1))
    return (0, _START) if last is None else (last.id, last.hash)


def check_key(store: Store) -> None:
    """Check that the key of the installation is the one that its first row was written with.

    Raises:
        ConfigError: it is another one.
    """
    with store.read() as session:
        first = session.scalar(select(AuditEntry).order_by(AuditEntry.id).limit(1))
    if first is not None and not hmac.compare_digest(first.hash, _hash(first, store.cipher.audit_key)):
        raise ConfigError(
            "the key does not fit the data of this installation",
            where=store.settings.key_file,
            remedy="restore the key file that belongs to this database, or correct privacy.key_file",
        )


def verify(store: Store, expected_head: str | None = None) -> Verification:
    """Walk the chain from its start.

    Args:
        store: of the log.
        expected_head: hash of a row that must be there: a head that was noted earlier.
    """
    previous, rows, found = _START, 0, expected_head in (None, _START)
    with store.read() as session:
        while block := session.scalars(
            select(AuditEntry).where(AuditEntry.id > rows).order_by(AuditEntry.id).limit(_BLOCK)
        ).all():
            for entry in block:
                problem = _problem(entry, rows + 1, previous, store.cipher.audit_key)
                if problem:
                    return Verification(rows, previous, entry.id, problem)
                previous, rows = entry.hash, entry.id
                found = found or previous == expected_head
            session.expunge_all()
    if not found:
        return Verification(rows, previous, rows + 1, "the noted head is not in the log: rows were cut off")
    return Verification(rows, previous, None)


def _problem(entry: AuditEntry, expected_id: int, previous: str, key: bytes) -> str:
    if entry.id != expected_id:
        return f"row {expected_id} is missing"
    if entry.previous != previous or not hmac.compare_digest(entry.hash, _hash(entry, key)):
        return "the row was altered"
    return ""


def _hash(entry: AuditEntry, key: bytes) -> str:
    parts = [entry.id, entry.at, entry.actor, entry.action, entry.object, entry.detail, entry.previous]
    content = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hmac.new(key, content.encode(), hashlib.sha256).hexdigest()
