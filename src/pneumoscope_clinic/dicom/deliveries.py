"""Delivery of results to destinations, with retries, idempotent.

What is not accepted is sent again with exponential backoff, across restarts, until it is older than
``deliver_days``; it is the same object each time, down to its UIDs. In shadow mode nothing is sent. An image
that did not come as DICOM (or whose identity is not kept) has no study in a PACS: it goes to FHIR
destinations alone, its subject a pseudonym.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Protocol

from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from pneumoscope.core.errors import ConfigError, DeliveryError, InputError, PneumoscopeError
from pneumoscope_clinic.dicom.circuit_breaker import CircuitBreaker, pause_after
from pneumoscope_clinic.dicom.http_clients import FhirClient, StowClient
from pneumoscope_clinic.dicom.storage_client import StorageClient
from pneumoscope_clinic.image_errors import problem
from pneumoscope_clinic.results.fhir import StudyResults
from pneumoscope_clinic.results.stored_result import load_result, stored_image
from pneumoscope_clinic.settings import ClinicSettings, Destination
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.bundles import active_bundle
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.queue import Claim, LeaseLostError, Queue, fail, finish
from pneumoscope_clinic.store.tables import Film, Job, now
from pneumoscope_clinic.worker.sandbox import Sandbox

_log = logging.getLogger(__name__)


class DeliveryClient(Protocol):
    """What sends to one kind of destination."""

    def deliver(self, study: StudyResults) -> int:
        """Send results; how many objects there were."""

    def check(self) -> None:
        """See whether the destination is there."""


def client_of(settings: ClinicSettings, destination: Destination) -> DeliveryClient:
    """The client of a destination.

    Raises:
        ConfigError: a certificate, password or token file cannot be read.
    """
    if destination.kind == "dimse":
        return StorageClient(destination, settings.dicom)
    if destination.kind == "stow":
        return StowClient(destination)
    return FhirClient(destination, identities=settings.fhir.identities)


class Deliverer:
    """Handler of ``deliver`` jobs; a context manager.

    Args:
        store: of the images.
        client: makes the client of a destination.
    """

    def __init__(
        self, store: Store, client: Callable[[ClinicSettings, Destination], DeliveryClient] = client_of
    ) -> None:
        self._store = store
        self._queue = Queue(store)
        self._destinations = {destination.name: destination for destination in store.settings.destinations}
        self._make_client = client
        self._clients: dict[str, DeliveryClient] = {}
        self._sandbox: Sandbox | None = None
        self._states: defaultdict[str, CircuitBreaker] = defaultdict(CircuitBreaker)

    def __enter__(self) -> Deliverer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sandbox is not None:
            self._sandbox.close()

    def __call__(self, claim: Claim) -> None:
        """Deliver one result, and settle the job."""
        state = self._states[claim.target]
        if state.left() > 0:  # not every image has to find out for itself
            self._queue.retry(claim, state.problem, state.left() + state.turn(claim.job_id))
            return
        try:
            with _renewed(self._queue, claim, self._store.settings.limits.lease_seconds):
                count = self._deliver(claim)
        except (LeaseLostError, OperationalError):
            raise
        except Exception as error:
            self._failed(claim, error)
        else:
            self._delivered(claim, count)

    def _deliver(self, claim: Claim) -> int:
        settings = self._store.settings
        destination = self._destinations.get(claim.target)
        if destination is None:
            raise ConfigError(
                f"no destination is called {claim.target}", remedy="configure it again under destinations"
            )
        if settings.shadow:
            raise PneumoscopeError("nothing is delivered in shadow mode", remedy="set shadow = false")
        with self._store.read() as session:
            film = session.get_one(Film, claim.film_id)
            study_id, identified = film.study_id, film.identity is not None
        if destination.kind != "fhir" and not identified:
            raise _IdentityErasedError(
                "patient and study of the image are not kept any more", remedy="send the image again"
            )
        store, film_id = self._store, claim.film_id
        result = load_result(
            store, film_id, lambda: stored_image(store, film_id, self._ready().picture), identified=True
        )
        return self._client(destination).deliver(StudyResults(study_id, (result,)))

    def _delivered(self, claim: Claim, count: int) -> None:
        store = self._store
        with store.write() as session:
            finish(session, claim)
            film = session.get_one(Film, claim.film_id)
            if store.settings.privacy.keep_identities == "until-delivered" and not _undelivered(
                session, film.id
            ):
                film.identity = None
            audit_log.append(
                store, session, "deliveries", "result.delivered", film.id, to=claim.target, objects=count
            )
            state = self._states[claim.target]
            if not state.up:
                _wake(session, claim.target, state.suspects)
        state.succeeded(claim.job_id)
        _log.info("result of image %s delivered to %s: %d objects", claim.film_id, claim.target, count)

    def _failed(self, claim: Claim, error: Exception) -> None:
        known = error if isinstance(error, PneumoscopeError) else None
        said = problem(known or PneumoscopeError("an unexpected error of ours"))
        if known is None:
            said["error"] = type(error).__name__
        pause = pause_after(claim.attempts)
        if isinstance(error, DeliveryError) and error.destination_down:
            pause = self._states[claim.target].failed(claim.job_id, said, pause)
        text = f"{said['problem']} ({said['error']})" if known is None else said["problem"]
        if isinstance(error, _IdentityErasedError) or self._too_old(claim):
            with self._store.write() as session:
                fail(session, claim, said)
                audit_log.append(
                    self._store, session, "deliveries", "result.given-up", claim.film_id, to=claim.target
                )
            _log.error("result of image %s given up for %s: %s", claim.film_id, claim.target, text)
            return
        self._queue.retry(claim, said, pause)
        _log.warning(
            "result of image %s not delivered to %s, again in %.0f s: %s",
            claim.film_id, claim.target, pause, text,
        )  # fmt: skip

    def _too_old(self, claim: Claim) -> bool:
        with self._store.read() as session:
            created = session.get_one(Job, claim.job_id).created_at
        return now() - created > timedelta(days=self._store.settings.deliver_days)

    def _client(self, destination: Destination) -> DeliveryClient:
        if destination.name not in self._clients:
            self._clients[destination.name] = self._make_client(self._store.settings, destination)
        return self._clients[destination.name]

    def _ready(self) -> Sandbox:
        """The process that decodes images; which bundle it opens does not matter."""
        if self._sandbox is None:
            self._sandbox = Sandbox(
                active_bundle(self._store).location, self._store.settings.limits, threads=1
            )
        return self._sandbox


class _IdentityErasedError(InputError):
    """Nothing leads back to the study of an image: no later attempt can do better."""


def retry_now(store: Store, actor: str, target: str | None = None) -> int:
    """Send everything that waits, and what was given up, as soon as possible; how much that is.

    Args:
        store: of the jobs.
        actor: for the audit log.
        target: name of one destination; None is all.
    """
    with store.write() as session:
        statement = update(Job).where(Job.kind == "deliver", Job.state.in_(("waiting", "failed")))
        if target is not None:
            statement = statement.where(Job.target == target)
        present = now()
        found = session.execute(
            statement.values(
                state="waiting", due_at=present, created_at=present, attempts=0, finished_at=None
            ).returning(Job.id)
        )
        count = len(found.all())
        audit_log.append(store, session, actor, "deliveries.retried", target or "", jobs=count)
    return count


def _undelivered(session: Session, film_id: str) -> int:
    return (
        session.scalar(
            select(func.count()).where(Job.film_id == film_id, Job.kind == "deliver", Job.state != "done")
        )
        or 0
    )


def _wake(session: Session, target: str, suspects: Collection[int]) -> None:
    """A destination is there again: whatever waits for it is due, but for jobs that wait for themselves."""
    waiting = (Job.kind == "deliver", Job.target == target, Job.state == "waiting")
    session.execute(update(Job).where(*waiting, Job.id.not_in(suspects)).values(due_at=now()))


@contextmanager
def _renewed(queue: Queue, claim: Claim, lease_s: float) -> Iterator[None]:
    """Hold on to a claim while the block runs."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(lease_s / 3):
            try:
                queue.renew(claim)
            except LeaseLostError:  # whoever settles the claim finds out
                return
            except OperationalError:  # the lease outlasts one missed renewal
                continue

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
