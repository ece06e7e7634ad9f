"""REST: every route with its exact answers, and what goes wrong as problems."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from fhir.resources.R4B.bundle import Bundle as FhirBundle
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, func, select

import pneumoscope
from pneumoscope.inference.examination import record
from pneumoscope.inference.pipeline import examine
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.retention import apply_retention, delete_study
from pneumoscope_clinic.store.tables import AuditEntry, Batch, Feedback, Film, Idempotency, Job, Study
from pneumoscope_clinic.web.app import create_app
from tests.clinic.films import dicom_film, jpeg_film, pixels, png_film
from tests.clinic.running import RunningClinic, running_clinic
from tests.clinic.stores import make_store, put_film

PROBLEM = "application/problem+json"
NOBODY = "0" * 32
REST: dict[str, Any] = {
    "gate": {"verdict": "ANSWER", "reasons": [], "scores": {}},
    **{key: [] for key in ("reasons", "warnings", "limitations")},
    **dict.fromkeys(("probabilities", "etiology", "operating_point", "threshold", "answer_set"), None),
    **{"etiology_set": None, "explanation": None, "versions": {}, "forced": False},
}
"""What ``put_film`` leaves out of a result."""


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningClinic]:
    with running_clinic(tmp_path_factory.mktemp("clinic")) as running:
        yield running


@pytest.fixture(scope="module")
def film(clinic: RunningClinic) -> dict[str, Any]:
    """An image that is examined."""
    return clinic.send(png_film(0.8), age_years="3.5", reference="bed 7")


def problem(answer: Any, status: int) -> dict[str, Any]:
    """The body of a problem, checked to be one."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert set(body) <= {"type", "title", "status", "expected", "remedy", "errors"}
    return body


def counts(clinic: RunningClinic) -> list[int]:
    """Rows that a request may have made."""
    with clinic.store.read() as session:
        tables = (Study, Film, Job, Batch, Feedback, Idempotency)
        return [session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


# Examine


def test_the_answer_is_that_of_the_pipeline(clinic: RunningClinic, film: dict[str, Any], tmp_path) -> None:
    file = tmp_path / "film"
    file.write_bytes(png_film(0.8))
    alone = record(file, examine(file, clinic.bundle, age_years=3.5))

    result = film["result"]
    assert {key: result[key] for key in result if key in alone and key != "explanation"} == {
        key: alone[key] for key in result if key in alone and key != "explanation"
    }
    assert result["explanation"] == {
        key: value for key, value in alone["explanation"].items() if key in result["explanation"]
    }
    assert result["decision"] == "POSITIVE"
    assert result["bundle"] == clinic.bundle.id
    assert result["limitations"] == ["It knows nothing about pneumonia."]
    assert result["versions"]["pneumoscope"] == pneumoscope.__version__
    assert 0 < result["seconds"] < 30


def test_what_is_known_of_a_film(film: dict[str, Any]) -> None:
    assert film["state"] == "done"
    assert film["problem"] is None
    assert film["source"] == "api"
    assert film["age_years"] == 3.5
    assert film["silent"] is False
    assert film["pixels_kept"] is True
    assert film["batch_id"] is None
    assert film["feedback"] == []
    assert film["heat_maps"] == ["bacterial", "viral"]
    assert film["facts"]["format"] == "PNG"
    assert (film["facts"]["rows"], film["facts"]["columns"]) == (120, 160)
    assert datetime.fromisoformat(film["received_at"]).utcoffset() == timedelta(0)


def test_an_examination_says_where_the_film_is(clinic: RunningClinic) -> None:
    answer = clinic.client.post("/v1/examine", files={"film": ("x.jpg", jpeg_film(0.2))})

    assert answer.status_code == 200
    assert answer.json()["result"]["decision"] == "NEGATIVE"
    assert clinic.client.get(answer.headers["location"]).json() == answer.json()
    assert "retry-after" not in answer.headers


def test_options_reach_the_examination(clinic: RunningClinic) -> None:
    sensitive = clinic.send(png_film(0.6), operating_point="sensitive")["result"]
    balanced = clinic.send(png_film(0.6))["result"]

    assert (sensitive["operating_point"], sensitive["threshold"]) == ("sensitive", 0.6)
    assert (balanced["operating_point"], balanced["threshold"]) == ("balanced", 0.7)


def test_a_film_that_cannot_be_read_fails_by_itself(clinic: RunningClinic) -> None:
    film = clinic.send(b"these bytes are no image")

    assert (film["state"], film["result"], film["heat_maps"]) == ("failed", None, [])
    assert film["problem"]["kind"] == "UnreadableFileError"
    assert film["problem"]["fault"] == "input"
    assert problem(clinic.client.get(f"/v1/films/{film['id']}/picture.jpg"), 404)


def test_without_waiting(clinic: RunningClinic) -> None:
    with clinic.resting():
        answer = clinic.client.post("/v1/examine?wait=false", files={"film": ("x", png_film(0.3))})
        taken = answer.json()
        now = clinic.client.get(f"/v1/films/{taken['id']}").json()

        assert answer.status_code == 202
        assert answer.headers["location"] == f"/v1/films/{taken['id']}"
        assert answer.headers["retry-after"] == "1"
        assert (taken["state"], taken["result"]) == ("waiting", None)
        assert now == taken
        for name in ("picture.jpg", "report.pdf"):
            assert "no" in problem(clinic.client.get(f"/v1/films/{taken['id']}/{name}"), 404)["title"]
        assert problem(clinic.client.get(f"/v1/studies/{taken['study_id']}/fhir"), 404)

    later = clinic.client.get(f"/v1/films/{taken['id']}?wait=30").json()
    assert later["state"] == "done"
    assert clinic.client.get(f"/v1/films/{taken['id']}/picture.jpg").status_code == 200


def test_waiting_ends_in_time_and_leaves_nothing_behind(tmp_path) -> None:
    with running_clinic(tmp_path, server__request_seconds=0.2) as clinic, clinic.resting():
        started = time.perf_counter()
        answer = clinic.client.post("/v1/examine", files={"film": ("x", png_film())})
        again = clinic.client.get(answer.headers["location"], params={"wait": 0.2})
        took = time.perf_counter() - started

        assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
        assert again.json() == answer.json()
        assert 0.4 < took < 5
        assert len(clinic.app.state.waiting) == 0


@pytest.mark.parametrize(
    ("form", "where"),
    [
        ({"age_years": "-1"}, "age_years"),
        ({"age_years": "nan"}, "age_years"),
        ({"age_years": "Canary"}, "age_years"),
        ({"reference": "x" * 101}, "reference"),
    ],
)
def test_a_wrong_parameter(clinic: RunningClinic, form: dict[str, str], where: str) -> None:
    answer = clinic.client.post("/v1/examine", files={"film": ("x", png_film())}, data=form)
    body = problem(answer, 422)

    assert [error["where"] for error in body["errors"]] == [["body", where]]
    assert "Canary" not in answer.text


def test_fields_that_are_unknown_or_given_twice(clinic: RunningClinic) -> None:
    two = [("film", ("a.png", png_film())), ("film", ("b.png", png_film()))]
    answer = clinic.client.post("/v1/examine", files=two)
    assert "2 fields 'film'" in problem(answer, 422)["title"]
    for path, name in (("/v1/examine", "film"), ("/v1/batches", "films")):
        answer = clinic.client.post(path, files={name: png_film()}, data={"agee_years": "3"})
        assert "unknown field" in problem(answer, 422)["title"]


def test_wrong_requests_to_examine(clinic: RunningClinic) -> None:
    before, post = counts(clinic), clinic.client.post
    film = {"film": ("x", png_film())}

    assert problem(post("/v1/examine"), 422)["errors"][0]["where"] == ["body", "film"]
    assert problem(post("/v1/examine", files={"film": ("x", b"")}), 422)["title"] == "the file is empty"
    wrong_point = problem(post("/v1/examine", files=film, data={"operating_point": "Canary"}), 422)
    assert wrong_point["expected"] == "one of balanced, sensitive"
    assert "Canary" not in str(wrong_point)
    assert problem(post("/v1/examine?wait=perhaps", files=film), 422)
    broken = {"content-type": "multipart/form-data"}
    assert problem(post("/v1/examine", content=b"x", headers=broken), 400)
    for key in ("", "two words", "x" * 101):
        assert problem(post("/v1/examine", files=film, headers={"Idempotency-Key": key}), 422)
    assert counts(clinic) == before


def test_a_body_that_is_too_large(tmp_path) -> None:
    store = make_store(tmp_path, server__max_upload_mb=0.01)
    with TestClient(create_app(store)) as client:
        body = problem(client.post("/v1/examine", content=bytes(2**21)), 413)
    store.close()
    assert body["expected"] == f"at most {10485 + 2**20} bytes"


# Idempotency


def test_a_repeated_request_makes_nothing_new(clinic: RunningClinic) -> None:
    key = {"Idempotency-Key": "once-1"}
    first = clinic.send(png_film(0.7), key, reference="a")
    before = counts(clinic)
    again = clinic.send(png_film(0.7), key, reference="a")

    assert again == first
    assert counts(clinic) == before


def test_a_used_key_with_another_body(clinic: RunningClinic) -> None:
    key = {"Idempotency-Key": "once-2"}
    clinic.send(png_film(0.7), key)
    before = counts(clinic)
    other = {"film": ("x", png_film(0.6))}

    assert problem(clinic.client.post("/v1/examine", files=other, headers=key), 409)
    assert problem(
        clinic.client.post("/v1/batches", files=[("films", ("x", png_film(0.7)))], headers=key), 409
    )
    options = clinic.client.post(
        "/v1/examine", files={"film": ("x", png_film(0.7))}, data={"age_years": 5}, headers=key
    )
    assert problem(options, 409)["remedy"] == "use a new key for a new request"
    assert counts(clinic) == before


def test_keys_of_two_users_have_nothing_to_do_with_each_other(clinic: RunningClinic) -> None:
    key = {"Idempotency-Key": "once-3"}
    mine = clinic.send(png_film(0.7), key)
    theirs = clinic.send(png_film(0.2), {**clinic.headers("neighbour"), **key})

    assert mine["id"] != theirs["id"]


def test_the_same_key_at_the_same_moment(clinic: RunningClinic) -> None:
    before = counts(clinic)
    starting = threading.Barrier(4)

    def send(_: int) -> dict[str, Any]:
        starting.wait()
        return clinic.send(png_film(0.75), {"Idempotency-Key": "once-4"})

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, range(4)))

    assert [answer == answers[0] for answer in answers] == [True] * 4
    assert [new - old for new, old in zip(counts(clinic), before, strict=True)] == [1, 1, 1, 0, 0, 1]
    kept = [name for name, _ in clinic.store.blobs.names("received")]
    assert kept == []


def test_what_was_deleted_is_not_made_again_by_its_key(clinic: RunningClinic) -> None:
    key = {"Idempotency-Key": "once-5"}
    film = clinic.send(png_film(0.7), key)
    delete_study(clinic.store, film["study_id"], "test")

    answer = clinic.client.post("/v1/examine", files={"film": ("x", png_film(0.7))}, headers=key)
    assert "deleted" in problem(answer, 409)["title"]


# Batches


def test_a_batch(clinic: RunningClinic) -> None:
    films = [("films", (f"{mean}.png", png_film(mean))) for mean in (0.2, 0.5, 0.8)]
    with clinic.resting():
        answer = clinic.client.post("/v1/batches", files=films, data={"age_years": "4"})
        assert answer.status_code == 202
        assert answer.json()["open"] == 3
        assert [film["state"] for film in answer.json()["films"]] == ["waiting"] * 3

    batch = _settled(clinic, answer.headers["location"])
    assert batch["id"] == answer.json()["id"]
    assert [film["id"] for film in batch["films"]] == [film["id"] for film in answer.json()["films"]]
    assert [film["result"]["decision"] for film in batch["films"]] == ["NEGATIVE", "NEGATIVE", "POSITIVE"]
    assert {film["batch_id"] for film in batch["films"]} == {batch["id"]}
    assert {film["age_years"] for film in batch["films"]} == {4.0}


def test_a_batch_with_one_bad_film(clinic: RunningClinic) -> None:
    films = [("films", ("a", png_film(0.8))), ("films", ("b", b"no image"))]
    answer = clinic.client.post("/v1/batches", files=films)

    batch = _settled(clinic, answer.headers["location"])
    assert [film["state"] for film in batch["films"]] == ["done", "failed"]


def test_a_batch_is_repeated_as_a_whole(clinic: RunningClinic) -> None:
    key = {"Idempotency-Key": "batch-1"}
    films = [("films", ("a", png_film(0.31))), ("films", ("b", png_film(0.32)))]
    first = clinic.client.post("/v1/batches", files=films, headers=key).json()
    before = counts(clinic)
    again = clinic.client.post("/v1/batches", files=films, headers=key).json()

    assert again["id"] == first["id"]
    assert [film["id"] for film in again["films"]] == [film["id"] for film in first["films"]]
    assert counts(clinic) == before
    assert problem(clinic.client.post("/v1/batches", files=films[:1], headers=key), 409)


def test_a_batch_that_broke_off_is_completed(clinic: RunningClinic, monkeypatch: pytest.MonkeyPatch) -> None:
    from pneumoscope_clinic.web import api_v1

    key = {"Idempotency-Key": "batch-2"}
    films = [("films", ("a", png_film(0.33))), ("films", ("b", png_film(0.34)))]
    real = api_v1.receive

    def breaks(store: Any, content: bytes, *args: Any, **keywords: Any) -> Any:
        if content == png_film(0.34):
            raise OSError("no space left on device")
        return real(store, content, *args, **keywords)

    with monkeypatch.context() as broken, TestClient(clinic.app, raise_server_exceptions=False) as client:
        broken.setattr(api_v1, "receive", breaks)
        headers = {**dict(clinic.client.headers), **key}
        failed = client.post("/v1/batches", files=films, headers=headers)
        assert problem(failed, 500) == {
            "type": "about:blank", "title": "an unexpected error of ours", "status": 500
        }  # fmt: skip
    answer = clinic.client.post("/v1/batches", files=films, headers=key)

    assert len(answer.json()["films"]) == 2
    assert _settled(clinic, answer.headers["location"])["open"] == 0


def test_wrong_batches(clinic: RunningClinic) -> None:
    post, before = clinic.client.post, counts(clinic)

    assert problem(post("/v1/batches"), 422)
    empty = [("films", ("a", png_film())), ("films", ("b", b""))]
    assert problem(post("/v1/batches", files=empty), 422)["remedy"] == "leave it out"
    assert problem(post("/v1/batches", files=[("films", ("a", b"x"))] * 201), 422)
    assert counts(clinic) == before
    assert problem(clinic.client.get(f"/v1/batches/{NOBODY}"), 404)


def _settled(clinic: RunningClinic, path: str) -> dict[str, Any]:
    for _ in range(600):
        batch: dict[str, Any] = clinic.client.get(path).json()
        if not batch["open"]:
            return batch
        time.sleep(0.05)
    raise AssertionError("the batch is not settled")


# Studies


def test_a_study(clinic: RunningClinic, film: dict[str, Any]) -> None:
    study = clinic.client.get(f"/v1/studies/{film['study_id']}").json()

    assert study["id"] == film["study_id"]
    assert study["reference"] == "bed 7"
    assert study["films"] == [clinic.client.get(f"/v1/films/{film['id']}").json()]


def test_films_of_one_dicom_study_are_one_study(clinic: RunningClinic) -> None:
    uid = "1.2.826.0.1.3680043.8.498.1"
    first = clinic.send(dicom_film(0.2, StudyInstanceUID=uid))
    second = clinic.send(dicom_film(0.8, StudyInstanceUID=uid))
    answer = clinic.client.get(f"/v1/studies/{first['study_id']}")

    assert second["study_id"] == first["study_id"]
    assert [film["id"] for film in answer.json()["films"]] == [first["id"], second["id"]]
    assert (first["sex"], first["age_years"]) == ("F", 3.0)
    assert "Canary" not in answer.text
    assert uid not in answer.text


def test_pages_have_no_gaps_and_no_doubles(tmp_path) -> None:
    store = make_store(tmp_path)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with store.write() as session:
        # Five at a time arrive in the same microsecond: the id decides between them.
        films = [
            put_film(session, store, at=start + timedelta(minutes=number // 5), examined=False)
            for number in range(250)
        ]
        there = {session.get_one(Film, film).study_id for film in films}
    clinic = RunningClinic(store, None)  # type: ignore[arg-type]
    seen: list[str] = []
    times: list[str] = []
    after: str | None = None
    with clinic.client as client:
        while True:
            params = {"limit": 17, **({} if after is None else {"after": after})}
            page = client.get("/v1/studies", params=params).json()
            seen += [study["id"] for study in page["studies"]]
            times += [study["received_at"] for study in page["studies"]]
            with store.write() as session:  # a new one arrives between any two pages
                put_film(session, store, examined=False)
            after = page["next"]
            if after is None:
                break
        newest = client.get("/v1/studies", params={"limit": 1}).json()["studies"][0]
    store.close()

    assert len(seen) == len(set(seen)) == 250
    assert set(seen) == there
    assert times == sorted(times, reverse=True)
    assert newest["id"] not in seen


def test_filters(tmp_path) -> None:
    store = make_store(tmp_path)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows: dict[str, dict[str, Any]] = {
        "positive": {"probability": 0.9},
        "negative": {"probability": 0.1},
        "abstained": {"decision": "ABSTAIN", "probability": 0.5},
        "waiting": {"examined": False},
        "silent": {"probability": 0.9, "shadow": True},
    }
    with store.write() as session:
        for day, (name, values) in enumerate(rows.items()):
            film = put_film(session, store, at=start + timedelta(days=day), record=REST, **values)
            study = session.get_one(Film, film).study
            study.reference = store.cipher.encrypt(name.encode(), f"reference/{study.id}")
            if name == "negative":
                session.add(Feedback(film_id=film, agrees=True, diagnosis="normal"))
    clinic = RunningClinic(store, None)  # type: ignore[arg-type]

    def names(**params: Any) -> list[str]:
        answer = clinic.client.get("/v1/studies", params=params)
        assert answer.status_code == 200, answer.text
        return [study["reference"] for study in answer.json()["studies"]]

    with clinic.client:
        assert names() == list(reversed(rows))
        assert names(decision="POSITIVE") == ["positive"]
        assert names(decision="ABSTAIN") == ["abstained"]
        assert names(state="waiting") == ["waiting"]
        assert names(feedback="true") == ["negative"]
        assert names(feedback="false") == ["silent", "waiting", "abstained", "positive"]
        assert names(since="2026-01-04T00:00:00Z") == ["silent", "waiting"]
        assert names(since="2026-01-04T00:00:00") == ["silent", "waiting"]
        assert names(since="2026-01-04T01:00:00+01:00") == ["silent", "waiting"]
        assert names(until="2026-01-02T00:00:00Z") == ["positive"]
    store.close()


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 201},
        {"decision": "MAYBE"},
        {"state": "running"},
        {"since": "yesterday"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"after": "Canary"},
        {"after": base64.urlsafe_b64encode(b"2026-01-01T00:00:00 x").decode()},
        {"after": base64.urlsafe_b64encode(b"0001-01-01T00:00:00+14:00 " + NOBODY.encode()).decode()},
    ],
)
def test_wrong_questions(clinic: RunningClinic, params: dict[str, Any]) -> None:
    answer = clinic.client.get("/v1/studies", params=params)
    assert problem(answer, 422)
    assert "Canary" not in answer.text


def test_what_is_not_there(clinic: RunningClinic) -> None:
    for path in ("studies/{}", "studies/{}/fhir", "films/{}", "films/{}/picture.jpg", "films/{}/report.pdf",
                 "films/{}/heat-maps/viral.png"):  # fmt: skip
        assert "no such" in problem(clinic.client.get("/v1/" + path.format(NOBODY)), 404)["title"]
        assert problem(clinic.client.get("/v1/" + path.format("..%2f..%2fx")), 404)
        assert problem(clinic.client.get("/v1/" + path.format("Z" * 32)), 422)
    assert problem(clinic.client.get("/v1/nothing"), 404)
    wrong_method = clinic.client.delete("/v1/studies")
    assert problem(wrong_method, 405)
    assert wrong_method.headers["allow"] == "GET"


# Pictures, reports, FHIR


def test_the_picture(clinic: RunningClinic, film: dict[str, Any]) -> None:
    answer = clinic.client.get(f"/v1/films/{film['id']}/picture.jpg")

    assert answer.headers["content-type"] == "image/jpeg"
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert shown.shape == (120, 160)
    assert np.abs(shown.astype(float) - pixels(0.8)).max() <= 6  # JPEG of quality 92


def test_the_heat_maps(clinic: RunningClinic, film: dict[str, Any], tmp_path) -> None:
    file = tmp_path / "film"
    file.write_bytes(png_film(0.8))
    explanation = examine(file, clinic.bundle, age_years=3.5).explanation
    assert explanation is not None

    for name in film["heat_maps"]:
        answer = clinic.client.get(f"/v1/films/{film['id']}/heat-maps/{name}.png")
        assert answer.headers["content-type"] == "image/png"
        image = Image.open(io.BytesIO(answer.content))
        assert (image.mode, image.size) == ("L", (160, 120))
        expected = np.rint(explanation.heat_maps[name] * 255)
        assert np.abs(np.asarray(image).astype(float) - expected).max() <= 1
    assert problem(clinic.client.get(f"/v1/films/{film['id']}/heat-maps/normal.png"), 404)


def test_the_report(clinic: RunningClinic, film: dict[str, Any]) -> None:
    answer = clinic.client.get(f"/v1/films/{film['id']}/report.pdf")

    assert answer.headers["content-type"] == "application/pdf"
    assert answer.content.startswith(b"%PDF-")
    assert answer.content.count(b"/Type /Page\n") + answer.content.count(b"/Type /Page/") <= 1
    assert answer.headers["cache-control"] == "no-store"


def test_fhir(clinic: RunningClinic, film: dict[str, Any]) -> None:
    answer = clinic.client.get(f"/v1/studies/{film['study_id']}/fhir")

    assert answer.headers["content-type"] == "application/fhir+json"
    bundle = FhirBundle.model_validate(answer.json())
    kinds = [entry.resource.get_resource_type() for entry in bundle.entry]
    assert {"DiagnosticReport", "Observation", "Device"} <= set(kinds)
    said = [
        component["valueQuantity"]["value"]
        for entry in answer.json()["entry"]
        for component in entry["resource"].get("component", ())
        if "valueQuantity" in component
    ]
    assert said == [round(film["result"]["probability"], 6), film["result"]["threshold"]]


def test_pixels_that_the_policy_deleted(tmp_path) -> None:
    with running_clinic(tmp_path, privacy__retain_film_days=1) as clinic:
        film = clinic.send(png_film(0.8))
        with clinic.store.write() as session:
            session.get_one(Film, film["id"]).created_at -= timedelta(days=2)
        clinic.rest()
        apply_retention(clinic.store)
        left = clinic.client.get(f"/v1/films/{film['id']}").json()

        assert (left["pixels_kept"], left["heat_maps"]) == (False, [])
        assert left["result"] == film["result"]
        for name in ("picture.jpg", "report.pdf"):
            assert "deleted" in problem(clinic.client.get(f"/v1/films/{film['id']}/{name}"), 422)["title"]
        assert problem(clinic.client.get(f"/v1/films/{film['id']}/heat-maps/viral.png"), 404)


# Feedback


def test_feedback(clinic: RunningClinic, film: dict[str, Any]) -> None:
    path = f"/v1/films/{film['id']}/feedback"
    agreed = clinic.client.post(path, json={"diagnosis": "viral", "comment": "RSV", "consent": True})
    against = clinic.client.post(path, json={"diagnosis": "normal"})

    assert agreed.status_code == against.status_code == 201
    assert {key: agreed.json()[key] for key in ("diagnosis", "agrees", "comment", "consent")} == {
        "diagnosis": "viral", "agrees": True, "comment": "RSV", "consent": True,
    }  # fmt: skip
    assert (against.json()["agrees"], against.json()["comment"], against.json()["consent"]) == (
        False,
        "",
        False,
    )
    stored = clinic.client.get(f"/v1/films/{film['id']}").json()["feedback"]
    assert stored == [agreed.json(), against.json()]


def test_feedback_is_given_once(clinic: RunningClinic) -> None:
    film = clinic.send(png_film(0.8))
    path, key = f"/v1/films/{film['id']}/feedback", {"Idempotency-Key": "feedback-1"}
    starting = threading.Barrier(3)

    def give(_: int) -> Any:
        starting.wait()
        return clinic.client.post(path, json={"diagnosis": "bacterial", "comment": "pus"}, headers=key).json()

    before = counts(clinic)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(give, range(3)))

    assert answers == [answers[0]] * 3
    assert clinic.client.get(f"/v1/films/{film['id']}").json()["feedback"] == [answers[0]]
    assert [new - old for new, old in zip(counts(clinic), before, strict=True)] == [0, 0, 0, 0, 1, 1]
    other = clinic.client.post(path, json={"diagnosis": "viral"}, headers=key)
    assert problem(other, 409)


def test_feedback_and_its_key_are_one_transaction(
    clinic: RunningClinic, film: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pneumoscope_clinic.store import idempotency

    def crash(*_: Any) -> None:
        raise OSError("power cut")

    before, key = counts(clinic), {"Idempotency-Key": "feedback-2"}
    with monkeypatch.context() as broken, TestClient(clinic.app, raise_server_exceptions=False) as client:
        broken.setattr(idempotency, "remember", crash)
        headers = {**dict(clinic.client.headers), **key}
        answer = client.post(f"/v1/films/{film['id']}/feedback", json={"diagnosis": "viral"}, headers=headers)
        assert problem(answer, 500)
    assert counts(clinic) == before


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, ["body", "diagnosis"]),
        ({"diagnosis": "influenza"}, ["body", "diagnosis"]),
        ({"diagnosis": "viral", "comment": "x" * 2001}, ["body", "comment"]),
        ({"diagnosis": "viral", "Canary^Name": 1}, ["body"]),
    ],
)
def test_wrong_feedback(
    clinic: RunningClinic, film: dict[str, Any], body: dict[str, Any], where: Any
) -> None:
    answer = clinic.client.post(f"/v1/films/{film['id']}/feedback", json=body)

    assert problem(answer, 422)["errors"][0]["where"] == where
    assert "Canary" not in answer.text
    missing = clinic.client.post(f"/v1/films/{NOBODY}/feedback", json={"diagnosis": "viral"})
    assert problem(missing, 404)


# Who may do what


ROUTES = [
    ("POST", "/v1/examine", "examine"),
    ("POST", "/v1/batches", "examine"),
    ("GET", f"/v1/batches/{NOBODY}", "read"),
    ("GET", "/v1/studies", "read"),
    ("GET", f"/v1/studies/{NOBODY}", "read"),
    ("GET", f"/v1/studies/{NOBODY}/fhir", "read"),
    ("GET", f"/v1/films/{NOBODY}", "read"),
    ("GET", f"/v1/films/{NOBODY}/picture.jpg", "read"),
    ("GET", f"/v1/films/{NOBODY}/heat-maps/viral.png", "read"),
    ("GET", f"/v1/films/{NOBODY}/report.pdf", "read"),
    ("POST", f"/v1/films/{NOBODY}/feedback", "feedback"),
    ("GET", "/v1/bundles", "read"),
    ("GET", "/metrics", "read"),
]


@pytest.fixture(scope="module")
def tokens(clinic: RunningClinic) -> dict[str, dict[str, str]]:
    return {
        scope: clinic.headers(f"only-{scope}", "reviewer", [scope])
        for scope in ("examine", "read", "feedback")
    }


def test_every_route_is_in_the_list_above(clinic: RunningClinic) -> None:
    described = {
        (method.upper(), path.format(film_id=NOBODY, study_id=NOBODY, batch_id=NOBODY, name="viral"))
        for path, operations in clinic.app.openapi()["paths"].items()
        for method in operations
    }
    assert described - {(method, path) for method, path, _ in ROUTES} == {
        ("GET", "/health/live"), ("GET", "/health/ready"),
    }  # fmt: skip


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
def test_scopes(clinic: RunningClinic, tokens: Any, method: str, path: str, scope: str) -> None:
    valid: dict[str, Any] = {}
    if path.endswith("examine"):
        valid = {"files": {"film": ("x", b"no image")}}
    elif path.endswith("batches"):
        valid = {"files": [("films", ("x", b"no image"))]}
    elif method == "POST":
        valid = {"json": {"diagnosis": "viral"}}
    for held, headers in tokens.items():
        answer = clinic.client.request(method, path, headers=headers, **valid)
        if held == scope:
            assert answer.status_code in (200, 202, 404), answer.text
        else:
            assert problem(answer, 403)["title"] == f"this needs the scope {scope}"


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer pns_wrong"}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}],
)
def test_without_a_valid_token(clinic: RunningClinic, headers: dict[str, str]) -> None:
    stranger = TestClient(clinic.app)
    for method, path, _ in ROUTES:
        answer = stranger.request(method, path, headers=headers)
        assert problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"


def test_films_of_others_are_not_there(clinic: RunningClinic, film: dict[str, Any]) -> None:
    neighbour = clinic.headers("nosy", "reader")
    get = clinic.client.get
    for path in (f"films/{film['id']}", f"films/{film['id']}/report.pdf", f"studies/{film['study_id']}"):
        there = problem(get(f"/v1/{path}", headers=neighbour), 404)
        nowhere = problem(
            get("/v1/" + path.replace(film["id"], NOBODY).replace(film["study_id"], NOBODY)), 404
        )
        assert there == nowhere
    assert get("/v1/studies", headers=neighbour).json() == {"studies": [], "next": None}


def test_what_is_asked_is_in_the_audit_log(clinic: RunningClinic) -> None:
    film = clinic.send(png_film(0.8), {"Idempotency-Key": "audited"})
    clinic.client.post(f"/v1/films/{film['id']}/feedback", json={"diagnosis": "viral", "comment": "Canary"})
    with clinic.store.read() as session:
        rows = session.scalars(select(AuditEntry).where(AuditEntry.object == film["id"])).all()
        found = [(row.actor, row.action) for row in rows]

    assert found == [("user:admin", "film.received"), ("worker", "film.examined"), ("user:admin", "feedback")]
    assert "Canary" not in str([row.detail for row in rows])
    assert audit_log.verify(clinic.store).broken_at is None


# Silent mode, bundles, metrics, health


def test_silent_mode_withholds_results(tmp_path) -> None:
    with running_clinic(tmp_path, shadow=True) as clinic:
        film = clinic.send(png_film(0.8))

        assert film["state"] == "done"
        assert (film["result"], film["silent"], film["heat_maps"]) == (None, True, [])
        for path in ("report.pdf", "heat-maps/viral.png"):
            assert problem(clinic.client.get(f"/v1/films/{film['id']}/{path}"), 404)
        assert problem(clinic.client.get(f"/v1/studies/{film['study_id']}/fhir"), 404)
        listed = clinic.client.get("/v1/studies").json()["studies"][0]
        assert listed["films"] == [film]
        assert clinic.client.get("/v1/studies?decision=POSITIVE").json()["studies"] == []
        with clinic.store.read() as session:
            stored = session.get_one(Film, film["id"]).result
        assert stored is not None
        assert stored.decision == "POSITIVE"


def test_bundles(clinic: RunningClinic) -> None:
    (bundle,) = clinic.client.get("/v1/bundles").json()

    assert (bundle["id"], bundle["by"]) == (clinic.bundle.id, "setup")
    assert bundle["card"] == clinic.bundle.card()


def test_metrics(tmp_path) -> None:
    with running_clinic(tmp_path) as clinic:
        clinic.send(png_film(0.8))
        clinic.send(png_film(0.2))
        bad = clinic.send(b"no image")
        film = clinic.send(png_film(0.7))
        clinic.client.post(f"/v1/films/{film['id']}/feedback", json={"diagnosis": "viral"})
        clinic.rest()
        clinic.client.post("/v1/examine?wait=false", files={"film": ("x", png_film())})
        with clinic.store.write() as session:
            for job in session.scalars(select(Job).where(Job.state == "waiting")):
                job.due_at -= timedelta(minutes=10)
        answer = clinic.client.get("/metrics")
        seconds = sum(
            clinic.client.get(f"/v1/films/{row}").json()["result"]["seconds"] for row in _done(clinic)
        )
    assert bad["state"] == "failed"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    waiting = values.pop(("pneumoscope_oldest_waiting_seconds",))
    assert 600 <= waiting < 660
    assert values.pop(("pneumoscope_examining_seconds_total",)) == pytest.approx(seconds)
    assert values == {
        ("pneumoscope_films_received_total", ("source", "api")): 5,
        ("pneumoscope_results_total", ("decision", "POSITIVE")): 2,
        ("pneumoscope_results_total", ("decision", "NEGATIVE")): 1,
        ("pneumoscope_feedback_total", ("diagnosis", "viral")): 1,
        ("pneumoscope_jobs", ("kind", "examine"), ("state", "done")): 3,
        ("pneumoscope_jobs", ("kind", "examine"), ("state", "failed")): 1,
        ("pneumoscope_jobs", ("kind", "examine"), ("state", "waiting")): 1,
        ("pneumoscope_open_alarms",): 0,
        ("pneumoscope_info", ("bundle", clinic.bundle.id), ("version", pneumoscope.__version__)): 1,
    }


def _done(clinic: RunningClinic) -> list[str]:
    with clinic.store.read() as session:
        return list(session.scalars(select(Job.film_id).where(Job.kind == "examine", Job.state == "done")))


def test_metrics_may_be_open(tmp_path) -> None:
    store = make_store(tmp_path, server__open_metrics=True)
    with TestClient(create_app(store)) as stranger:
        assert stranger.get("/metrics").status_code == 200
    store.close()


def test_health(clinic: RunningClinic) -> None:
    stranger = TestClient(clinic.app)

    assert stranger.get("/health/live").json() == {"status": "ok", "checks": {}}
    ready = stranger.get("/health/ready")
    assert (ready.status_code, ready.json()) == (
        200, {"status": "ok", "checks": {"database": "ok", "bundle": clinic.bundle.id}},
    )  # fmt: skip


def test_a_database_that_is_away(tmp_path) -> None:
    store = make_store(tmp_path)
    store.engine.dispose()
    # Nothing listens on port 1, so that connecting fails as it does when PostgreSQL is stopped.
    store.engine = store._writing = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with TestClient(create_app(store)) as client:
        ready = client.get("/health/ready")
        alive = client.get("/health/live")
        asked = client.get("/v1/studies", headers={"Authorization": "Bearer pns_x"})
    store.close()

    assert (ready.status_code, ready.json()) == (
        503, {"status": "not ready", "checks": {"problem": "OperationalError"}},
    )  # fmt: skip
    assert alive.status_code == 200
    assert problem(asked, 503)["title"] == "the database does not answer"
    assert int(asked.headers["retry-after"]) > 0


def test_waiting_outlasts_a_database_that_is_away(clinic: RunningClinic, monkeypatch, caplog) -> None:
    from sqlalchemy.exc import OperationalError

    queue = clinic.app.state.waiting._queue
    real, calls = queue.settled, []

    def sometimes(*args: Any) -> set[str]:
        calls.append(args)
        if len(calls) == 1:
            raise OperationalError("SELECT", {}, OSError("Canary"))
        return real(*args)

    monkeypatch.setattr(queue, "settled", sometimes)
    answer = clinic.client.post("/v1/examine", files={"film": ("x", png_film(0.8))})

    assert answer.status_code == 200
    assert answer.json()["state"] == "done"
    assert len(calls) > 1
    assert "Canary" not in caplog.text
