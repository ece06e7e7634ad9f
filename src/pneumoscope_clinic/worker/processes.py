"""Supervised child processes: started, restarted, stopped; each ends by itself when its parent is gone."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from pneumoscope_clinic.logs import log_to_stderr, place_of
from pneumoscope_clinic.settings import ClinicSettings

_log = logging.getLogger(__name__)

_CHECK_S = 0.2
_STOP_S = 10.0
_LONGEST_PAUSE_S = 30.0
_QUICK_DEATH_S = 2.0

Target = Callable[[ClinicSettings], None]
"""A module-level function; it returns when :func:`stop_requested` gives a function that says so."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a process does, and how many there are of it."""

    name: str
    target: Target
    count: int = 1


class Processes:
    """The processes of one command; a context manager.

    Args:
        settings: each process gets them.
        roles: what they do.
    """

    def __init__(self, settings: ClinicSettings, roles: Sequence[Role]) -> None:
        self._settings = settings
        self._slots = [_Slot(role) for role in roles for _ in range(role.count)]
        self._context = multiprocessing.get_context("spawn")
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="processes", daemon=True)

    def __enter__(self) -> Processes:
        for slot in self._slots:
            self._start(slot)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()
        running = [slot.process for slot in self._slots if slot.process is not None]
        for process in running:
            process.terminate()
        end = time.monotonic() + _STOP_S
        for process in running:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    def pids(self) -> list[int]:
        """Process ids of those that run now."""
        return [slot.process.pid for slot in self._slots if slot.process is not None and slot.process.pid]

    def _start(self, slot: _Slot) -> None:
        process = self._context.Process(
            target=_run, args=(slot.role.target, self._settings), name=slot.role.name, daemon=False
        )
        try:
            process.start()
        except OSError as error:  # no process or memory is left for now (fork(2): EAGAIN, ENOMEM)
            _log.error("%s cannot be started: %s", slot.role.name, type(error).__name__)
            slot.ended, slot.quick_deaths = time.monotonic(), slot.quick_deaths + 1
        else:
            slot.process, slot.started, slot.ended = process, time.monotonic(), None

    def _watch(self) -> None:
        while not self._over.wait(_CHECK_S):
            for slot in self._slots:
                if slot.ended is None and slot.process is not None and not slot.process.is_alive():
                    slot.ended = time.monotonic()
                    at_once = slot.ended - slot.started < _QUICK_DEATH_S
                    slot.quick_deaths = slot.quick_deaths + 1 if at_once else 0
                    _log.warning("%s ended with %s", slot.role.name, slot.process.exitcode)
                if slot.ended is not None and time.monotonic() - slot.ended >= slot.pause:
                    self._start(slot)


@dataclass
class _Slot:
    role: Role
    process: BaseProcess | None = None
    started: float = 0.0
    ended: float | None = None
    quick_deaths: int = 0

    @property
    def pause(self) -> float:
        """Seconds before the next start: none, but longer and longer for one that cannot even start."""
        return 0.0 if self.quick_deaths < 2 else min(2.0 ** (self.quick_deaths - 2), _LONGEST_PAUSE_S)


def stop_requested() -> Callable[[], bool]:
    """A function that says whether this process should stop: SIGTERM came, or its parent is gone.

    Call it once, in the main thread.
    """
    asked = threading.Event()
    parent = multiprocessing.parent_process()  # known even if it died before we ran
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    return lambda: asked.is_set() or (parent is not None and not parent.is_alive())


def _run(target: Target, settings: ClinicSettings) -> None:
    log_to_stderr()
    try:
        target(settings)
    except (
        Exception
    ) as error:  # multiprocessing would print its text and that of its causes, which may quote an image
        name = multiprocessing.current_process().name
        _log.error("%s failed with %s%s", name, type(error).__name__, place_of(error.__traceback__))
        raise SystemExit(1) from None
