"""Entry points of the processes of an installation: worker, deliveries, monitoring.

Each works until it is asked to stop (``worker.processes``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pneumoscope_clinic.settings import ClinicSettings
from pneumoscope_clinic.worker.processes import Role, stop_requested

_LOOK_S = 0.25


def roles(settings: ClinicSettings) -> list[Role]:
    """The processes that belong to an installation on this machine."""
    found = [Role("worker", examine_films, settings.workers)]
    if settings.destinations:
        found.append(Role("deliveries", deliver_results))
    return [*found, Role("watcher", watch)]


def examine_films(settings: ClinicSettings) -> None:
    """Examine images and draw pictures."""
    from pneumoscope_clinic.store.database import open_store
    from pneumoscope_clinic.worker.worker import FilmHandlers, run_worker

    stop = stop_requested()
    store = open_store(settings)
    films = FilmHandlers(store)
    try:
        films.warm_up()
        run_worker(store, films.handlers(), stop)
    finally:
        films.close()
        store.close()


def deliver_results(settings: ClinicSettings) -> None:
    """Send results to their destinations."""
    from pneumoscope_clinic.dicom.deliveries import Deliverer
    from pneumoscope_clinic.store.database import open_store
    from pneumoscope_clinic.worker.worker import run_worker

    stop = stop_requested()
    store = open_store(settings)
    try:
        with Deliverer(store) as deliver:
            run_worker(store, {"deliver": deliver}, stop)
    finally:
        store.close()


def watch(settings: ClinicSettings) -> None:
    """Monitor, and apply the retention policy."""
    from pneumoscope_clinic.monitoring.watch import Watcher
    from pneumoscope_clinic.store.database import open_store

    stop = stop_requested()
    store = open_store(settings)
    try:
        over = threading.Event()
        threading.Thread(target=_set_when, args=(stop, over), daemon=True).start()
        Watcher(store).run(over)
    finally:
        store.close()


def _set_when(stop: Callable[[], bool], over: threading.Event) -> None:
    while not stop():
        time.sleep(_LOOK_S)
    over.set()
