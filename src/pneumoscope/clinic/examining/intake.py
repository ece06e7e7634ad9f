"""A film arrives: its bytes are on disk and its job is in the queue before anyone hears that it was taken.

In: bytes and who sent them. Out: ids of film and study. Nothing is parsed here. A DICOM instance that is sent
again with the same content is the film that is there already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from pneumoscope.clinic.store import audit_log
from pneumoscope.clinic.store.database import Store
from pneumoscope.clinic.store.queue import add_job
from pneumoscope.clinic.store.tables import Film, Study, new_id
from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.core.files import sha256_bytes

__all__ = ["Received", "Sender", "receive", "study_of_uid"]


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent a film: ``actor`` for the audit log, ``owner_id`` of a user or None, ``source`` as in ``Film``."""

    actor: str
    owner_id: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Received:
    """Where a film is now; ``again``: it was there before."""

    film_id: str
    study_id: str
    again: bool = False


def receive(
    store: Store,
    content: bytes,
    sender: Sender,
    *,
    reference: str | None = None,
    batch_id: str | None = None,
    options: Mapping[str, Any] | None = None,
    instance_uid: str | None = None,
) -> Received:
    """Keep a film and queue its examination; when this returns, neither a crash nor a power cut loses it.

    Args:
        store: keeps it.
        content: bytes of the film, unread.
        sender: who sent it.
        reference: what the sender calls the study; kept encrypted.
        batch_id: of the batch that it belongs to.
        options: ``age_years``, ``operating_point``, ``force`` of the examination.
        instance_uid: SOP Instance UID of a film that came by DICOM.

    Raises:
        UnreadableFileError: there are no bytes.
    """
    if not content:
        raise UnreadableFileError("the file is empty", remedy="copy it again from its source")
    digest = sha256_bytes(content)
    key = None if instance_uid is None else store.sealer.pseudonym(instance_uid, "instance")
    if key is not None:
        with store.read() as session:
            known = _known(session, key, digest, sender.owner_id)
        if known is not None:
            return known
    film_id = new_id()
    store.blobs.put("received", film_id, content)
    try:
        with store.write() as session:
            known = None if key is None else _known(session, key, digest, sender.owner_id)
            if known is None:
                study = Study(id=new_id(), owner_id=sender.owner_id)
                if reference:
                    study.reference = store.sealer.seal(reference.encode(), f"reference/{study.id}")
                film = Film(
                    id=film_id,
                    study=study,
                    batch_id=batch_id,
                    source=sender.source,
                    sha256=digest,
                    size=len(content),
                    options=dict(options or {}),
                    instance_key=key,
                )
                session.add(film)
                session.flush()
                add_job(session, film_id, "examine")
                audit_log.append(
                    store,
                    session,
                    sender.actor,
                    "film.received",
                    film_id,
                    source=sender.source,
                    size=len(content),
                )
                return Received(film_id, study.id)
    except BaseException:
        store.blobs.delete("received", film_id)
        raise
    store.blobs.delete("received", film_id)
    return known


def study_of_uid(session: Session, store: Store, study_uid: str, owner_id: int | None) -> Study | None:
    """The study that holds the films of a DICOM study, as far as its owner is the same."""
    key = store.sealer.pseudonym(study_uid, "study")
    owner = Study.owner_id.is_(None) if owner_id is None else Study.owner_id == owner_id
    return session.scalar(
        select(Study).where(Study.study_key == key, owner).order_by(Study.created_at).limit(1)
    )


def _known(session: Session, key: str, digest: str, owner_id: int | None) -> Received | None:
    owner = Study.owner_id.is_(None) if owner_id is None else Study.owner_id == owner_id
    film = session.scalar(
        select(Film).join(Study).where(Film.instance_key == key, Film.sha256 == digest, owner).limit(1)
    )
    return None if film is None else Received(film.id, film.study_id, again=True)
