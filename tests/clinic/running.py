"""A clinic that runs within the test: store, web application, and a worker in a thread that can be paused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from pneumoscope.inference.bundle import Bundle
from pneumoscope_clinic.store.accounts import create_user
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.viewers import SCOPES, Viewer, create_token
from pneumoscope_clinic.web.app import create_app
from pneumoscope_clinic.worker.worker import FilmHandlers, run_worker
from tests.clinic.stores import make_store
from tests.tiny_bundle import write_tiny_bundle


class RunningClinic:
    """``client`` calls as an administrator with all scopes; see :meth:`calling` for others."""

    def __init__(self, store: Store, bundle: Bundle) -> None:
        self.store, self.bundle = store, bundle
        self.app = create_app(store)
        self.films = FilmHandlers(store, threads=1)
        self._over = threading.Event()
        self._worker: threading.Thread | None = None
        self.client = TestClient(self.app, headers=self.headers("admin", "admin"))

    def headers(self, name: str, role: str = "reader", scopes: Any = SCOPES) -> dict[str, str]:
        """The header of a new token of a user, who is made when there is no such user."""
        user = create_user(self.store, name, None, role, "test")
        held = [scope for scope in scopes if scope != "admin" or role == "admin"]
        token = create_token(self.store, Viewer(user.id, name, role), "test", held)
        return {"Authorization": f"Bearer {token}"}

    def send(self, content: bytes, headers: dict[str, str] | None = None, **form: Any) -> dict[str, Any]:
        """Examine an image and return what is known of it."""
        files = {"film": ("film", content)}
        answer = self.client.post("/v1/examine", files=files, data=form, headers=headers)
        assert answer.status_code in (200, 202), answer.text
        found: dict[str, Any] = answer.json()
        return found

    def work(self) -> None:
        """Let the worker work."""
        self._over.clear()
        handlers = self.films.handlers()
        self._worker = threading.Thread(target=run_worker, args=(self.store, handlers, self._over.is_set))
        self._worker.start()

    def rest(self) -> None:
        """Let the worker finish what it has in hand, and no more."""
        self._over.set()
        if self._worker is not None:
            self._worker.join()
            self._worker = None

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Nothing is examined within the block."""
        self.rest()
        try:
            yield
        finally:
            self.work()


@contextmanager
def running_clinic(folder: Path, **settings: Any) -> Iterator[RunningClinic]:
    """A clinic in ``folder`` with the tiny bundle; ``settings`` as of ``make_store``."""
    bundle = write_tiny_bundle(folder / "tiny")
    store = make_store(folder, bundle=str(bundle.directory), **settings)
    clinic = RunningClinic(store, bundle)
    try:
        with clinic.client:
            clinic.work()
            yield clinic
    finally:
        clinic.rest()
        clinic.films.close()
        store.close()
