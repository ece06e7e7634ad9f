"""Fetch the public data sets from their publishers: pinned, hashed, resumable.

In: a name from :data:`CATALOGUE` and a folder. Out: what to import (an ``.npz`` file, or a folder of films)
and a record ``<file>.download.json`` of where it came from, when, and its hash. A file whose publisher's hash
is known is refused when it differs; for the others the record says that nothing vouches for it but the
encrypted connection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from pneumoscope.core.errors import DownloadError
from pneumoscope.core.files import read_json, sha256_file, write_json
from pneumoscope.core.records import Progress
from pneumoscope.data.archives import content_root, unpack_zip
from pneumoscope.data.transfer import RetryPolicy, fetch


@dataclass(frozen=True)
class Source:
    """A file that a publisher offers.

    Attributes:
        address: the publisher's own.
        file_name: what it is called on disk.
        digest: the publisher's hash as ``md5:<hex>`` or ``sha256:<hex>``; None when it is not known.
        licence, citation: to be named wherever the films are used.
        unpack: it is a ZIP file of films.
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
