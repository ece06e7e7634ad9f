"""Alarms: opened once, sent to a webhook, resolved when their cause is over.

Each goes to the database (dashboard), to the log, and to ``monitoring.webhook_url`` as JSON, again with every
check until it is accepted; authorised by the token of ``monitoring.webhook_token_file`` (RFC 6750) and signed
with it (``X-Pneumoscope-Signature: sha256=<HMAC-SHA-256 of the body>``). The text names no patient, image or
file.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pneumoscope.core.errors import InputError
from pneumoscope_clinic.monitoring.records import AlarmRow
from pneumoscope_clinic.settings import read_secret
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Alarm, now

TRIES = 3
"""Of one message within one check; the next check tries again."""
PAUSES_S = (1.0, 4.0)
TIMEOUT_S = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AlarmCause:
    """What is wrong: a kind of at most 32 characters, a sentence, and the figure with its limit."""

    kind: str
    message: str
    value: float | None = None
    limit: float | None = None


def open_alarm(store: Store, finding: AlarmCause) -> bool:
    """Open an alarm unless one of its kind is open; whether it did."""
    with store.write() as session:
        if _open(session, finding.kind):
            return False
        session.add(
            Alarm(kind=finding.kind, message=finding.message, value=finding.value, limit=finding.limit)
        )
        audit_log.append(store, session, "monitor", "alarm.opened", finding.kind)
    _log.warning("alarm opened: %s: %s", finding.kind, finding.message)
    return True


def resolve_alarm(store: Store, kind: str) -> bool:
    """Close the open alarm of a kind; whether there was one. Those who heard of it hear of its end."""
    with store.read() as session:
        if not _open(session, kind):
            return False
    with store.write() as session:
        alarm = _open(session, kind)
        if alarm is None:
            return False
        alarm.resolved_at, alarm.notified_at = now(), None
        audit_log.append(store, session, "monitor", "alarm.resolved", kind)
    _log.info("alarm resolved: %s", kind)
    return True


def acknowledge(store: Store, alarm_id: int, name: str) -> None:
    """Note that ``name`` has seen an alarm; the first one counts. It stays open until its cause is over.

    Raises:
        InputError: there is no such alarm.
    """
    with store.write() as session:
        alarm = session.get(Alarm, alarm_id)
        if alarm is None:
            raise InputError(f"there is no alarm {alarm_id}", remedy="see 'pneumoscope monitor alarms'")
        if alarm.acknowledged_by is None:
            alarm.acknowledged_by = name
            audit_log.append(store, session, name, "alarm.acknowledged", str(alarm_id), kind=alarm.kind)


def alarm_rows(session: Session, *, only_open: bool = True, limit: int = 100) -> tuple[AlarmRow, ...]:
    """Alarms, the newest first."""
    statement = select(Alarm).order_by(Alarm.id.desc()).limit(limit)
    if only_open:
        statement = statement.where(Alarm.resolved_at.is_(None))
    return tuple(
        AlarmRow(
            id=row.id,
            kind=row.kind,
            message=row.message,
            value=row.value,
            limit=row.limit,
            created_at=row.created_at,
            acknowledged_by=row.acknowledged_by,
            resolved_at=row.resolved_at,
        )
        for row in session.scalars(statement)
    )


def notify(store: Store, sleep: Callable[[float], None] = time.sleep) -> int:
    """Send what has not been sent; returns how many alarms still wait to be told.

    Without a webhook the log is the only listener, and every alarm counts as told.

    Raises:
        ConfigError: the token's file cannot be read.
    """
    settings = store.settings.monitoring
    with store.read() as session:
        waiting = session.scalars(select(Alarm).where(Alarm.notified_at.is_(None)).order_by(Alarm.id)).all()
    address = None if settings.webhook_url is None else settings.webhook_url.get_secret_value()
    file = settings.webhook_token_file
    token = read_secret(file) if waiting and address and file is not None else None
    for alarm in waiting:
        if address and not _send(address, token, alarm, sleep):
            continue
        with store.write() as session:
            row = session.get(Alarm, alarm.id)
            if row is not None and row.resolved_at == alarm.resolved_at:  # otherwise its end is to be told
                row.notified_at = now()
    with store.read() as session:
        return session.scalar(select(func.count()).where(Alarm.notified_at.is_(None))) or 0


def _open(session: Session, kind: str) -> Alarm | None:
    return session.scalar(select(Alarm).where(Alarm.kind == kind, Alarm.resolved_at.is_(None)).limit(1))


def _body(alarm: Alarm) -> dict[str, Any]:
    resolved = alarm.resolved_at
    return {
        "event": "alarm.opened" if resolved is None else "alarm.resolved",
        "id": alarm.id,
        "kind": alarm.kind,
        "message": alarm.message,
        "value": alarm.value,
        "limit": alarm.limit,
        "created_at": alarm.created_at.isoformat(),
        "resolved_at": None if resolved is None else resolved.isoformat(),
    }


def _send(url: str, token: str | None, alarm: Alarm, sleep: Callable[[float], None]) -> bool:
    """POST one alarm; whether the other side took it."""
    import httpx

    content = _body(alarm)
    body = json.dumps(content).encode()
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": f"alarm-{alarm.id}-{content['event']}",
    }
    if token is not None:
        signature = hmac.new(token.encode(), body, hashlib.sha256).hexdigest()
        headers |= {"Authorization": f"Bearer {token}", "X-Pneumoscope-Signature": f"sha256={signature}"}
    for attempt in range(TRIES):
        try:
            reply = httpx.post(url, content=body, headers=headers, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            trouble = type(error).__name__
        else:
            if reply.is_success:
                return True
            trouble = f"status {reply.status_code}"
        if attempt < TRIES - 1:
            sleep(PAUSES_S[attempt])
    _log.warning("the webhook did not take alarm %d (%s); the next check tries again", alarm.id, trouble)
    return False
