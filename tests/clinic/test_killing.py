"""kill -9 of any process at random moments: no image is lost, none has two results.

A real installation runs as ``pneumoscope serve``; a client sends images by REST, each with an
Idempotency-Key, and repeats what was not answered, as the client library does. Meanwhile its processes die at
random: workers, the processes that examine for them, web server, watcher, and now and then the parent of all,
which is started again.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import func, select

from pneumoscope_clinic.settings import load_settings
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.accounts import create_user
from pneumoscope_clinic.store.database import open_store
from pneumoscope_clinic.store.tables import AuditEntry, Film, Job, Result
from pneumoscope_clinic.store.viewers import Viewer, create_token
from tests.clinic.films import dicom_film, png_film
from tests.clinic.postgres import free_port, new_database
from tests.clinic.serving import alive
from tests.tiny_bundle import write_tiny_bundle

WAIT_S = 90


class Installation:
    """``pneumoscope serve`` as a process, killed and started again at will."""

    def __init__(self, folder: Path, database: str | None) -> None:
        bundle = write_tiny_bundle(folder / "tiny")
        self.port = free_port()
        self.folder = folder
        config = [f'data_dir = "{folder / "data"}"', f'bundle = "{bundle.directory}"', "workers = 2"]
        # However often an image's process is killed here, it is not the image that ends it.
        config += ["[server]", f"port = {self.port}", "[limits]", "lease_seconds = 1.5", "attempts = 1000"]
        if database:
            config += ["[database]", f'url = "{database}"']
        self.file = folder / "clinic.toml"
        self.file.write_text("\n".join(config))
        self.settings = load_settings(self.file, None, {})
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "pneumoscope", "serve", "--config", str(self.file)]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def pids(self) -> list[int]:
        """The parent and everything below it."""
        assert self.process is not None
        found, parents = [self.process.pid], {self.process.pid}
        for _ in range(3):
            children = [pid for pid, parent in _processes() if parent in parents and pid not in found]
            found += children
            parents = set(children)
        return found

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(20)


def _processes() -> list[tuple[int, int]]:
    """(pid, parent's pid) of everything that runs (proc(5))."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found.append((int(entry.name), int(fields[1])))
    return found


def _send(installation: Installation, token: str, over: threading.Event, keys: dict[str, str]) -> None:
    """Send images until it is over; an image counts once the server has said that it was taken."""
    number = 0
    with httpx.Client(base_url=f"http://127.0.0.1:{installation.port}", timeout=20) as client:
        while not over.is_set():
            number += 1
            key, content = uuid4().hex, dicom_film(0.3) if number % 2 else png_film(0.7)
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
            end = time.monotonic() + WAIT_S
            while time.monotonic() < end:
                try:
                    answer = client.post("/v1/examine?wait=false", headers=headers, files={"film": content})
                except httpx.TransportError:
                    time.sleep(0.05)
                    continue
                if answer.status_code in (200, 202):
                    keys[key] = answer.json()["id"]
                    break
                assert answer.status_code >= 500, answer.text
                time.sleep(0.05)
            time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills"), [("sqlite", 18), ("postgresql", 8)])
def test_no_film_is_lost_or_doubled(tmp_path, request, kind, kills):
    database = (
        new_database(request.getfixturevalue("postgres"), uuid4().hex) if kind == "postgresql" else None
    )
    installation = Installation(tmp_path, database)
    store = open_store(installation.settings)
    user = create_user(store, "sender", None, "reader", "test")
    token = create_token(store, Viewer(user.id, "sender", "reader"), "test", ["examine", "read"])
    chance = random.Random(0)
    keys: dict[str, str] = {}
    over = threading.Event()
    installation.start()
    sender = threading.Thread(target=_send, args=(installation, token, over, keys))
    sender.start()
    died = 0
    try:
        while died < kills:
            if chance.random() < 0.8:  # most of them hit an installation at work, some one that is starting
                _await_more(keys)
            time.sleep(chance.uniform(0, 0.3))
            pids = installation.pids()
            victim = pids[0] if died % 8 == 7 else _victim(pids, died, chance)
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
            died += 1
            if victim == pids[0]:
                installation.process.wait()
                installation.start()
        over.set()
        sender.join()
        _await_empty_queue(store)
    finally:
        over.set()
        sender.join()
        installation.stop()
    with store.read() as session:
        films = set(session.scalars(select(Film.id)))
        results = list(session.scalars(select(Result.film_id)))
        states = dict(session.execute(select(Job.state, func.count()).group_by(Job.state)).all())
        examined = session.scalars(
            select(AuditEntry.object).where(AuditEntry.action == "film.examined")
        ).all()
    with store.read() as session:
        jobs = {job.film_id: (job.state, job.attempts, job.problem) for job in session.scalars(select(Job))}
    left = {film_id: jobs[film_id] for film_id in films - set(results)}
    assert not left, left
    assert len(keys) > kills / 2
    assert len(set(keys.values())) == len(keys)
    assert films == set(keys.values()), "an image was lost, or one was made twice"
    assert sorted(results) == sorted(films)
    assert sorted(examined) == sorted(films)
    assert states == {"done": len(films)}
    assert audit_log.verify(store).broken_at is None
    assert all(store.blobs.get("films", film_id) for film_id in films)
    store.close()


def _victim(pids, died, chance):
    """In turn the process that has lived longest, so that each kind dies, and any."""
    below = sorted(pid for pid in pids[1:] if alive(pid))
    if not below:
        return pids[0]
    return below[0] if died % 2 else chance.choice(below)


def _await_empty_queue(store):
    def is_empty():
        with store.read() as session:
            return not session.scalar(select(func.count()).where(Job.state.in_(("waiting", "running"))))

    assert _await(is_empty), "the queue is not empty"


def _await(condition):
    """Whether ``condition`` comes true in time."""
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _await_more(keys):
    before = len(keys)
    _await(lambda: len(keys) > before)
