"""Agreement with readers: counts, intervals, and blocks that are tested once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from scipy.stats import binom, binomtest

from pneumoscope_clinic.monitoring.agreement import (
    BLOCK,
    Reviewed,
    advance_agreement,
    agreement,
    by_week,
    reviewed_films,
)
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import now
from tests.clinic.stores import BUNDLE, add_feedback, add_film, make_store

AT = datetime(2026, 3, 4, 12, tzinfo=UTC)  # a Wednesday


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = make_store(tmp_path)
    yield made
    made.close()


def test_figures_by_hand() -> None:
    films = [
        Reviewed(AT, "POSITIVE", "bacterial", True),
        Reviewed(AT, "POSITIVE", "viral", True),
        Reviewed(AT, "NEGATIVE", "pneumonia-unspecified", False),
        Reviewed(AT, "NEGATIVE", "normal", True),
        Reviewed(AT, "POSITIVE", "other", False),
        Reviewed(AT, "ABSTAIN", "normal", False),
        Reviewed(AT, "NEGATIVE"),
    ]
    found = agreement(films)
    assert (found.films, found.reviewed, found.abstained) == (7, 6, 1)
    assert found.agreement is not None
    assert (found.agreement.value, found.agreement.n) == (0.6, 5)
    interval = binomtest(3, 5).proportion_ci(method="wilson")
    assert (found.agreement.low, found.agreement.high) == pytest.approx((interval.low, interval.high))
    assert found.sensitivity is not None
    assert (found.sensitivity.value, found.sensitivity.n) == (pytest.approx(2 / 3), 3)
    assert found.specificity is not None
    assert (found.specificity.value, found.specificity.n) == (0.5, 2)


def test_without_feedback_there_are_no_figures() -> None:
    found = agreement([Reviewed(AT, "NEGATIVE")])
    assert (found.agreement, found.sensitivity, found.specificity) == (None, None, None)


def test_weeks_begin_on_monday_and_empty_ones_are_left_out() -> None:
    films = [Reviewed(AT, "NEGATIVE"), Reviewed(AT + timedelta(days=4), "NEGATIVE")]
    films.append(Reviewed(AT + timedelta(days=19), "POSITIVE"))
    weeks = by_week(films)
    assert [(week.start, week.films) for week in weeks] == [(date(2026, 3, 2), 2), (date(2026, 3, 23), 1)]


def test_the_last_word_about_a_film_counts(store: Store) -> None:
    film = add_film(store, probability=0.9)
    silent = add_film(store, shadow=True)
    add_feedback(store, film, "normal", agrees=False)
    add_feedback(store, film, "viral", agrees=True)
    with store.read() as session:
        rows = reviewed_films(session, now() - timedelta(hours=1))
    assert silent != film
    assert [(row.decision, row.diagnosis, row.agrees) for row in rows] == [
        ("POSITIVE", "viral", True),
        ("NEGATIVE", None, None),
    ]
    with store.read() as session:
        assert reviewed_films(session, now() + timedelta(hours=1)) == []


def fill(store: Store, agreed: int, count: int, start: datetime) -> datetime:
    for number in range(count):
        start += timedelta(minutes=1)
        film = add_film(store, at=start)
        add_feedback(store, film, agrees=number < agreed, at=start)
    return start


def test_a_block_is_tested_once_by_the_exact_test(store: Store) -> None:
    start = now() - timedelta(days=3)
    refused = add_film(store, refused=True, at=start)
    add_feedback(store, refused, agrees=False, at=start)
    start = fill(store, 33, BLOCK - 1, start)
    assert advance_agreement(store, BUNDLE) == []
    start = fill(store, 0, 1, start)
    (block,) = advance_agreement(store, BUNDLE)
    assert (block.n, block.agreed) == (BLOCK, 33)
    assert block.p == pytest.approx(binom.cdf(33, 50, 0.85))
    assert block.alarming
    upper = binomtest(33, 50).proportion_ci(confidence_level=0.98, method="exact").high
    assert (upper < 0.85) is block.alarming
    assert advance_agreement(store, BUNDLE) == []
    fill(store, 45, BLOCK, start)
    (block,) = advance_agreement(store, BUNDLE)
    assert not block.alarming


def test_the_level_and_the_power_that_the_block_promises() -> None:
    largest = max(k for k in range(BLOCK + 1) if binom.cdf(k, BLOCK, 0.85) <= 0.01)
    assert binom.cdf(largest, BLOCK, 0.85) <= 0.01
    assert binom.cdf(largest, BLOCK, 0.65) == pytest.approx(0.81, abs=0.005)
