"""Waiting for jobs without a thread or a query for each who waits.

In: film ids. Out: a wake-up when the job is settled. One loop for the whole process asks the database for all
of them at once.
"""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool

from pneumoscope.clinic.store.database import Store
from pneumoscope.clinic.store.queue import Queue

__all__ = ["Waiting"]

_log = logging.getLogger(__name__)

_EVERY_S = 0.015
"""A tenth of what a film takes: waiting adds half of it on average."""


class Waiting:
    """Wakes those who wait for jobs of films.

    Args:
        store: of the jobs.
    """

    def __init__(self, store: Store) -> None:
        self._queue = Queue(store)
        self._waiting: dict[tuple[str, str], asyncio.Event] = {}
        self._loop: asyncio.Task[None] | None = None

    async def settled(self, film_id: str, kind: str, seconds: float) -> bool:
        """Whether the job of ``kind`` of a film is done or has failed within ``seconds``."""
        event = self._waiting.setdefault((film_id, kind), asyncio.Event())
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._watch())
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _watch(self) -> None:
        while self._waiting:
            for kind in {kind for _, kind in self._waiting}:
                ids = [film_id for film_id, of in self._waiting if of == kind]
                try:
                    settled = await run_in_threadpool(self._queue.settled, ids, kind)
                except OperationalError as error:
                    _log.warning("the database does not answer (%s)", type(error.orig).__name__)
                    continue
                for film_id in settled:
                    self._waiting.pop((film_id, kind)).set()
            await asyncio.sleep(_EVERY_S)
