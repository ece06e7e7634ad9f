"""Waiting for jobs: one loop a process polls for all requests that wait, woken by notifications."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.notification import Listener
from pneumoscope_clinic.store.queue import Queue

_log = logging.getLogger(__name__)

_LOOK_S = 0.25
"""Between two looks at the database without a notification: workers elsewhere, or killed before."""

_AWAY_S = 1.0
"""Between two looks at a database that does not answer."""


class Waiting:
    """Wakes those who wait for jobs of images.

    Args:
        store: of the jobs.
    """

    def __init__(self, store: Store) -> None:
        self._queue = Queue(store)
        self._directory = store.settings.directory
        self._waiting: dict[tuple[str, str], set[asyncio.Event]] = {}
        self._loop: asyncio.Task[None] | None = None
        self._look = asyncio.Event()

    def __len__(self) -> int:
        """How many wait."""
        return sum(len(events) for events in self._waiting.values())

    async def settled(self, film_id: str, kind: str, seconds: float) -> bool:
        """Whether the job of ``kind`` of an image is done or has failed within ``seconds``.

        Any number of callers may wait for one job, each for as long as it likes.
        """
        event, key = asyncio.Event(), (film_id, kind)
        self._waiting.setdefault(key, set()).add(event)
        self._look.set()
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._watch())
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return False
        finally:  # also when the client has left
            events = self._waiting.get(key, set())
            events.discard(event)
            if not events:
                self._waiting.pop(key, None)
                self._look.set()  # nothing is left to look for, maybe
        return True

    async def _watch(self) -> None:
        with Listener(self._directory, "done") as listener:
            loop = asyncio.get_running_loop()
            loop.add_reader(listener, self._notified, listener)
            try:
                while self._waiting:
                    self._look.clear()
                    try:
                        await self._wake()
                    except SQLAlchemyError as error:
                        _log.warning("the database does not answer (%s)", type(error).__name__)
                        await asyncio.sleep(_AWAY_S)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._look.wait(), _LOOK_S)
            finally:
                loop.remove_reader(listener)

    def _notified(self, listener: Listener) -> None:
        listener.wait(0)
        self._look.set()

    async def _wake(self) -> None:
        for kind in {kind for _, kind in self._waiting}:
            ids = [film_id for film_id, of in self._waiting if of == kind]
            for film_id in await run_in_threadpool(self._queue.settled, ids, kind):
                for event in self._waiting.get((film_id, kind), ()):
                    event.set()
