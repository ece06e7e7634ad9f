"""Stores with images, results and feedback in them, without a worker: rows are inserted as a worker would."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from sqlalchemy.orm import Session

from pneumoscope_clinic.settings import load_settings
from pneumoscope_clinic.store.database import Store, open_store
from pneumoscope_clinic.store.tables import Activation, Feedback, Film, Job, Result, Study, User, new_id, now
from tests.clinic.postgres import new_database

BUNDLE = "tiny@000000000000"

DRIFT = {
    "exposure_low": 0.1,
    "exposure_median": 0.5,
    "exposure_high": 0.9,
    "mean": 0.5,
    "contrast": 0.2,
    "rows": 1000.0,
    "columns": 1200.0,
    "feature_distance": 1.0,
    "warn_distance": 1.5,
    "refuse_distance": 2.0,
    "picture_distance": 1.0,
}


def make_store(tmp_path: Path, **settings: Any) -> Store:
    """An empty store in ``tmp_path / "data"``; ``settings`` are dotted keys, with ``__`` for each dot."""
    overrides = {name.replace("__", "."): value for name, value in settings.items()}
    database = tmp_path / "data" / "clinic.db"
    if "database__url" not in settings and not database.exists():
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        database.touch(mode=0o600)
        database.write_bytes(_empty_database())
    return open_store(load_settings(None, {"data_dir": str(tmp_path / "data"), **overrides}, {}))


def new_postgres(server: str) -> str:
    """The URL of a new database with the schema of a new installation, which is made once for all tests."""
    return new_database(server, uuid4().hex, _template(server))


@cache
def _template(server: str) -> str:
    """A database with the schema; nobody is connected to it, as PostgreSQL wants of a template."""
    url = new_database(server, "clinic_template")
    with TemporaryDirectory() as folder:
        open_store(load_settings(None, {"data_dir": folder, "database.url": url}, {})).close()
    return "clinic_template"


@cache
def _empty_database() -> bytes:
    """A new installation's SQLite file: its schema is made once for all tests."""
    with TemporaryDirectory() as folder:
        open_store(load_settings(None, {"data_dir": folder}, {})).close()
        return (Path(folder) / "clinic.db").read_bytes()


def add_bundle(
    store: Store, bundle_id: str = BUNDLE, card: dict[str, Any] | None = None, **columns: Any
) -> None:
    """Activate a bundle by its row alone; ``location`` may lead to a real one."""
    with store.write() as session:
        row = {"location": "reference", "by": "test", **columns}
        session.add(Activation(bundle_id=bundle_id, card=card or {"id": bundle_id, "name": "tiny"}, **row))


def add_user(store: Store, name: str, role: str = "reader") -> int:
    with store.write() as session:
        user = User(name=name, role=role)
        session.add(user)
        session.flush()
        return user.id


def add_film(store: Store, *, content: bytes | None = None, **values: Any) -> str:
    """One examined image, committed; see :func:`put_film`. ``content`` is stored as its blob."""
    with store.write() as session:
        film_id = put_film(session, store, content=content, **values)
    if content is not None:
        store.blobs.put("films", film_id, content)
    return film_id


def put_film(
    session: Session,
    store: Store,
    *,
    at: datetime | None = None,
    study_id: str | None = None,
    patient: str | None = None,
    owner_id: int | None = None,
    probability: float | None = 0.1,
    decision: str | None = None,
    refused: bool = False,
    examined: bool = True,
    bundle_id: str = BUNDLE,
    shadow: bool = False,
    drift: dict[str, float] | None = None,
    facts: dict[str, Any] | None = None,
    content: bytes | None = None,
    record: dict[str, Any] | None = None,
    **columns: Any,
) -> str:
    """An image within the caller's transaction, with job and result unless ``examined`` is False.

    ``decision`` follows from ``probability`` (POSITIVE from 0.5) unless it is given; ``columns`` are other
    columns of ``films``.
    """
    moment, film_id = at or now(), new_id()
    if study_id is None:
        key = None if patient is None else store.cipher.pseudonym(patient, "patient")
        study = Study(id=new_id(), owner_id=owner_id, patient_key=key, created_at=moment)
        session.add(study)
        session.flush()
        study_id = study.id
    film = {"source": "api", "sha256": hashlib.sha256(content or film_id.encode()).hexdigest(), **columns}
    session.add(
        Film(
            id=film_id,
            study_id=study_id,
            size=len(content or b""),
            facts={"format": "PNG", **(facts or {})},
            created_at=moment,
            **film,
        )
    )
    session.flush()
    state = {"state": "done", "finished_at": moment, "attempts": 1} if examined else {}
    session.add(Job(film_id=film_id, kind="examine", created_at=moment, due_at=moment, **state))
    if not examined:
        return film_id
    if refused:
        probability, decision = None, "ABSTAIN"
    if decision is None:
        decision = "POSITIVE" if probability is not None and probability >= 0.5 else "NEGATIVE"
    verdict = "REFUSE" if refused else "ANSWER"
    by = "gate" if refused else "selection" if decision == "ABSTAIN" else None
    answer = {"decision": decision, "probability": probability, "abstained_by": by, "bundle": bundle_id}
    session.add(
        Result(
            film_id=film_id,
            bundle_id=bundle_id,
            verdict=verdict,
            probability=probability,
            decision=decision,
            abstained_by=by,
            record={**answer, **(record or {})},
            drift={**DRIFT, **(drift or {})},
            shadow=shadow,
            seconds=0.1,
            created_at=moment,
        )
    )
    session.flush()
    return film_id


def add_feedback(
    store: Store,
    film_id: str,
    diagnosis: str = "normal",
    *,
    agrees: bool = True,
    consent: bool = False,
    user_id: int | None = None,
    at: datetime | None = None,
) -> None:
    with store.write() as session:
        session.add(
            Feedback(
                film_id=film_id,
                user_id=user_id,
                agrees=agrees,
                diagnosis=diagnosis,
                consent=consent,
                created_at=at or now(),
            )
        )
