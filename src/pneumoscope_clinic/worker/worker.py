"""Queue worker: leases a job, runs it, stores its result exactly once.

Whatever ends a worker, its lease runs out and the job goes to another; whoever finishes without the lease
stores nothing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from pneumoscope.core.errors import PneumoscopeError, UnreadableFileError
from pneumoscope_clinic.image_errors import SandboxDiedError, image_error, problem
from pneumoscope_clinic.results.stored_result import pack_maps
from pneumoscope_clinic.settings import ClinicSettings
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.bundles import active_bundle, check_activation
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.notification import Listener, notify
from pneumoscope_clinic.store.queue import (
    OURS,
    THE_FILMS,
    Claim,
    LeaseLostError,
    Queue,
    add_job,
    fail,
    finish,
)
from pneumoscope_clinic.store.tables import Activation, Film, Result
from pneumoscope_clinic.worker.intake import study_of_uid
from pneumoscope_clinic.worker.sandbox import Examined, Sandbox
from pneumoscope_clinic.worker.sandbox_tasks import encode_picture

Handler = Callable[[Claim], None]
"""Does the work of a claim and settles it (``queue.finish`` or ``fail``, ``Queue.retry``)."""

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LOOK_S = 0.25
"""Between two looks at the queue without a notification: images of other machines, retries, lost leases."""

_RETRY_S = 1.0
_ATTEMPTS_AT_OUR_FAULT = 12
_LONGEST_RETRY_S = 300.0


def run_worker(store: Store, handlers: Mapping[str, Handler], stop: Callable[[], bool]) -> None:
    """Do jobs of the kinds in ``handlers`` until ``stop()``; a database that is away is waited for."""
    queue = Queue(store)
    with Listener(store.settings.directory, "work") as listener:
        while not stop():
            try:
                claim = queue.claim(handlers)
                if claim is None:
                    listener.wait(_LOOK_S)
                else:
                    _work(queue, claim, handlers[claim.kind])
                    notify(store.settings.directory, "done")
            except OperationalError as error:
                _log.warning("the database does not answer (%s); trying again", type(error.orig).__name__)
                time.sleep(_RETRY_S)


def _work(queue: Queue, claim: Claim, handler: Handler) -> None:
    try:
        handler(claim)
    except LeaseLostError:
        _log.warning("%s of image %s was done by another worker", claim.kind, claim.film_id)
    except OperationalError:
        raise
    except Exception as error:  # one job must not end the worker; the error's text may quote an image
        _log.error("%s of image %s failed: %s", claim.kind, claim.film_id, type(error).__name__)
        with contextlib.suppress(LeaseLostError):  # then it is another's
            _put_off(queue, claim, error)


def _put_off(queue: Queue, claim: Claim, error: Exception) -> None:
    """Try a job again later, or leave it to ``Queue.revive``."""
    if not isinstance(error, PneumoscopeError):
        error = image_error(PneumoscopeError, "unexpected", error=type(error).__name__)
    failure = {**problem(error), "fault": OURS}
    if claim.attempts < _ATTEMPTS_AT_OUR_FAULT:
        queue.retry(claim, failure, min(2.0**claim.attempts, _LONGEST_RETRY_S))
    else:
        queue.fail(claim, failure)


class FilmHandlers:
    """Handlers of ``examine`` and ``picture`` jobs, with one sandbox that follows the active bundle.

    Args:
        store: the clinic's.
        threads: of one network pass.
    """

    def __init__(self, store: Store, threads: int | None = None) -> None:
        self._store = store
        self._queue = Queue(store)
        self._threads = threads
        self._sandbox: Sandbox | None = None
        self._opened: Activation | None = None
        self._claim: Claim | None = None
        self._renewed = 0.0

    def handlers(self) -> dict[str, Handler]:
        """Handlers by kind."""
        return {"examine": self.examine, "picture": self.picture}

    def close(self) -> None:
        """End the sandbox."""
        if self._sandbox is not None:
            self._sandbox.close()

    def warm_up(self) -> None:
        """Start the sandbox before the first image comes."""
        self._ready()

    def examine(self, claim: Claim) -> None:
        """Examine an image and store its result, with the jobs of its delivery, in one transaction."""
        started = time.perf_counter()
        with self._store.read() as session:
            film = session.get_one(Film, claim.film_id)
            if film.result is not None:  # cannot be, but a second result would be worse than a check
                raise LeaseLostError(f"image {film.id}")
            options = {"operating_point": self._store.settings.operating_point, **film.options}
        content = self._content(claim, "received")
        if content is None:
            return
        sandbox, shared = self._ready(claim), self._queue.has_others(claim)
        examined = self._asked(claim, lambda: sandbox.examine(content, options, shared=shared))
        if examined is not None:
            self._keep(claim, examined, time.perf_counter() - started)

    def picture(self, claim: Claim) -> None:
        """Draw an image for the screen."""
        content = self._content(claim, "films")
        if content is None:
            return
        sandbox = self._ready(claim)
        pixels = self._asked(claim, lambda: sandbox.picture(content))
        if pixels is not None:
            self._store.blobs.put("pictures", claim.film_id, encode_picture(pixels))
            with self._store.write() as session:
                finish(session, claim)

    def _content(self, claim: Claim, kind: str) -> bytes | None:
        content = self._store.blobs.get(kind, claim.film_id)
        if content is None:
            self._queue.fail(claim, problem(image_error(PneumoscopeError, "pixels-deleted")))
        return content

    def _ready(self, claim: Claim | None = None) -> Sandbox:
        """The sandbox of the bundle that is active now; while it starts the lease of ``claim`` is renewed.

        Raises:
            BundleError: it cannot be opened, or is another one than was activated.
        """
        self._claim, self._renewed = claim, time.monotonic()
        active = active_bundle(self._store)
        if self._sandbox is None or self._opened is None or self._opened.id != active.id:
            self.close()
            limits = self._store.settings.limits
            self._sandbox = Sandbox(active.location, limits, threads=self._threads, alive=self._renew)
            self._opened = active
        check_activation(active, self._sandbox.start())
        return self._sandbox

    def _renew(self) -> None:
        """Renew the lease, three times while it lasts."""
        claim = self._claim
        if (
            claim is not None
            and time.monotonic() - self._renewed > self._store.settings.limits.lease_seconds / 3
        ):
            self._queue.renew(claim)
            self._renewed = time.monotonic()

    def _asked(self, claim: Claim, ask: Callable[[], T]) -> T | None:
        """What the sandbox says; None when it could not, and the claim is settled."""
        self._claim, self._renewed = claim, time.monotonic()
        try:
            return ask()
        except SandboxDiedError as error:
            if claim.crashes + 1 < self._store.settings.limits.attempts:
                self._queue.retry(claim, problem(error), 0, crashed=True)
            else:
                self._give_up(claim, error)
        except UnreadableFileError as error:
            self._give_up(claim, error)
        finally:
            self._claim = None
        return None

    def _give_up(self, claim: Claim, error: PneumoscopeError) -> None:
        """Fail an image that cannot be examined; what was sent cannot be de-identified, so it is not kept."""
        said = {**problem(error), "fault": THE_FILMS}
        with self._store.write() as session:
            fail(session, claim, said)
            audit_log.append(self._store, session, "worker", f"film.{claim.kind}-failed", claim.film_id)
        self._store.blobs.delete("received", claim.film_id)

    def _keep(self, claim: Claim, examined: Examined, seconds: float) -> None:
        store = self._store
        store.blobs.put("films", claim.film_id, examined.film)
        if examined.heat_maps:
            store.blobs.put("maps", claim.film_id, pack_maps(examined.heat_maps))
        with store.write() as session:
            finish(session, claim)
            film = session.get_one(Film, claim.film_id)
            film.facts, film.age_years, film.sex = examined.facts, examined.age_years, examined.sex
            if examined.identity is not None and _keeps_identity(store.settings):
                film.identity = store.cipher.encrypt(examined.identity, f"identity/{film.id}")
            _join_study(store, session, film, examined.names)
            session.add(_result(film, examined, seconds, store.settings.shadow))
            if not store.settings.shadow:
                for destination in store.settings.destinations:
                    if destination.kind == "fhir" or film.identity is not None:
                        add_job(session, film.id, "deliver", destination.name)
            audit_log.append(
                store, session, "worker", "film.examined", film.id,
                bundle=examined.record["bundle"], decision=examined.record["decision"],
            )  # fmt: skip
        notify(store.settings.directory, "work")  # for the deliveries
        store.blobs.delete("received", claim.film_id)  # after a crash before this line the sweep does it


def _keeps_identity(settings: ClinicSettings) -> bool:
    """Whether the header of an image is kept: always, or because a result will need it on its way."""
    kept = settings.privacy.keep_identities
    return kept == "always" or (
        kept == "until-delivered" and bool(settings.destinations) and not settings.shadow
    )


def _result(film: Film, examined: Examined, seconds: float, shadow: bool) -> Result:
    record = examined.record
    return Result(
        film_id=film.id,
        bundle_id=record["bundle"],
        verdict=record["gate"]["verdict"],
        decision=record["decision"],
        abstained_by=record["abstained_by"],
        probability=record["probability"],
        etiology=record["etiology"],
        record=record,
        drift=examined.drift,
        shadow=shadow,
        seconds=seconds,
    )


def _join_study(store: Store, session: Session, film: Film, names: Mapping[str, Any]) -> None:
    """Images of one DICOM study share a study; the one made at intake goes when it is empty."""
    study = film.study
    if names.get("patient_id"):
        study.patient_key = store.cipher.pseudonym(names["patient_id"], "patient")
    if names.get("sop_instance_uid") and film.instance_key is None:
        film.instance_key = store.cipher.pseudonym(names["sop_instance_uid"], "instance")
    if not names.get("study_instance_uid"):
        return
    known = study_of_uid(session, store, names["study_instance_uid"], study.owner_id)
    if known is None:
        study.study_key = store.cipher.pseudonym(names["study_instance_uid"], "study")
    elif known.id != study.id:
        film.study = known
        session.flush()
        session.refresh(study)
        if not study.films:
            session.delete(study)
