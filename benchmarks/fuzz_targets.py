"""The parsers that a stranger's bytes reach, each as a function of bytes that must not misbehave.

In: bytes. Out: whether they were accepted; any exception is a finding: parsers may refuse with a
PneumoscopeError (or, where the caller expects it, EOFError and ValueError), and what they accept must keep
its promises.
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pneumoscope.core.errors import ConfigError, PneumoscopeError

__all__ = ["TARGETS", "Target", "Wrong"]

_SHAPE = (48, 40)
_PATIENCE_S = 2.0
"""For an answer of the node."""
_MOST_OPEN = 60
"""Files that this process has open when no association is left: libraries, a database, standard streams."""
_ROUND = 500
"""Inputs after which what they left in a store is thrown away."""


class Wrong(Exception):
    """A parser accepted an input and did not keep its promise, or stopped answering."""


@dataclass(frozen=True)
class Target:
    """What is attacked.

    Attributes:
        name: for the command line.
        about: what it is, in words.
        seeds: makes valid inputs.
        opened: a context that gives the function to attack.
        words: tokens of its language.
        weight: its share of the time.
    """

    name: str
    about: str
    seeds: Callable[[], list[bytes]]
    opened: Callable[[], Any]
    words: tuple[bytes, ...] = ()
    weight: float = 1.0


@contextmanager
def _film() -> Iterator[Callable[[bytes], bool]]:
    """Read an image; what was read must be a radiograph, and must be the same after de-identification."""
    from pneumoscope.imaging.radiograph import image_format, read_radiograph
    from pneumoscope_clinic.worker.deidentification import deidentified

    def attack(content: bytes) -> bool:
        with _file(content) as path:
            try:
                film = read_radiograph(path)
            except PneumoscopeError:
                return False
            kind = image_format(path)
            _check_pixels(film.pixels)
            kept = deidentified(path.read_bytes(), str(kind))
        with _file(kept) as path:
            again = read_radiograph(path)
        if again.pixels.shape != film.pixels.shape or _distance(again.pixels, film.pixels) > 1 / 255:
            raise Wrong(f"{kind}: de-identification changed the picture")
        return True

    yield attack


def _distance(one: Any, other: Any) -> float:
    """The greatest difference, row by row: an image may fill half of the memory that there is."""
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def _check_pixels(pixels: Any) -> None:
    if pixels.ndim != 2 or pixels.dtype != np.float32 or not np.isfinite(pixels).all():
        raise Wrong(f"pixels are {pixels.dtype} of shape {pixels.shape}, or not finite")
    if pixels.min() < 0 or pixels.max() > 1:
        raise Wrong(f"pixels from {pixels.min()} to {pixels.max()}")


@contextmanager
def _results() -> Iterator[Callable[[bytes], bool]]:
    """The header of an image, through the store, into the results that are sent back."""
    from datetime import UTC, datetime

    from pydicom.dataset import Dataset
    from tests.clinic.film_results import record

    from pneumoscope.imaging.decoding import collected_warnings
    from pneumoscope.imaging.dicom import parse_dataset
    from pneumoscope_clinic.results.dicom_objects import dicom_objects
    from pneumoscope_clinic.results.fhir import StudyResults, fhir_bundle
    from pneumoscope_clinic.results.stored_result import StoredResult
    from pneumoscope_clinic.worker.deidentification import identifying_texts, identity_header, scrubbed

    def attack(content: bytes) -> bool:
        with _file(content) as path, collected_warnings():
            try:
                dataset = parse_dataset(path.read_bytes())
            except Exception:  # read_dicom turns whatever comes into an error of ours; so does target image
                return False
            header = json.loads(json.dumps(identity_header(dataset)))
        scrubbed("a warning", identifying_texts(header))
        with collected_warnings():
            known = Dataset.from_json(header)
        result = StoredResult(
            "0" * 32,
            record(),
            _SHAPE,
            datetime.now(UTC),
            image=np.zeros(_SHAPE, np.uint8),
            heat_maps={"bacterial": np.zeros((6, 5), np.uint8)},
            header=known,
        )
        for made in dicom_objects(result, ("sr", "gsps")):
            made.save_as(io.BytesIO(), enforce_file_format=True)
        json.dumps(fhir_bundle(StudyResults("0" * 32, [result]), identities=True), allow_nan=False)
        return True

    yield attack


@contextmanager
def _frames() -> Iterator[Callable[[bytes], bool]]:
    """Messages of an examining process that an image has taken over."""
    from pneumoscope_clinic.worker.frames import read_frame

    def attack(content: bytes) -> bool:
        try:
            values, blobs = read_frame(io.BytesIO(content))
        except (EOFError, ValueError):
            return False
        if not isinstance(values, dict) or not all(isinstance(blob, bytes) for blob in blobs.values()):
            raise Wrong("a message of wrong types")
        return True

    yield attack


@contextmanager
def _settings() -> Iterator[Callable[[bytes], bool]]:
    """A file of settings, and the same text as an environment variable."""
    from pneumoscope_clinic.settings import load_settings

    def attack(content: bytes) -> bool:
        with tempfile.NamedTemporaryFile(dir=_memory()) as file:
            file.write(content)
            file.flush()
            for given in ((Path(file.name), {}), (None, {"PNEUMOSCOPE_CLINIC__DICOM": _text(content)})):
                try:
                    load_settings(given[0], None, given[1])
                    return True
                except ConfigError:
                    continue
        return False

    yield attack


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace").replace("\0", "")


@contextmanager
def _rest() -> Iterator[Callable[[bytes], bool]]:
    """Requests to /v1: the first byte chooses the route, up to the first newline is the content type."""
    from fastapi.testclient import TestClient

    from pneumoscope_clinic.store.accounts import first_admin
    from pneumoscope_clinic.web.app import create_app

    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        store = _store(Path(folder))
        token = first_admin(store)
        routes = (
            "/v1/examine?wait=false",
            "/v1/batches",
            "/v1/films/" + "0" * 32 + "/feedback",
            "/login",
            "/upload",
        )
        count = 0
        with TestClient(create_app(store), raise_server_exceptions=True, follow_redirects=False) as client:

            def attack(content: bytes) -> bool:
                nonlocal count
                count += 1
                head, _, body = content[1:].partition(b"\n")
                route = routes[(content[0] if content else 0) % len(routes)]
                kind = bytes(byte for byte in head if 32 <= byte < 127) or b"application/json"
                headers = {b"Authorization": f"Bearer {token}".encode(), b"Content-Type": kind}
                answer = client.post(route, content=body, headers=headers)
                if answer.status_code >= 500:
                    raise Wrong(f"{route}: {answer.status_code}")
                if count % _ROUND == 0:
                    _forget_films(store)
                return answer.status_code < 400

            yield attack
        store.close()


def _store(folder: Path) -> Any:
    from pneumoscope_clinic.settings import load_settings
    from pneumoscope_clinic.store.database import open_store

    return open_store(
        load_settings(None, {"data_dir": str(folder), "dicom.port": 0, "dicom.timeout_seconds": 1}, {})
    )


def _forget_films(store: Any) -> None:
    """Delete all images, so that a long run does not fill the memory."""
    from sqlalchemy import delete

    from pneumoscope_clinic.store.tables import AuditEntry, Batch, Idempotency, Study

    with store.write() as session:
        for table in (Study, Batch, Idempotency, AuditEntry):
            session.execute(delete(table))
    for name, _ in list(store.blobs.names("received")):
        store.blobs.discard("received", name)


@contextmanager
def _node() -> Iterator[Callable[[bytes], bool]]:
    """Bytes of a connection to the DICOM node, which must answer the next C-ECHO."""
    from pneumoscope_clinic.dicom.node import Node

    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        store = _store(Path(folder))
        died: list[str] = []

        def note(given: threading.ExceptHookArgs) -> None:
            # So pynetdicom ends an association whose peer breaks its rules; what it held is watched below.
            if type(given.thread).__name__ != "DULServiceProvider":
                died.append(f"{given.exc_type.__name__} in {given.thread}")

        earlier, threading.excepthook = threading.excepthook, note
        count = 0
        with Node(store) as node:

            def attack(content: bytes) -> bool:
                nonlocal count
                count += 1
                answered = _send(node.address, content)
                if died:
                    raise Wrong(f"a thread of the node died: {died.pop()}")
                if count % 50 == 0:
                    _settle(node)
                    _echo(node.address)
                if count % _ROUND == 0:
                    _forget_films(store)
                return answered

            yield attack
        threading.excepthook = earlier
        store.close()


def _send(address: tuple[str, int], content: bytes) -> bool:
    """Send the first PDU, wait for its answer, send the rest; returns whether there was an association."""
    end = 6 + int.from_bytes(content[2:6], "big")  # PS3.8 9.3.1
    found = b""
    with socket.create_connection(address, timeout=5) as wire:
        try:
            wire.sendall(content[:end])
            wire.settimeout(_PATIENCE_S)
            if end <= len(content):
                found = wire.recv(65536)
                wire.sendall(content[end:])
            wire.shutdown(socket.SHUT_WR)
            while piece := wire.recv(65536):
                found += piece
        except OSError:  # the node hangs up on rude peers
            return found[:1] == b"\x02"
    return found[:1] == b"\x02"  # A-ASSOCIATE-AC, PS3.8 table 9-17


def _settle(node: Any) -> None:
    """Wait for the ends of associations, and complain of what they leave behind."""
    end = time.monotonic() + 10
    while node._server.active_associations or len(os.listdir("/proc/self/fd")) > _MOST_OPEN:
        if time.monotonic() > end:
            raise Wrong(f"{len(node._server.active_associations)} associations, or their sockets, do not end")
        time.sleep(0.01)


def _echo(address: tuple[str, int]) -> None:
    from pynetdicom.ae import ApplicationEntity

    entity = ApplicationEntity("FUZZ")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    entity.add_requested_context("1.2.840.10008.1.1")
    link = entity.associate(*address, ae_title="PNEUMOSCOPE")
    answered = link.is_established and link.send_c_echo().get("Status") == 0
    if link.is_established:
        link.release()
    if not answered:
        raise Wrong("the node does not answer C-ECHO any more")


@contextmanager
def _file(content: bytes) -> Iterator[Path]:
    """A path to bytes in memory, as the examining process has it."""
    handle = os.memfd_create("film")
    try:
        os.write(handle, content)
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def _memory() -> str | None:
    """A folder in memory where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _film_seeds() -> list[bytes]:
    return [*_raster_seeds(), *_dicom_seeds()]


def _raster_seeds() -> list[bytes]:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    grey = (np.add.outer(np.arange(_SHAPE[0]), np.arange(_SHAPE[1])) * 2).astype(np.uint8)
    wide = grey.astype(np.uint16) * 200
    text = PngInfo()
    text.add_text("Title", "somebody")
    turned = Image.Exif()
    turned[0x0112] = 6
    seeds = []
    for mode, kind, options in (
        ("L", "PNG", {"pnginfo": text}),
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {}),
        ("1", "PNG", {}),
        ("L", "JPEG", {"exif": turned, "comment": b"somebody"}),
        ("RGB", "JPEG", {"progressive": True}),
        ("CMYK", "JPEG", {}),
        ("L", "TIFF", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("F", "TIFF", {}),
        ("CMYK", "TIFF", {}),
        ("1", "TIFF", {"compression": "group4"}),
        ("L", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("L", "BMP", {}),
        ("RGB", "BMP", {}),
        ("1", "BMP", {}),
    ):
        seeds.append(_saved(Image.fromarray(grey).convert(mode), kind, options))
    seeds.append(_saved(Image.fromarray(wide), "PNG", {}))
    seeds.append(_saved(Image.fromarray(wide), "TIFF", {}))
    seeds.append(_saved(Image.fromarray(wide), "TIFF", {"tiffinfo": {262: 0}}))
    return seeds


def _saved(picture: Any, kind: str, options: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def _dicom_seeds() -> list[bytes]:
    from pydicom import uid
    from tests.imaging.dicom_builder import COMPRESSED, NATIVE, lut_item, radiograph, ramp, write

    colour = np.repeat(ramp(8, shape=_SHAPE)[..., None], 3, axis=2)
    table = lut_item(0, np.arange(4096), 12)
    names = {
        "PatientName": "Some^Body",
        "PatientBirthDate": "20200102",
        "StudyDate": "20260304",
        "StudyTime": "101112",
    }
    made = [(radiograph(ramp(12, shape=_SHAPE), 12, **names), syntax) for syntax in (*NATIVE, *COMPRESSED)]
    plain = uid.ExplicitVRLittleEndian
    made += [
        (radiograph(ramp(8, shape=_SHAPE), 8, PhotometricInterpretation="MONOCHROME1"), plain),
        (radiograph(ramp(8, shape=_SHAPE), 8), uid.JPEGBaseline8Bit),
        (radiograph(ramp(16, True, _SHAPE), 16, RescaleSlope="2", RescaleIntercept="-5"), plain),
        (radiograph(ramp(12, shape=_SHAPE), 12, WindowCenter="2048", WindowWidth="4096"), plain),
        (radiograph(ramp(12, shape=_SHAPE), 12, VOILUTSequence=[table], ModalityLUTSequence=[table]), plain),
        (radiograph(ramp(12, shape=_SHAPE), 12, PixelPaddingValue=0, PresentationLUTShape="INVERSE"), plain),
        (radiograph(colour, 8, PhotometricInterpretation="RGB"), plain),
    ]
    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (dataset, syntax) in enumerate(made):
            seeds.append(write(dataset, Path(folder) / f"{number}.dcm", syntax).read_bytes())
    return seeds


def _frame_seeds() -> list[bytes]:
    from pneumoscope_clinic.worker.frames import write_frame

    seeds = []
    for values, blobs in (({}, {}), ({"map_shape": [2, 3]}, {"film": b"abc", "map:x": b"123456"})):
        out = io.BytesIO()
        write_frame(out, values, blobs)
        seeds.append(out.getvalue())
    return seeds


def _settings_seeds() -> list[bytes]:
    return [
        b'workers = 3\nlanguage = "fr"\n[server]\nport = 80\ntrusted_proxies = ["127.0.0.1"]\n',
        b'[[destinations]]\nname = "pacs"\nkind = "dimse"\nhost = "h"\nport = 104\nae_title = "A"\n',
        b'[security.oidc]\nissuer = "https://x"\ndefault_role = "reader"\n[privacy]\nretain_days = 3\n',
        b'{"ae_title": "A", "peers": [{"ae_title": "B", "address": "10.0.0.0/8"}]}',
        b'[{"a": 1}]',
    ]


def _rest_seeds() -> list[bytes]:
    boundary = "xyz"

    def part(name: str, body: str, more: str = "") -> str:
        return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{body}\r\n'

    film = part("film", "not an image", '; filename="a.png"')
    forms = (
        film,
        film + part("age_years", "3") + part("reference", "bed 4"),
        part("films", "one", '; filename="1"') + part("films", "two", '; filename="2"'),
    )
    kind = f"multipart/form-data; boundary={boundary}"
    seeds = [f"{route}{kind}\n{form}--{boundary}--\r\n".encode() for route in "AFBGCDE" for form in forms]
    entry = json.dumps({"diagnosis": "normal", "comment": "a", "consent": True})
    seeds += [f"{route}application/json\n{entry}".encode() for route in "AC"]
    seeds.append(b"Dapplication/x-www-form-urlencoded\nname=admin&password=x&next=%2F")
    return seeds


def _node_seeds() -> list[bytes]:
    """An association with C-ECHO and C-STORE, recorded from pynetdicom."""
    from tests.clinic.dicom_peers import film

    return [
        _recorded(lambda link: link.send_c_echo(), "1.2.840.10008.1.1"),
        _recorded(lambda link: link.send_c_store(film()), film().SOPClassUID),
    ]


def _recorded(act: Callable[[Any], Any], sop_class: str) -> bytes:
    """What a requestor sends, up to its release."""
    from pynetdicom import evt
    from pynetdicom.ae import ApplicationEntity

    sent: list[bytes] = []
    entity = ApplicationEntity("MODALITY")
    entity.add_requested_context(sop_class)
    with tempfile.TemporaryDirectory() as folder:
        from pneumoscope_clinic.dicom.node import Node

        store = _store(Path(folder))
        with Node(store) as node:
            handler = [(evt.EVT_DATA_SENT, lambda event: sent.append(event.data))]
            link = entity.associate(*node.address, ae_title="PNEUMOSCOPE", evt_handlers=handler)
            act(link)
            link.release()
        store.close()
    return b"".join(sent)


_TOML_WORDS = (
    b"=",
    b"[",
    b"]",
    b"[[",
    b"]]",
    b"{",
    b"}",
    b'"""',
    b"'''",
    b"\\u0000",
    b"\\ud800",
    b"1e999",
    b"nan",
    b"-inf",
    b"2026-01-01T00:00:00Z",
    b"server.port",
    b"destinations",
    b"[[dicom.peers]]\n",
    b"true",
    b"0x",
    b"9" * 30,
    b"[" * 200,
    b"\n",
    b"\xff",
)
_REST_WORDS = (
    b"\r\n",
    b"--xyz",
    b"--xyz--",
    b"Content-Disposition: form-data; ",
    b'name="',
    b"filename*=utf-8''%ff",
    b"Content-Transfer-Encoding: base64",
    b"charset=utf-16",
    b"boundary=",
    b"\\ud800",
    b"\\u0000",
    b"1e999",
    b"NaN",
    b"[" * 300,
    b'"diagnosis":',
    b"%00",
    b"&",
    b"=",
    b'"',
    b"\xff\xfe",
    b"_charset_",
)
_PDU_WORDS = (
    struct.pack(">BBI", 4, 0, 8),
    struct.pack(">BBI", 5, 0, 4),
    struct.pack(">BBI", 7, 0, 4),
    b"\xff" * 4,
    b"\x00\x00\x00\x00",
    b"\x00\x00\x00\x01",
    b"\x01\x03",
    b"\x01\x02",
    b"\x01\x01",
)

TARGETS = {
    target.name: target
    for target in (
        Target(
            "film",
            "read_radiograph and deidentified: DICOM, JPEG, PNG, TIFF, BMP",
            _film_seeds,
            _film,
            weight=6,
        ),
        Target("results", "identity_header, and the results made with it", _dicom_seeds, _results, weight=2),
        Target("frames", "messages of the examining process", _frame_seeds, _frames, weight=0.5),
        Target("settings", "TOML and JSON settings", _settings_seeds, _settings, _TOML_WORDS, weight=0.5),
        Target(
            "rest", "multipart, form and JSON bodies of /v1 and the pages", _rest_seeds, _rest, _REST_WORDS
        ),
        Target("node", "PDUs and commands of the DICOM node", _node_seeds, _node, _PDU_WORDS),
    )
}
