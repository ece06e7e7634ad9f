"""Counters of Prometheus never fall, whatever is deleted; and they are exact."""

from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pneumoscope_clinic.store.retention import apply_retention, delete_study
from pneumoscope_clinic.store.tables import Film, Result, now
from pneumoscope_clinic.web.metrics import metrics_text
from tests.clinic.stores import add_bundle, add_feedback, add_film


def counters(store):
    return {
        (sample.name.removeprefix("pneumoscope_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics_text(store).decode())
        for sample in family.samples
        if family.type == "counter"
    }


def keep_for(store, days):
    privacy = store.settings.privacy.model_copy(update={"retain_days": days})
    store.settings = store.settings.model_copy(update={"privacy": privacy})


def test_counters_count_what_was_deleted(any_store):
    add_bundle(any_store)
    for number in range(7):
        at, source = now() - timedelta(days=number), "web" if number % 3 else "dimse"
        film_id = add_film(any_store, at=at, source=source, probability=number / 10)
        add_feedback(any_store, film_id, ("viral", "normal")[number % 2])
        with any_store.write() as session:
            session.get_one(Result, film_id).seconds = 0.1 * number + 1e-7 / 3
    add_film(any_store, examined=False, at=now() - timedelta(days=9))
    before = counters(any_store)
    assert before == {
        ("films_received_total", "web"): 4,
        ("films_received_total", "dimse"): 3,
        ("films_received_total", "api"): 1,
        ("results_total", "POSITIVE"): 2,
        ("results_total", "NEGATIVE"): 5,
        ("feedback_total", "viral"): 4,
        ("feedback_total", "normal"): 3,
        ("examining_seconds_total",): pytest.approx(2.1, abs=1e-6),
    }
    for days in (6, 4, 3, 1):  # exactly equal: a counter that is less by the last bit is a reset
        keep_for(any_store, days)
        assert apply_retention(any_store).studies > 0
        assert counters(any_store) == before
    with any_store.read() as session:
        (study_id,) = (film.study_id for film in session.query(Film))
    delete_study(any_store, study_id, "anna")
    assert counters(any_store) == before
    add_film(any_store, source="web")
    assert counters(any_store)["films_received_total", "web"] == 5


def test_an_empty_installation_has_counted_nothing(any_store):
    add_bundle(any_store)
    assert counters(any_store) == {("examining_seconds_total",): 0}
