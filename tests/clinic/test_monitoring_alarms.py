"""Alarms: opened once, told to a webhook until it answers, resolved, acknowledged."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pneumoscope.core.errors import ConfigError, InputError
from pneumoscope_clinic.monitoring.alarms import (
    TRIES,
    AlarmCause,
    acknowledge,
    alarm_rows,
    notify,
    open_alarm,
    resolve_alarm,
)
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.database import Store
from tests.clinic.stores import make_store

FINDING = AlarmCause("drift:contrast", "Contrast: 0.3 here, 0.2 in the baseline", 0.001, 0.005)


class Listener:
    """An HTTP server that answers with the next of ``replies``, and keeps what it was told."""

    def __init__(self) -> None:
        self.replies: list[int] = []
        self.heard: list[tuple[dict[str, str], bytes]] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.heard.append((dict(self.headers), body))
                self.send_response(listener.replies.pop(0) if listener.replies else 204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = make_store(tmp_path)
    yield made
    made.close()


def rows(store: Store, *, only_open: bool = True) -> list[str]:
    with store.read() as session:
        return [row.kind for row in alarm_rows(session, only_open=only_open)]


def test_an_alarm_opens_once_until_it_is_resolved(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert open_alarm(store, FINDING)
        assert not open_alarm(store, FINDING)
    assert [record.getMessage() for record in caplog.records] == [
        "alarm opened: drift:contrast: Contrast: 0.3 here, 0.2 in the baseline"
    ]
    assert resolve_alarm(store, FINDING.kind)
    assert not resolve_alarm(store, FINDING.kind)
    assert rows(store) == []
    assert open_alarm(store, FINDING)
    assert rows(store, only_open=False) == [FINDING.kind] * 2
    assert audit_log.verify(store).rows == 3


def test_the_first_to_acknowledge_counts(store: Store) -> None:
    open_alarm(store, FINDING)
    acknowledge(store, 1, "anna")
    acknowledge(store, 1, "ben")
    with store.read() as session:
        (row,) = alarm_rows(session)
    assert (row.acknowledged_by, row.resolved_at) == ("anna", None)
    with pytest.raises(InputError, match="there is no alarm 7"):
        acknowledge(store, 7, "anna")


def test_without_a_webhook_the_log_is_enough(store: Store) -> None:
    open_alarm(store, FINDING)
    assert notify(store) == 0


def test_a_webhook_hears_of_the_beginning_and_the_end_signed(tmp_path: Path, listener: Listener) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    store = make_store(
        tmp_path, monitoring__webhook_url=listener.url, monitoring__webhook_token_file=str(token)
    )
    open_alarm(store, FINDING)
    assert notify(store) == 0
    assert notify(store) == 0
    resolve_alarm(store, FINDING.kind)
    assert notify(store) == 0
    store.close()
    first, second = (json.loads(body) for _, body in listener.heard)
    assert (first["event"], second["event"]) == ("alarm.opened", "alarm.resolved")
    assert set(first) == {"event", "id", "kind", "message", "value", "limit", "created_at", "resolved_at"}
    headers, body = listener.heard[0]
    assert headers["Authorization"] == "Bearer s3cret"
    assert (
        headers["X-Pneumoscope-Signature"]
        == "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    )


def test_a_webhook_that_fails_is_tried_again_at_once_and_by_the_next_check(
    tmp_path: Path, listener: Listener
) -> None:
    store = make_store(tmp_path, monitoring__webhook_url=listener.url)
    listener.replies = [500, 503, 500]
    pauses: list[float] = []
    open_alarm(store, FINDING)
    assert notify(store, pauses.append) == 1
    assert (len(listener.heard), pauses) == (TRIES, [1.0, 4.0])
    assert notify(store, pauses.append) == 0
    assert len(listener.heard) == TRIES + 1
    store.close()


def test_a_webhook_that_is_not_there_loses_no_alarm(tmp_path: Path) -> None:
    store = make_store(tmp_path, monitoring__webhook_url="http://127.0.0.1:9/hook")
    open_alarm(store, FINDING)
    assert notify(store, lambda _: None) == 1
    store.close()


def test_a_token_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    store = make_store(
        tmp_path, monitoring__webhook_url="http://127.0.0.1:9/", monitoring__webhook_token_file=str(token)
    )
    token.unlink()
    open_alarm(store, FINDING)
    with pytest.raises(ConfigError, match="token cannot be read"):
        notify(store)
    store.close()
