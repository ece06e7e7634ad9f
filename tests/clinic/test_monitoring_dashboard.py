"""The dashboard and the report: figures by hand, JSON as the truth, a page that is whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pneumoscope_clinic.monitoring.alarms import AlarmCause, open_alarm
from pneumoscope_clinic.monitoring.dashboard import dashboard
from pneumoscope_clinic.monitoring.report import document, report_page, write_report
from pneumoscope_clinic.monitoring.watch import check
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Job, now
from tests.clinic.stores import BUNDLE, add_bundle, add_feedback, add_film, make_store, put_film


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = make_store(tmp_path, monitoring__window=20)
    add_bundle(made, at=now() - timedelta(days=40), location=str(tmp_path / "gone"))
    yield made
    made.close()


def midday(days_ago: int) -> datetime:
    day = now().date() - timedelta(days=days_ago)
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def test_days_are_counted_by_what_became_of_the_films(store: Store) -> None:
    for at in (midday(1), midday(1), midday(0)):
        add_film(store, at=at, probability=0.9)
    add_film(store, at=midday(1), probability=0.1, shadow=True)
    add_film(store, at=midday(1), refused=True)
    add_film(store, at=midday(1), probability=0.5, decision="ABSTAIN")
    add_film(store, at=midday(9))
    failed = add_film(store, at=midday(1), examined=False)
    with store.write() as session:
        job = session.query(Job).filter(Job.film_id == failed).one()
        job.state, job.finished_at = "failed", midday(1)
    board = dashboard(store, days=3)
    empty, yesterday, today = board.days
    assert empty.films == 0
    assert empty.seconds is None
    assert (yesterday.films, yesterday.positive, yesterday.negative) == (5, 2, 1)
    assert (yesterday.abstained, yesterday.refused, yesterday.failed, yesterday.shadow) == (1, 1, 1, 1)
    assert (today.films, today.positive, today.seconds) == (1, 1, 0.1)
    assert board.positive_rate is not None
    assert (board.positive_rate.value, board.positive_rate.n) == (0.75, 4)
    assert board.abstention_rate is not None
    assert (board.abstention_rate.value, board.abstention_rate.n) == (0.2, 5)
    assert board.refusal_rate is not None
    assert (board.refusal_rate.value, board.refusal_rate.n) == (pytest.approx(1 / 6), 6)
    assert board.bundle_id == BUNDLE
    (queue,) = board.queue
    assert (queue.kind, queue.waiting, queue.failed) == ("examine", 0, 1)


def test_an_empty_installation_has_a_dashboard(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    board = dashboard(store, days=7)
    assert len(board.days) == 7
    assert (board.positive_rate, board.drift, board.alarms, board.queue) == (None, (), (), ())
    assert board.films_until_baseline == 400
    assert board.validation is not None
    assert board.validation.n == 5216
    assert board.validation.implied_prevalence is None
    assert "No alarm is open" in report_page(board, 0.85)
    store.close()


def filled(store: Store) -> None:
    for count, days_ago, mean in ((40, 20, 0.5), (20, 2, 0.9)):
        with store.write() as session:
            for number in range(count):
                at = midday(days_ago) + timedelta(seconds=number)
                drift = {"mean": mean + number / 1000}
                put_film(session, store, at=at, drift=drift, probability=number / count)
    reviewed = add_film(store, probability=0.9)
    add_feedback(store, reviewed, "bacterial", agrees=True)
    check(store)


def test_drift_alarms_and_notes_reach_the_dashboard(store: Store) -> None:
    filled(store)
    open_alarm(store, AlarmCause("queue", "The oldest image has waited"))
    board = dashboard(store)
    assert {row.quantity for row in board.drift if row.drifted} == {"mean"}
    assert [alarm.kind for alarm in board.alarms] == ["queue", "drift:mean"]
    assert board.window_end is not None
    assert board.films_until_window == 19
    assert any("readers choose" in note for note in board.notes)
    assert any("directory is gone" in note for note in board.notes)


def test_the_report_is_json_and_a_page_without_scripts(store: Store, tmp_path: Path) -> None:
    filled(store)
    board = dashboard(store)
    page = write_report(board, 0.85, tmp_path / "report")
    read = json.loads((tmp_path / "report" / "monitoring.json").read_text())
    assert read == document(board)
    assert read["days"][-1]["films"] == 1
    assert read["agreement"]["agreement"]["value"] == 1.0
    html = page.read_text()
    assert "<script" not in html
    assert "Drifted in the last complete window: Mean grey level." in html
    assert html.count("<figure>") == 2


def test_the_report_as_pdf(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("weasyprint")
    write_report(dashboard(store), 0.85, tmp_path, pdf=True)
    assert (tmp_path / "monitoring.pdf").read_bytes().startswith(b"%PDF-")
