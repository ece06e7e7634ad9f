"""Intake: an image is encrypted on disk and its job queued before its receipt is confirmed.

Nothing is parsed here. A DICOM instance that is sent again is the one that is there already; one with other
content, one that could not be examined, and one whose pixels were deleted is taken anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from pneumoscope.core.errors import ConflictError, UnreadableFileError
from pneumoscope.core.files import sha256_bytes
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.idempotency import recalled, remember
from pneumoscope_clinic.store.notification import notify
from pneumoscope_clinic.store.queue import add_job
from pneumoscope_clinic.store.tables import Film, Job, Study, new_id
from pneumoscope_clinic.worker.deidentification import coarse_age


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent an image: ``actor`` for the audit log, ``owner_id`` or None, ``source`` as in ``Film``."""

    actor: str
    owner_id: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Received:
    """Where an image is now; ``again``: it was there before."""

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
    idempotency_key: str | None = None,
) -> Received:
    """Keep an image and queue its examination; when this returns, neither a crash nor a power cut loses it.

    Args:
        store: keeps it.
        content: bytes of the image, unread.
        sender: who sent it.
        reference: what the sender calls the study; kept encrypted.
        batch_id: of the batch that it belongs to.
        options: ``age_years``, ``operating_point``, ``force`` of the examination.
        instance_uid: SOP Instance UID of an image that came by DICOM.
        idempotency_key: the request's, of the sender that ``owner_id`` names.

    Raises:
        UnreadableFileError: there are no bytes.
        ConflictError: the key was used for another request, or its image was deleted.
    """
    if not content:
        raise UnreadableFileError("the file is empty", remedy="copy it again from its source")
    film = Film(
        id=new_id(),
        batch_id=batch_id,
        source=sender.source,
        sha256=sha256_bytes(content),
        size=len(content),
        options=_coarse(options or {}),
        instance_key=None if instance_uid is None else store.cipher.pseudonym(instance_uid, "instance"),
    )
    request = _Request(sender, reference, idempotency_key)
    with store.read() as session:
        known = _known(session, film, request)
    if known is not None:
        return known
    store.blobs.put("received", film.id, content)
    known = _insert(store, film, request)  # an error may come after the commit; the sweep removes orphans
    if known is not None:
        store.blobs.delete("received", film.id)
    else:
        notify(store.settings.directory, "work")
    return known or Received(film.id, film.study_id)


def _coarse(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without an age that names people."""
    age = options.get("age_years")
    return {**options, "age_years": coarse_age(age)} if age is not None else dict(options)


def study_of_uid(session: Session, store: Store, study_uid: str, owner_id: int | None) -> Study | None:
    """The study that holds the images of a DICOM study, as far as its owner is the same."""
    key = store.cipher.pseudonym(study_uid, "study")
    owner = Study.owner_id.is_(None) if owner_id is None else Study.owner_id == owner_id
    return session.scalar(
        select(Study).where(Study.study_key == key, owner).order_by(Study.created_at).limit(1)
    )


@dataclass(frozen=True, slots=True)
class _Request:
    sender: Sender
    reference: str | None
    idempotency_key: str | None


def _insert(store: Store, film: Film, request: _Request) -> Received | None:
    """Keep and queue the image in one transaction; returns the image that was there before, if there was."""
    sender = request.sender
    with store.write() as session:
        known = _known(session, film, request)
        if known is not None:
            return known
        study = Study(id=new_id(), owner_id=sender.owner_id)
        if request.reference:
            study.reference = store.cipher.encrypt(request.reference.encode(), f"reference/{study.id}")
        film.study = study
        session.add(film)
        if request.idempotency_key is not None and sender.owner_id is not None:
            key = request.idempotency_key
            remember(session, sender.owner_id, key, _fingerprint(film), film.id)
        session.flush()
        add_job(session, film.id, "examine")
        audit_log.append(
            store, session, sender.actor, "film.received", film.id, source=sender.source, size=film.size
        )
    return None


def _known(session: Session, film: Film, request: _Request) -> Received | None:
    """The image that this one is a repetition of: same request, or same DICOM instance of one owner."""
    owner_id = request.sender.owner_id
    earlier = recalled(session, owner_id, request.idempotency_key, _fingerprint(film))
    if earlier is not None:
        known = session.get(Film, earlier)
        if known is None:
            raise ConflictError("what this Idempotency-Key made was deleted", remedy="use a new key")
    elif film.instance_key is not None:
        owner = Study.owner_id.is_(None) if owner_id is None else Study.owner_id == owner_id
        failed = exists().where(Job.film_id == Film.id, Job.kind == "examine", Job.state == "failed")
        unchanged = Film.instance_key == film.instance_key, Film.sha256 == film.sha256
        same = select(Film).join(Study).where(*unchanged, owner, ~failed, Film.pixels_gone.is_(False))
        known = session.scalar(same.limit(1))
    else:
        known = None
    return None if known is None else Received(known.id, known.study_id, again=True)


def _fingerprint(film: Film) -> str:
    content = json.dumps([film.sha256, film.options], sort_keys=True)
    return sha256_bytes(content.encode())
