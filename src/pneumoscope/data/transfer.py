"""Fetch one large file over HTTPS: resumable, retried, and nothing half-written under the final name.

In: an address and a file to make. Out: that file, complete. What has come so far lies beside it as
``<file>.part``; the next attempt asks the server for the rest (RFC 9110, sections 13.1.5 If-Range and 14
Range) and starts again when the content there has changed.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from pneumoscope import __version__
from pneumoscope.core.errors import DownloadError
from pneumoscope.core.files import read_json, write_json
from pneumoscope.core.records import Progress

_PIECE = 1 << 18
_MOST_BYTES = 16 * 2**30
# Request Timeout, Too Many Requests, and the server's own troubles (RFC 9110 section 15; RFC 6585).
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class RetryPolicy:
    """How often to try without any progress, and how long to wait.

    Attributes:
        attempts: consecutive failures that brought no new byte.
        first_pause_s: pause after the first failure; it doubles each time, up to a minute.
        timeout_s: of the connection and of each read.
    """

    attempts: int = 5
    first_pause_s: float = 1.0
    timeout_s: float = 30.0


class _Interrupted(Exception):
    """The transfer broke off in a way that may pass."""


def fetch(
    address: str,
    file: Path,
    *,
    trust_part: bool = False,
    retry: RetryPolicy | None = None,
    progress: Progress | None = None,
) -> None:
    """Download ``address`` to ``file``.

    Args:
        address: ``https:``; ``http:`` only on this machine (loopback).
        file: where it goes; its folder is made.
        trust_part: go on from a ``.part`` file although the server gives nothing to recognise the content by;
            only right when the caller checks a hash afterwards.
        retry: patience.
        progress: called with bytes done and bytes in all (the bytes done again when the server does not say).

    Raises:
        DownloadError: the address is not allowed, the server refuses, or patience ran out. What has come
            stays for the next call.
    """
    retry = retry or RetryPolicy()
    _check_address(address)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    failures = 0
    while True:
        before = _length(part)
        try:
            _transfer(address, part, trust_part, retry.timeout_s, progress)
            break
        except _Interrupted as error:
            failures = 1 if _length(part) > before else failures + 1
            if failures >= retry.attempts:
                raise DownloadError(
                    f"the download broke off ({error}); {_length(part):,} bytes have come",
                    where=address,
                    remedy="run the same command again; it goes on where it stopped",
                ) from error
            time.sleep(min(60.0, retry.first_pause_s * 2 ** (failures - 1)))
    os.replace(part, file)
    _note_file(part).unlink(missing_ok=True)


def _transfer(
    address: str, part: Path, trust_part: bool, timeout_s: float, progress: Progress | None
) -> None:
    """One request: the whole file, or the rest behind ``part``."""
    start, validator = _resume_point(part, address, trust_part)
    headers = {"User-Agent": f"pneumoscope/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    request = urllib.request.Request(address, headers=headers)
    try:
        with _OPENER.open(request, timeout=timeout_s) as response:
            start, total = _placement(response, start)
            if start == 0:
                write_json(_note_file(part), {"address": address, "validator": _validator(response.headers)})
            with open(part, "r+b" if start else "wb") as sink:
                sink.truncate(start)
                sink.seek(start)
                _copy(response, sink, start, total, progress)
    except urllib.error.HTTPError as error:
        with error:
            _refused(error, part, address)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
            raise _untrusted(address, error) from error
        raise _Interrupted(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _untrusted(address: str, error: Exception) -> DownloadError:
    return DownloadError(
        f"the server's certificate cannot be trusted ({error})",
        where=address,
        remedy="install the certificates of your network (SSL_CERT_FILE)",
    )


def _copy(response: Any, sink: IO[bytes], done: int, total: int | None, progress: Progress | None) -> None:
    while piece := response.read(_PIECE):
        done += len(piece)
        if done > _MOST_BYTES:
            raise DownloadError("the server sends without end", where=response.url)
        try:
            sink.write(piece)
        except OSError as error:
            raise DownloadError(
                f"cannot write ({error})", where=sink.name, remedy="make room on the disk"
            ) from error
        if progress:
            progress(done, total or done)
    if total is not None and done < total:
        raise _Interrupted(f"{done:,} of {total:,} bytes came")


def _resume_point(part: Path, address: str, trust_part: bool) -> tuple[int, str | None]:
    """Bytes that are there and can be kept, and what the server shall recognise them by."""
    length, note = _length(part), _note_file(part)
    if not length or not note.is_file():
        return 0, None
    known = read_json(note)
    if known["address"] != address or not (known["validator"] or trust_part):
        return 0, None
    return length, known["validator"]


def _placement(response: Any, start: int) -> tuple[int, int | None]:
    """Where the body that comes belongs, and the length of the whole."""
    length = response.headers.get("Content-Length")
    if response.status != http.client.PARTIAL_CONTENT:
        return 0, int(length) if length and length.isdigit() else None
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != start:
        raise DownloadError("the server answered with another range than asked for", where=response.url)
    return start, None if match[2] == "*" else int(match[2])


def _refused(error: urllib.error.HTTPError, part: Path, address: str) -> None:
    """Turn a status into what to do: done already, try again, or give up."""
    if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
        if error.headers.get("Content-Range") == f"bytes */{_length(part)}":
            return
        part.unlink()
        raise _Interrupted("the partial file does not fit what the server has") from error
    if error.code in _PASSING:
        raise _Interrupted(f"HTTP {error.code} {error.reason}") from error
    raise DownloadError(
        f"the server refuses (HTTP {error.code} {error.reason})",
        where=address,
        remedy="see whether the publisher has moved the file, download it by hand and import it",
    ) from error


def _validator(headers: HTTPMessage) -> str | None:
    """A strong ETag, or the date of the last change; a weak ETag cannot guard a range (RFC 9110, 13.1.5)."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _length(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _note_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _check_address(address: str) -> None:
    url = urlsplit(address)
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.hostname or "")):
        raise DownloadError("the address is not encrypted", where=address, expected="https")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _EncryptedRedirects(urllib.request.HTTPRedirectHandler):
    """Follow a redirect only to an address that :func:`fetch` itself would accept."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_EncryptedRedirects)
