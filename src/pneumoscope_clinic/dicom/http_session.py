"""HTTP to DICOMweb and FHIR servers: log-in, timeouts, and errors that do not quote the address.

In: a base address with its credentials. Out: a session of ``requests``; its errors as :class:`DeliveryError`.
Path and query of a DICOMweb address name patients and studies, so neither is logged or repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pneumoscope.core.errors import DeliveryError
from pneumoscope_clinic.logs import silence
from pneumoscope_clinic.settings import read_secret

if TYPE_CHECKING:
    import requests

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
