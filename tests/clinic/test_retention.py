"""Retention: what is over goes, what is not stays, and a crash leaves nothing behind."""

from __future__ import annotations

import os
import sqlite3
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from pneumoscope.core.errors import InputError
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.blobs import KINDS
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.retention import Deleted, apply_retention, delete_study, sweep
from pneumoscope_clinic.store.tables import AuditEntry, Batch, Feedback, Film, Job, Result, Study, new_id, now
from tests.clinic.stores import add_feedback, add_film, make_store


def old_film(store: Store, days: float, **values: object) -> str:
    film_id = add_film(store, content=b"pixels", at=now() - timedelta(days=days), **values)  # type: ignore[arg-type]
    store.blobs.put("maps", film_id, b"map")
    store.blobs.put("pictures", film_id, b"picture")
    return film_id


def study_of(store: Store, film_id: str) -> str:
    with store.read() as session:
        return session.get_one(Film, film_id).study_id


def count(store: Store, table: type) -> int:
    with store.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def blobs(store: Store) -> set[str]:
    return {f"{kind}/{name}" for kind in KINDS for name, _ in store.blobs.names(kind)}


def age_blobs(store: Store) -> None:
    """Make all blobs two hours old."""
    for file in store.blobs.root.glob("*/??/*"):
        os.utime(file, (time.time() - 7200,) * 2)


def test_nothing_is_deleted_by_default(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    old_film(store, 9999)
    assert apply_retention(store) == Deleted()
    assert count(store, Film) == 1
    assert len(blobs(store)) == 3
    assert count(store, AuditEntry) == 0
    store.close()


def test_studies_go_with_everything_that_belongs_to_them(tmp_path: Path) -> None:
    store = make_store(tmp_path, privacy__retain_days=30)
    over, kept = old_film(store, 31), old_film(store, 29)
    add_feedback(store, over)
    dry = apply_retention(store, dry_run=True)
    assert dry == Deleted(studies=1, films=1)
    assert count(store, Film) == 2
    assert apply_retention(store) == Deleted(studies=1, films=1)
    assert apply_retention(store) == Deleted()
    assert {count(store, table) for table in (Study, Film, Result, Job)} == {1}
    assert count(store, Feedback) == 0
    assert {name.split("/")[1] for name in blobs(store)} == {kept}
    with store.read() as session:
        actions = session.scalars(select(AuditEntry.action).order_by(AuditEntry.id)).all()
    assert actions == ["study.deleted", "retention.applied"]
    assert audit_log.verify(store).broken_at is None
    store.close()


def test_many_studies_go_in_blocks(tmp_path: Path) -> None:
    store = make_store(tmp_path, privacy__retain_days=1)
    for _ in range(130):
        add_film(store, at=now() - timedelta(days=2))
    assert apply_retention(store).studies == 130
    store.close()


def test_pixels_go_and_answers_stay(tmp_path: Path) -> None:
    store = make_store(tmp_path, privacy__retain_film_days=10)
    over, kept = old_film(store, 11), old_film(store, 9)
    pending = old_film(store, 11)
    with store.write() as session:
        session.add(Job(film_id=pending, kind="deliver", target="pacs"))
    assert apply_retention(store, dry_run=True).pixels == 1
    assert apply_retention(store).pixels == 1
    assert apply_retention(store).pixels == 0
    with store.read() as session:
        assert session.get_one(Film, over).pixels_gone
        assert session.get_one(Film, over).result is not None
        assert not session.get_one(Film, kept).pixels_gone
    assert {name.split("/")[1] for name in blobs(store)} == {kept, pending}
    store.close()


@pytest.mark.parametrize(
    ("policy", "erased"),
    [("never", {"done", "failed", "open"}), ("until-delivered", {"done"}), ("always", set())],
)
def test_identities_go_by_policy(tmp_path: Path, policy: str, erased: set[str]) -> None:
    store = make_store(tmp_path, privacy__keep_identities=policy)
    films = {name: add_film(store, identity=b"sealed") for name in ("done", "failed", "open")}
    states = {"done": "done", "failed": "failed", "open": "waiting"}
    with store.write() as session:
        for name, film_id in films.items():
            job = Job(film_id=film_id, kind="deliver", target="pacs", state=states[name], finished_at=now())
            session.add(job)
    assert apply_retention(store, dry_run=True).identities == len(erased)
    assert apply_retention(store).identities == len(erased)
    with store.read() as session:
        gone = {name for name, film_id in films.items() if session.get_one(Film, film_id).identity is None}
    assert gone == erased
    store.close()


def test_an_identity_outlives_a_delivery_that_was_given_up_by_a_week(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    film = add_film(store, identity=b"sealed")
    with store.write() as session:
        week = now() - timedelta(days=8)
        session.add(Job(film_id=film, kind="deliver", target="pacs", state="failed", finished_at=week))
    assert apply_retention(store).identities == 1
    store.close()


def test_what_a_crash_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    kept = old_film(store, 1)
    waiting = add_film(store, examined=False)
    for film_id in (kept, waiting):
        store.blobs.put("received", film_id, b"as it came")  # kept is examined: a crash left this one
    stranger = new_id()
    store.blobs.put("films", stranger, b"no row")
    temporary = store.blobs.root / "maps" / kept[:2] / f"{kept}.123.abcd"
    temporary.write_bytes(b"half")
    assert sweep(store) == 0
    age_blobs(store)
    assert sweep(store, dry_run=True) == 3
    assert sweep(store) == 3
    assert blobs(store) == {
        f"films/{kept}", f"maps/{kept}", f"pictures/{kept}", f"received/{waiting}"
    }  # fmt: skip
    store.close()


def test_a_crash_between_row_and_blob_is_mended_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path, privacy__retain_days=1)
    old_film(store, 2)

    def crash(kind: str, film_id: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.blobs, "delete", crash)
        with pytest.raises(KeyboardInterrupt):
            apply_retention(store)
    assert count(store, Film) == 0
    assert len(blobs(store)) == 3
    age_blobs(store)
    assert apply_retention(store) == Deleted(orphans=3)
    assert blobs(store) == set()
    store.close()


def test_one_study_on_request(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    gone, kept = old_film(store, 0), old_film(store, 0)
    study = study_of(store, gone)
    assert delete_study(store, study, "anna") == Deleted(studies=1, films=1)
    assert {name.split("/")[1] for name in blobs(store)} == {kept}
    with store.read() as session:
        entry = session.scalar(select(AuditEntry))
    assert entry is not None
    assert (entry.actor, entry.action, entry.object) == ("anna", "study.deleted", study)
    with pytest.raises(InputError, match="no such study"):
        delete_study(store, study, "anna")
    store.close()


def test_batches_go_with_their_last_film(tmp_path: Path) -> None:
    store = make_store(tmp_path, privacy__retain_days=30)
    week = now() - timedelta(days=7)
    with store.write() as session:
        session.add_all([batch := Batch(created_at=now() - timedelta(days=31)), young := Batch()])
        session.add_all([full := Batch(created_at=week), Batch(created_at=week)])
    for of, days in ((batch, 31), (full, 7)):
        old_film(store, days, batch_id=of.id)
    apply_retention(store, dry_run=True)
    assert count(store, Batch) == 4
    apply_retention(store)
    with store.read() as session:
        assert set(session.scalars(select(Batch.id))) == {young.id, full.id}
    store.close()


def test_deleted_rows_do_not_stay_in_the_file(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    film = add_film(store, facts={"manufacturer": "CANARYMAKER"})
    file = tmp_path / "data" / "clinic.db"

    def everything() -> bytes:
        return b"".join(path.read_bytes() for path in file.parent.glob("clinic.db*"))

    assert b"CANARYMAKER" in everything()
    delete_study(store, study_of(store, film), "anna")
    assert b"CANARYMAKER" not in everything()
    store.close()
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
