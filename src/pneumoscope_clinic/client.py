"""REST client: send images, wait for results, fetch reports; retries with Idempotency-Keys.

Needs httpx and none of the server's libraries. Returns the models of ``rest_models``, raises errors of
``core.errors``. Every request may be repeated: a POST carries a key, so that a repetition makes nothing new.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypedDict, Unpack, cast
from uuid import uuid4

import httpx

from pneumoscope.core.errors import (
    ConflictError,
    ForbiddenError,
    InputError,
    NotFoundError,
    PneumoscopeError,
    TooManyAttemptsError,
    UnreadableFileError,
)
from pneumoscope_clinic.rest_models import BatchOut, BundleOut, FeedbackOut, FilmOut, StudiesOut, StudyOut

_KINDS: dict[int, type[PneumoscopeError]] = {
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    429: TooManyAttemptsError,
}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_WAIT_S = 20.0
"""Of one request that waits for an image: short enough for any proxy."""


class Options(TypedDict, total=False):
    """About an image: the patient's age in years, what you call the study, an operating point of the bundle,
    and whether it is a photograph of a film.
    """

    age_years: float | None
    photograph: bool
    reference: str | None
    operating_point: str | None


class Filters(TypedDict, total=False):
    """Studies with an image of this decision or state; with a reader's diagnosis, or without."""

    decision: Literal["POSITIVE", "NEGATIVE", "ABSTAIN"] | None
    state: Literal["waiting", "done", "failed"] | None
    feedback: bool | None


class Client:
    """A server, as one of its users sees it; a context manager, and usable from several threads.

    Args:
        url: of the server, ``https://pneumoscope.example.org``.
        token: of ``pneumoscope clinic tokens add``.
        timeout: seconds for one request; more than ``server.request_seconds`` of the server.
        attempts: how often a request is sent before its failure is reported.
        transport: of httpx, for certificates or proxies of your own.

    Every method raises ForbiddenError (401, 403), NotFoundError (404), ConflictError (409),
    TooManyAttemptsError (429) or another InputError (4xx) as the server says, and PneumoscopeError when the
    server fails or cannot be reached, after ``attempts`` attempts.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 120.0,
        attempts: int = 5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.attempts = attempts
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout,
            transport=transport,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def examine(
        self,
        film: bytes | Path,
        *,
        seconds: float = 600.0,
        key: str | None = None,
        **options: Unpack[Options],
    ) -> FilmOut:
        """Send an image and wait for the answer.

        Args:
            film: bytes, or the file; its name is not sent.
            seconds: to wait at most.
            key: Idempotency-Key; None: a new one. A key of your own survives a crash of your program.
            options: what the image does not say, see :class:`Options`.

        Raises:
            UnreadableFileError: the image cannot be examined.
        """
        answer = self._send(film, options, key, wait=True)
        return answer if _settled(answer) else self.wait(answer.id, seconds)

    def submit(self, film: bytes | Path, *, key: str | None = None, **options: Unpack[Options]) -> FilmOut:
        """Send an image and do not wait: see :meth:`wait`. Arguments as of :meth:`examine`."""
        return self._send(film, options, key, wait=False)

    def wait(self, film_id: str, seconds: float = 600.0) -> FilmOut:
        """An image when it is examined.

        Raises:
            UnreadableFileError: it cannot be examined. PneumoscopeError: not within ``seconds``.
        """
        end = time.monotonic() + seconds
        while True:
            left = max(0.0, end - time.monotonic())
            asked = round(min(left, _WAIT_S), 3)
            film = FilmOut.model_validate(self._get(f"/v1/films/{film_id}", wait=asked))
            if _settled(film):
                return film
            if left == 0:
                raise PneumoscopeError("the image is not examined yet", remedy="wait longer; nothing is lost")

    def film(self, film_id: str) -> FilmOut:
        """What is known about an image now."""
        return FilmOut.model_validate(self._get(f"/v1/films/{film_id}"))

    def batch(
        self, films: Sequence[bytes | Path], *, age_years: float | None = None, key: str | None = None
    ) -> BatchOut:
        """Send up to 200 images at once and do not wait: see :meth:`batch_state`."""
        files = [("films", ("film", _content(film))) for film in films]
        data = {} if age_years is None else {"age_years": str(age_years)}
        return BatchOut.model_validate(self._post("/v1/batches", key, files=files, data=data).json())

    def batch_state(self, batch_id: str) -> BatchOut:
        """A batch and its images now; it is done when ``open`` is 0."""
        return BatchOut.model_validate(self._get(f"/v1/batches/{batch_id}"))

    def study(self, study_id: str) -> StudyOut:
        """A study with its images."""
        return StudyOut.model_validate(self._get(f"/v1/studies/{study_id}"))

    def studies(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        page: int = 100,
        **filters: Unpack[Filters],
    ) -> Iterator[StudyOut]:
        """All studies that the user may see, the newest first, fetched ``page`` at a time.

        Args:
            since, until: by time of arrival; without a zone they are UTC.
            page: 1 to 200.
            filters: see :class:`Filters`.
        """
        times = {"since": since and since.isoformat(), "until": until and until.isoformat()}
        after = None
        while True:
            found = self._get("/v1/studies", limit=page, after=after, **times, **filters)
            part = StudiesOut.model_validate(found)
            yield from part.studies
            after = part.next
            if after is None:
                return

    def feedback(
        self,
        film_id: str,
        diagnosis: str,
        *,
        comment: str = "",
        consent: bool = False,
        key: str | None = None,
    ) -> FeedbackOut:
        """Give a final diagnosis: normal, bacterial, viral, pneumonia-unspecified, other."""
        body = {"diagnosis": diagnosis, "comment": comment, "consent": consent}
        return FeedbackOut.model_validate(self._post(f"/v1/films/{film_id}/feedback", key, json=body).json())

    def report_pdf(self, film_id: str) -> bytes:
        """The one-page report."""
        return self._ask("GET", f"/v1/films/{film_id}/report.pdf").content

    def picture(self, film_id: str) -> bytes:
        """The image as grey JPEG on its original grid."""
        return self._ask("GET", f"/v1/films/{film_id}/picture.jpg").content

    def heat_map(self, film_id: str, name: str) -> bytes:
        """The evidence for a class, one of the image's ``heat_maps``, as grey PNG; 255 is the strongest."""
        return self._ask("GET", f"/v1/films/{film_id}/heat-maps/{name}.png").content

    def fhir(self, study_id: str) -> dict[str, Any]:
        """The study's results as a FHIR R4 Bundle."""
        return cast(dict[str, Any], self._get(f"/v1/studies/{study_id}/fhir"))

    def bundles(self) -> list[BundleOut]:
        """The bundle in force, and those before it."""
        return [BundleOut.model_validate(one) for one in self._get("/v1/bundles")]

    def ready(self) -> bool:
        """Whether the server is there and can work; asked once, and no error when it is not."""
        try:
            return self._http.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def _send(self, film: bytes | Path, options: Options, key: str | None, *, wait: bool) -> FilmOut:
        data = {name: str(value) for name, value in options.items() if value is not None}
        files = {"film": ("film", _content(film))}
        params = {"wait": "true" if wait else "false"}
        return FilmOut.model_validate(
            self._post("/v1/examine", key, params=params, files=files, data=data).json()
        )

    def _get(self, path: str, **params: Any) -> Any:
        asked = {name: value for name, value in params.items() if value is not None}
        return self._ask("GET", path, params=asked).json()

    def _post(self, path: str, key: str | None, **sent: Any) -> httpx.Response:
        return self._ask("POST", path, headers={"Idempotency-Key": key or uuid4().hex}, **sent)

    def _ask(self, method: str, path: str, **sent: Any) -> httpx.Response:
        """Send a request, again when the network or the server fails."""
        for attempt in range(1, self.attempts + 1):
            last = attempt == self.attempts
            try:
                answer = self._http.request(method, path, **sent)
            except httpx.TransportError as error:
                if last:
                    raise PneumoscopeError(
                        f"the server cannot be reached ({type(error).__name__})",
                        where=str(self._http.base_url),
                        remedy="check the address, and that pneumoscope serve runs there",
                    ) from error
                time.sleep(_pause(attempt, None))
                continue
            if answer.is_success:
                return answer
            if last or not (answer.status_code == 429 or answer.status_code >= 500):
                raise _error(answer)
            time.sleep(_pause(attempt, answer.headers.get("retry-after")))
        raise ValueError("attempts must be 1 or more")


def _content(film: bytes | Path) -> bytes:
    if isinstance(film, bytes):
        return film
    try:
        return film.read_bytes()
    except OSError as error:
        raise UnreadableFileError(f"the image cannot be read: {error.strerror}", where=film) from error


def _settled(film: FilmOut) -> bool:
    """Whether an image is examined.

    Raises:
        UnreadableFileError: it cannot be, by its own fault. PneumoscopeError: by the server's.
    """
    if film.problem is not None:
        found = film.problem
        kind = UnreadableFileError if found.fault == "input" else PneumoscopeError
        raise kind(found.problem, where=film.id, expected=found.expected, remedy=found.remedy)
    return film.state == "done"


def _pause(attempt: int, asked: str | None) -> float:
    """Seconds before the next attempt: as the server asks, else doubling, and not all clients at once."""
    if asked is not None and asked.isdigit():
        return min(float(asked), _LONGEST_PAUSE_S)
    return min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1)  # nosec B311


def _error(answer: httpx.Response) -> PneumoscopeError:
    """The server's problem as an error of ours; a proxy's page has no more than its status."""
    kind = _KINDS.get(answer.status_code, InputError if answer.status_code < 500 else PneumoscopeError)
    said: dict[str, Any] = {}
    if answer.headers.get("content-type", "").startswith("application/problem+json"):
        said = answer.json()
    wrong = [f"{'.'.join(one['where'])}: {one['problem']}" for one in said.get("errors") or ()]
    return kind(
        "; ".join([said.get("title", f"the server answers {answer.status_code}"), *wrong]),
        expected=said.get("expected"),
        remedy=said.get("remedy"),
    )
