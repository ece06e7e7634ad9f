"""The description of the REST interface: kept in the repository, and true of what the server answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS

from pneumoscope_clinic.web.app import create_app
from tests.clinic.films import png_film
from tests.clinic.running import RunningClinic, running_clinic
from tests.clinic.stores import make_store

COPY = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"
WANTED = [
    check
    for check in CHECKS.get_all()
    # An empty file, and a place in a list that nobody gave, are described as well as they can be.
    if check.__name__ != "positive_data_acceptance"
]
SECURED = 13
"""Operations that need a token."""


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningClinic]:
    with running_clinic(tmp_path_factory.mktemp("clinic"), server__request_seconds=5) as running:
        yield running


@pytest.fixture(scope="module")
def api(clinic: RunningClinic) -> Any:
    return schemathesis.openapi.from_asgi("/v1/openapi.json", clinic.app)


def _operations() -> list[tuple[str, dict[str, Any]]]:
    paths = json.loads(COPY.read_text(encoding="utf-8"))["paths"]
    return [(f"{method} {path}", one) for path, methods in paths.items() for method, one in methods.items()]


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("name", [name for name, _ in _operations()])
def test_whatever_is_sent_the_answer_is_as_described(
    api: Any, clinic: RunningClinic, name: str, mode: GenerationMode
) -> None:
    method, path = name.split(" ")
    operation = api[path][method]
    if mode is GenerationMode.NEGATIVE and not any(operation.iter_parameters()):
        pytest.skip("nothing can be wrong with it")

    @settings(
        max_examples=6,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        case.call_and_validate(headers=dict(clinic.client.headers), checks=WANTED)

    ask()


def test_answers_about_what_is_there_are_as_described(api: Any, clinic: RunningClinic) -> None:
    film = clinic.send(png_film(0.8))
    failed = clinic.send(b"no image")
    refused = clinic.send(png_film(0.02))
    batch = clinic.client.post("/v1/batches", files=[("films", ("x", png_film(0.8)))]).json()["id"]
    ids = [
        {"film_id": one["id"], "study_id": one["study_id"], "batch_id": batch}
        for one in (film, failed, refused)
    ]
    called = set()
    for operation in (result.ok() for result in api.get_all_operations()):
        if operation.method == "post" and "feedback" not in operation.path:
            continue  # above
        for known in ids:
            names = {**known, "name": "viral"}
            parameters = {key: value for key, value in names.items() if "{" + key + "}" in operation.path}
            body = {"body": {"diagnosis": "viral"}, "media_type": "application/json"}
            case = operation.Case(path_parameters=parameters, **(body if operation.method == "post" else {}))
            answer = case.call(headers=dict(clinic.client.headers))
            case.validate_response(answer, checks=WANTED[:5])
            called.add((operation.path, answer.status_code < 300))

    assert {path for path, good in called if good} == {
        path for path, operations in clinic.app.openapi()["paths"].items() if "/examine" not in path
    } - {"/v1/batches"}


def test_the_copy_in_the_repository_is_the_description(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    described = create_app(store).openapi()
    store.close()

    assert json.loads(COPY.read_text(encoding="utf-8")) == described, (
        "write it anew: curl http://127.0.0.1:8765/v1/openapi.json"
        " | python -m json.tool --indent 2 --no-ensure-ascii > docs/openapi.json"
    )


def test_every_operation_is_explained() -> None:
    for name, operation in _operations():
        assert operation["description"], name
        assert operation["tags"], name
        for parameter in operation.get("parameters", []):
            path_id = parameter["in"] == "path" and parameter["name"].endswith("_id")
            assert parameter.get("description") or path_id or parameter["name"] == "limit", (name, parameter)


def test_tools_know_that_a_token_is_needed() -> None:
    description = json.loads(COPY.read_text(encoding="utf-8"))

    assert description["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    secured = {name: one["security"] for name, one in _operations() if "security" in one}
    assert len(secured) == SECURED
    assert secured["post /v1/examine"] == [{"token": ["examine"]}]
    assert secured["get /v1/studies"] == [{"token": ["read"]}]


def test_films_are_described_as_files() -> None:
    schemas = json.loads(COPY.read_text(encoding="utf-8"))["components"]["schemas"]
    operation = dict(_operations())["post /v1/examine"]

    sent = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]
    assert schemas[sent]["required"] == ["film"]
    assert schemas[sent]["properties"]["film"]["contentMediaType"] == "application/octet-stream"


def test_problems_have_their_own_media_type() -> None:
    for name, operation in _operations():
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and not name.endswith("/health/ready"):
                assert list(answer["content"]) == ["application/problem+json"], name
