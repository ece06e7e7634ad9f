"""HTTP clients of DICOMweb (QIDO-RS, WADO-RS, STOW-RS; PS3.18) and FHIR servers.

Path and query of a DICOMweb address name patients and studies, so neither is logged or repeated in an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumoscope.core.errors import ConfigError, DeliveryError
from pneumoscope_clinic.logs import silence
from pneumoscope_clinic.results.dicom_objects import dicom_objects
from pneumoscope_clinic.results.fhir import StudyResults, fhir_bundle
from pneumoscope_clinic.settings import Destination, DicomwebSettings, read_secret

if TYPE_CHECKING:
    import requests
    from dicomweb_client import DICOMwebClient
    from pydicom.dataset import Dataset


TIMEOUT_S = (10.0, 60.0)
"""To connect, and between two pieces of an answer."""

_EVERYTHING = (401, 403, 407, 408, 429)
"""Client errors of HTTP (RFC 9110, RFC 6585) that meet every request alike: log-in and load."""


def open_session(
    user: str | None = None, password_file: Path | None = None, token_file: Path | None = None
) -> requests.Session:
    """A session that logs in by user and password (RFC 7617), by bearer token (RFC 6750), or not at all.

    Raises:
        ConfigError: a file cannot be read.
    """
    import requests

    silence()
    session = requests.Session()
    if token_file is not None:
        session.auth = _Bearer(read_secret(token_file))
    elif user is not None:
        session.auth = (user, read_secret(password_file) if password_file else "")
    return session


@contextmanager
def reported(where: str, *, what: str = "the server", of_one: bool = False) -> Iterator[None]:
    """Turn errors of HTTP within the block into :class:`DeliveryError`.

    Args:
        where: name of the destination or source.
        what: of it, for the message.
        of_one: an error of the server (5xx) is taken to be about what was asked for, and not about all.
    """
    import requests

    try:
        yield
    except requests.HTTPError as error:
        status = 0 if error.response is None else error.response.status_code
        problem = f"{what} answered {status}"
        if (status >= 500 and not of_one) or status in _EVERYTHING:
            remedy = "check user, password and token" if status in (401, 403, 407) else None
            raise DeliveryError.down(problem, where=where, remedy=remedy) from None
        raise DeliveryError(problem, where=where, remedy="its log says why") from None
    except requests.RequestException as error:
        raise DeliveryError.down(
            f"{what} cannot be reached ({type(error).__name__})",
            where=where,
            remedy="check the address, and that the server runs",
        ) from None


class _Bearer:
    """Adds a token to a request; given as ``auth``, so that no .netrc takes its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


_PAGE = 100
_MEBIBYTE = 1 << 20
_PIECE = 1 << 20
_DUPLICATE = 0x0111
"""Failure Reason of an instance that is there already (PS3.7 annex C.5.5)."""
_MODALITIES = {"1.2.840.10008.5.1.4.1.1.1": ("CR",), "1.2.840.10008.5.1.4.1.1.1.1": ("DX",)}
"""Modalities of the series that hold a SOP class; of Secondary Captures any."""
_MODALITY, _STUDY, _SERIES, _INSTANCE, _CLASS = "00080060", "0020000D", "0020000E", "00080018", "00080016"


@dataclass(frozen=True, slots=True)
class FilmReference:
    """Where an image is on the server."""

    study_uid: str
    series_uid: str
    instance_uid: str


class StowClient:
    """Sends to a destination of kind ``stow``.

    Args:
        destination: where to.
    """

    def __init__(self, destination: Destination) -> None:
        assert destination.url is not None
        self._destination = destination
        session = open_session(destination.user, destination.password_file, destination.token_file)
        self._client = _client(destination.url, session)

    def deliver(self, study: StudyResults) -> int:
        """Store the DICOM objects of a study's images; how many there were.

        Raises:
            DeliveryError: the server cannot be reached, or refused one of them.
            InputError: an image did not come as DICOM.
        """
        datasets = [made for film in study.films for made in dicom_objects(film, self._destination.objects)]
        if datasets:
            self.send(datasets)
        return len(datasets)

    def send(self, datasets: Sequence[Dataset]) -> None:
        """Store data sets in one request.

        Raises:
            DeliveryError: the server cannot be reached, or refused one of them.
        """
        import requests

        with reported(self._destination.name):
            try:
                answer = self._client.store_instances(datasets)
            except requests.HTTPError as error:
                failures = _failures_of(error)
                if not failures or any(reason != _DUPLICATE for reason in failures):
                    raise
                return
        refused = [reason for reason in _failures(answer) if reason != _DUPLICATE]
        if refused:
            raise DeliveryError(
                f"the server refused {len(refused)} of {len(datasets)} objects (reason {refused[0]:04X})",
                where=self._destination.name,
                remedy="its log says why (PS3.18 table I.2-2)",
            )

    def check(self) -> None:
        """Ask for one study (QIDO-RS).

        Raises:
            DeliveryError: the server cannot be reached, or refused.
        """
        with reported(self._destination.name):
            self._client.search_for_studies(limit=1)


class WebSource:
    """Where images are pulled from.

    Args:
        settings: address and credentials.
        max_mb: size of the largest image that is taken.

    Raises:
        ConfigError: no address is configured.
    """

    def __init__(self, settings: DicomwebSettings, max_mb: float) -> None:
        if settings.url is None:
            raise ConfigError(
                "dicomweb.url is not set", expected="the address of a DICOMweb server", remedy="or give --url"
            )
        self._base = settings.url.rstrip("/")
        self._max_bytes = int(max_mb * _MEBIBYTE)
        self._session = open_session(settings.user, settings.password_file)
        self._client = _client(self._base, self._session)

    def find(self, query: Mapping[str, str], classes: Sequence[str]) -> Iterator[FilmReference]:
        """Images of the studies that match, as the server lists them.

        Args:
            query: keyword or tag to value (PS3.18 table 8.3.4-1), of the study.
            classes: SOP classes of images.

        Raises:
            DeliveryError: the server cannot be reached, or refuses the query.
        """
        modalities = {name for sop_class in classes for name in _MODALITIES.get(sop_class, (None,))}
        for study in self._studies(query):
            with reported("dicomweb", what="the DICOMweb server"):
                series = self._client.search_for_series(study)
            for row in series:
                if None not in modalities and _value(row, _MODALITY) not in modalities:
                    continue
                series_uid = _value(row, _SERIES)
                with reported("dicomweb", what="the DICOMweb server"):
                    instances = self._client.search_for_instances(study, series_uid)
                for instance in instances:
                    if _value(instance, _CLASS) in classes:
                        yield FilmReference(study, series_uid, _value(instance, _INSTANCE))

    def fetch(self, film: FilmReference) -> bytes:
        """The bytes of an image, in the transfer syntax that the server keeps it in.

        Raises:
            DeliveryError: the server cannot be reached, does not give this image, or it is too large.
        """
        address = "/".join(
            (self._base, "studies", film.study_uid, "series", film.series_uid, "instances", film.instance_uid)
        )
        accepted = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with (
            reported("dicomweb", what="the DICOMweb server", of_one=True),
            self._session.get(
                address, headers={"Accept": accepted}, stream=True, timeout=TIMEOUT_S
            ) as answer,
        ):
            answer.raise_for_status()
            body = bytearray()
            for piece in answer.iter_content(_PIECE):
                body += piece
                if len(body) > self._max_bytes:
                    raise DeliveryError(
                        "an image is larger than allowed",
                        expected=f"at most {self._max_bytes / _MEBIBYTE:g} MB",
                        remedy="server.max_upload_mb allows more",
                    )
        return single_part(answer.headers.get("Content-Type", ""), bytes(body))

    def _studies(self, query: Mapping[str, str]) -> Iterator[str]:
        """Study Instance UIDs, page by page; a server that knows no offset sends the same page again."""
        seen: set[str] = set()
        while True:
            with reported("dicomweb", what="the DICOMweb server"):
                page = self._client.search_for_studies(
                    limit=_PAGE, offset=len(seen), search_filters=dict(query)
                )
            new = [uid for uid in dict.fromkeys(_value(row, _STUDY) for row in page) if uid not in seen]
            if not new:
                return
            seen.update(new)
            yield from new


def single_part(content_type: str, body: bytes) -> bytes:
    """The one part of a multipart answer (RFC 2046 section 5.1.1), or the body of one that has no parts.

    Raises:
        DeliveryError: there are no parts, or several.
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if header.get_content_maintype() != "multipart" or boundary is None:
        return body
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:-1]
    if len(parts) != 1:
        raise DeliveryError(f"the DICOMweb server sent {len(parts)} objects instead of one")
    return parts[0].partition(b"\r\n\r\n")[2]


def _client(url: str, session: requests.Session) -> DICOMwebClient:
    from dicomweb_client import DICOMwebClient

    try:
        client = DICOMwebClient(url, session=session, permissive_uid=True, timeout=TIMEOUT_S)
    except ValueError as error:
        raise ConfigError("not the address of a DICOMweb server", expected="http(s)://host/path") from error
    client.set_http_retry_params(retry=False)  # the queue tries again
    return client


def _value(row: Mapping[str, Any], tag: str) -> str:
    """The first value of an element in the DICOM JSON model (PS3.18 F.2); empty where there is none."""
    values = row.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _failures(answer: Dataset) -> list[int]:
    """Failure reasons in the answer to a STOW request (PS3.18 I.2)."""
    return [int(item.get("FailureReason") or 0) for item in answer.get("FailedSOPSequence") or []]


def _failures_of(error: requests.HTTPError) -> list[int]:
    """Failure reasons in the body of an error, when it has some."""
    from pydicom.dataset import Dataset

    try:
        return [] if error.response is None else _failures(Dataset.from_json(error.response.json()))
    except (ValueError, TypeError, KeyError, AttributeError):
        return []  # another kind of body; the status says what there is to say


_JSON = "application/fhir+json"


class FhirClient:
    """Sends to a destination of kind ``fhir``.

    Args:
        destination: where to; ``url`` is the server's base address.
        identities: name patient and study.
    """

    def __init__(self, destination: Destination, *, identities: bool) -> None:
        assert destination.url is not None
        self._name = destination.name
        self._url = destination.url.rstrip("/")
        self._identities = identities
        self._session = open_session(destination.user, destination.password_file, destination.token_file)

    def deliver(self, study: StudyResults) -> int:
        """POST the results; how many resources there were.

        Raises:
            DeliveryError: the server cannot be reached, or refuses them.
        """
        bundle = fhir_bundle(study, identities=self._identities)
        headers = {"Content-Type": _JSON, "Accept": _JSON}
        with reported(self._name):
            answer = self._session.post(self._url, json=bundle, headers=headers, timeout=TIMEOUT_S)
            answer.raise_for_status()
        return len(bundle["entry"])

    def check(self) -> None:
        """Ask for the capability statement (FHIR R4 section 3.1.0.9).

        Raises:
            DeliveryError: the server cannot be reached, or refuses.
        """
        with reported(self._name):
            answer = self._session.get(f"{self._url}/metadata", headers={"Accept": _JSON}, timeout=TIMEOUT_S)
            answer.raise_for_status()
