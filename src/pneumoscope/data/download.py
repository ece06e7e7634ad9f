"""Download public data sets from their publishers: pinned, hashed, resumable, and safely unpacked.

A file whose publisher's hash is known is refused when it differs; ``<file>.download.json`` records the hash
of what came. A partial file is kept as ``<file>.part``; the next attempt asks the server for the rest (RFC
9110, sections 13.1.5 If-Range and 14 Range) and starts again when the content there has changed.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import os
import re
import shutil
import ssl
import stat
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http.client import HTTPMessage
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, Any
from urllib.parse import urlsplit

from pneumoscope import __version__
from pneumoscope.core.errors import DownloadError
from pneumoscope.core.files import read_json, sha256_file, write_json
from pneumoscope.core.records import Progress

_MOST_UNPACKED_BYTES = 20 * 2**30
_MOST_FILES = 200_000
# DEFLATE cannot exceed about 1032:1 (zlib's technical notes); images, being JPEG, hardly shrink at all.
_MOST_RATIO = 100
_UNPACK_CHUNK = 1 << 20


def unpack_zip(archive: Path, folder: Path, *, progress: Progress | None = None) -> Path:
    """Unpack ``archive`` into ``folder`` and return where its content begins.

    That is ``folder`` itself, or the one folder in it when the archive holds a single one. ``folder`` is
    replaced when it exists. ``progress`` counts files.

    Raises:
        DownloadError: not a ZIP file, damaged, unsafe or absurdly large.
    """
    archive, folder = Path(archive), Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as content:
            members = _safe_members(archive, content)
            for done, (member, path) in enumerate(members, start=1):
                target = temporary / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with content.open(member) as source, open(target, "xb") as sink:
                    shutil.copyfileobj(source, sink, _UNPACK_CHUNK)
                if progress:
                    progress(done, len(members))
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        FileExistsError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise DownloadError(
            f"the archive cannot be unpacked ({error})",
            where=archive,
            remedy="delete it and download it again",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return content_root(folder)


def content_root(folder: Path) -> Path:
    """The one folder in ``folder``, or ``folder`` itself when it holds anything else."""
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def _safe_members(archive: Path, content: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files to unpack and where; sizes in the headers bind, because reading stops there."""
    members = []
    for member in content.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if member.is_dir() or "__MACOSX" in path.parts or path.name == ".DS_Store":
            continue
        drive = path.parts and path.parts[0].endswith(":")
        if path.is_absolute() or ".." in path.parts or drive or "\0" in member.filename:
            raise _unsafe(archive, f"the path '{member.filename}' leaves the folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _unsafe(archive, f"'{member.filename}' is a link")
        members.append((member, path))
    size = sum(member.file_size for member, _ in members)
    packed = sum(member.compress_size for member, _ in members)
    if (
        len(members) > _MOST_FILES
        or size > _MOST_UNPACKED_BYTES
        or size > _MOST_RATIO * max(packed, _UNPACK_CHUNK)
    ):
        raise _unsafe(archive, f"it would unpack to {len(members):,} files of {size:,} bytes")
    return members


def _unsafe(archive: Path, problem: str) -> DownloadError:
    return DownloadError(
        f"the archive is not safe to unpack: {problem}",
        where=archive,
        expected="plain files of chest images",
        remedy="delete it; it is not what the publisher offers",
    )


_DOWNLOAD_CHUNK = 1 << 18
_MOST_DOWNLOADED_BYTES = 16 * 2**30
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
    while piece := response.read(_DOWNLOAD_CHUNK):
        done += len(piece)
        if done > _MOST_DOWNLOADED_BYTES:
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


@dataclass(frozen=True)
class Source:
    """A file that a publisher offers.

    Attributes:
        address: the publisher's own.
        file_name: what it is called on disk.
        digest: the publisher's hash as ``md5:<hex>`` or ``sha256:<hex>``; None when it is not known.
        licence, citation: to be named wherever the images are used.
        unpack: it is a ZIP file of images.
    """

    address: str
    file_name: str
    digest: str | None
    licence: str
    citation: str
    unpack: bool = False


@dataclass(frozen=True)
class Downloaded:
    """What came.

    Attributes:
        path: what to import: the file, or the folder that it was unpacked to.
        file: the file as downloaded; size in bytes; sha256 of it.
        verified: it has the publisher's hash; False when that hash is not known.
        fetched: False when the file was there already.
        note: how far its content is vouched for, as a sentence.
    """

    path: Path
    file: Path
    address: str
    size: int
    sha256: str
    verified: bool
    fetched: bool
    note: str
    licence: str
    citation: str


def _pneumoniamnist(suffix: str, md5: str) -> Source:
    """Record 10519652 of Zenodo; the hashes are those of the ``medmnist`` package's ``info.py``."""
    name = f"pneumoniamnist{suffix}.npz"
    return Source(
        address=f"https://zenodo.org/records/10519652/files/{name}?download=1",
        file_name=name,
        digest=f"md5:{md5}",
        licence="CC BY 4.0",
        citation="Yang J. et al., MedMNIST v2, Scientific Data 10, 41 (2023); after Kermany D. et al., "
        "Cell 172, 1122-1131 (2018)",
    )


CATALOGUE: Mapping[str, Source] = MappingProxyType(
    {
        "pneumoniamnist": _pneumoniamnist("", "28209eda62fecd6e6a2d98b1501bb15f"),
        "pneumoniamnist-64": _pneumoniamnist("_64", "8f4eceb4ccffa70c672198ea285246c6"),
        "pneumoniamnist-128": _pneumoniamnist("_128", "05b46931834c231683c68f40c47b2971"),
        "pneumoniamnist-224": _pneumoniamnist("_224", "d6a3c71de1b945ea11211b03746c1fe1"),
        # Mendeley Data, doi:10.17632/rscbjbr9sj.2. No hash of the publisher's is known with certainty.
        "kermany": Source(
            address="https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
            "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
            file_name="ChestXRay2017.zip",
            digest=None,
            licence="CC BY 4.0",
            citation="Kermany D., Zhang K., Goldbaum M., Labeled Optical Coherence Tomography (OCT) and "
            "Chest X-Ray Images for Classification, Mendeley Data, V2 (2018), doi:10.17632/rscbjbr9sj.2",
            unpack=True,
        ),
    }
)
"""The data sets that ``pneumoscope data download`` knows."""


def download(
    name: str,
    destination: Path,
    *,
    progress: Progress | None = None,
    catalogue: Mapping[str, Source] = CATALOGUE,
    retry: RetryPolicy | None = None,
) -> Downloaded:
    """Download the data set ``name`` into the folder ``destination``.

    A complete file that is already there is checked, not fetched again; a partial one is completed.

    Args:
        name: key of ``catalogue``.
        destination: folder.
        progress: bytes done and bytes in all.
        catalogue: the known sources.
        retry: patience with the server.

    Raises:
        DownloadError: unknown name, no connection, or a file that is not what the publisher offers.
    """
    if name not in catalogue:
        raise DownloadError(f"unknown data set '{name}'", expected=f"one of {', '.join(catalogue)}")
    source = catalogue[name]
    file = Path(destination) / source.file_name
    record_file = file.with_name(f"{file.name}.download.json")
    fetched = not _is_intact(file, record_file, source)
    if fetched:
        fetch(source.address, file, trust_part=source.digest is not None, retry=retry, progress=progress)
        _verify(file, source)
        _record(file, record_file, source)
    record = read_json(record_file)
    path = _unpacked(file, again=fetched) if source.unpack else file
    return Downloaded(
        path=path,
        file=file,
        address=source.address,
        size=record["size"],
        sha256=record["sha256"],
        verified=record["verified"],
        fetched=fetched,
        note=record["note"],
        licence=source.licence,
        citation=source.citation,
    )


def _unpacked(file: Path, *, again: bool) -> Path:
    """Where the content of a ZIP file lies; unpacked ``again``, or when it is not there."""
    folder = file.with_suffix("")
    return unpack_zip(file, folder) if again or not folder.is_dir() else content_root(folder)


def _is_intact(file: Path, record_file: Path, source: Source) -> bool:
    """The file is there with the publisher's hash, or with the one that was recorded when it came."""
    if not file.is_file():
        return False
    if source.digest is not None:
        if _digest(file, source.digest) != source.digest:
            return False
        if not record_file.is_file():
            _record(file, record_file, source)
        return True
    return record_file.is_file() and read_json(record_file)["sha256"] == sha256_file(file)


def _verify(file: Path, source: Source) -> None:
    """Delete the file and raise when it does not have the publisher's hash."""
    if source.digest is None:
        return
    found = _digest(file, source.digest)
    if found != source.digest:
        file.unlink()
        raise DownloadError(
            f"what came is not what the publisher offers: its hash is {found}; the file was deleted",
            where=source.address,
            expected=source.digest,
            remedy="try again later or over another connection",
        )


def _digest(file: Path, pattern: str) -> str:
    """The file's hash by the algorithm of ``pattern`` (``md5:...``), written the same way."""
    algorithm = pattern.partition(":")[0]
    with open(file, "rb") as stream:
        # MD5 guards against damage, as its publisher means it; the connection is what guards against forgery.
        return f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"


def _record(file: Path, record_file: Path, source: Source) -> None:
    verified = source.digest is not None
    note = (
        f"the file has the publisher's hash ({source.digest})"
        if verified
        else "no publisher's hash is known for this file: the hash of what came is recorded instead"
    )
    write_json(
        record_file,
        {
            **asdict(source),
            "size": file.stat().st_size,
            "sha256": sha256_file(file),
            "verified": verified,
            "note": note,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
