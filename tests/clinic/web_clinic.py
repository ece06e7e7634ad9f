"""A clinic to browse: a store with users and a tiny bundle, its worker, and its pages."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from pneumoscope_clinic.store.accounts import user_named
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.queue import Queue
from pneumoscope_clinic.store.tables import User
from pneumoscope_clinic.store.viewers import open_session
from pneumoscope_clinic.web.app import create_app
from pneumoscope_clinic.worker.worker import FilmHandlers, run_worker
from tests.clinic.stores import make_store
from tests.tiny_bundle import write_tiny_bundle

PASSWORD = "correct horse battery"
USERS = {"root": "admin", "ada": "reader", "ben": "reader", "rosa": "reviewer"}


@contextmanager
def web_clinic(
    folder: Path, bundle: str | None = None, **settings: Any
) -> Iterator[tuple[Store, FilmHandlers]]:
    """A store with the users, and handlers for its images; ``bundle`` is a tiny one unless it is named."""
    if bundle is None:
        bundle = str(write_tiny_bundle(folder / "bundle" / "tiny").directory)
    store = make_store(folder, bundle=bundle, **settings)
    with store.write() as session:
        session.add_all(User(name=name, role=role, password_hash=_hashed()) for name, role in USERS.items())
    films = FilmHandlers(store, threads=1)
    try:
        yield store, films
    finally:
        films.close()
        store.close()


def work(store: Store, films: FilmHandlers) -> None:
    """Do all jobs that are due."""
    over, queue = time.monotonic() + 30, Queue(store)

    def done() -> bool:
        open_jobs = [state for _, state in queue.depth() if state in ("waiting", "running")]
        return not open_jobs or time.monotonic() > over

    run_worker(store, films.handlers(), done)


@contextmanager
def working(store: Store, films: FilmHandlers) -> Iterator[None]:
    """Do jobs as they come."""
    over = threading.Event()
    worker = threading.Thread(target=run_worker, args=(store, films.handlers(), over.is_set))
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


class Browser(TestClient):
    """A browser without scripts; with a name, somebody is logged in."""

    def __init__(self, store: Store, name: str | None = None) -> None:
        super().__init__(create_app(store), follow_redirects=False, raise_server_exceptions=False)
        if name is not None:
            with store.read() as session:
                user = user_named(session, name)
            cookie, self.csrf = open_session(store, user)
            self.cookies.set("pneumoscope", cookie)

    def submit(self, address: str, **fields: Any) -> Any:
        """Post a form of our own."""
        return self.post(address, data={"csrf": self.csrf, **fields})

    def upload(self, *contents: bytes, **fields: Any) -> Any:
        """Post images."""
        files = [("films", ("name-of-file.png", content)) for content in contents]
        return self.post("/upload", data={"csrf": self.csrf, **fields}, files=files)


@cache
def _hashed() -> str:
    """Hash of the users' password, one for all of them, at the cost that the accounts' own hashes have."""
    from argon2 import PasswordHasher, profiles

    return PasswordHasher.from_parameters(profiles.RFC_9106_LOW_MEMORY).hash(PASSWORD)
