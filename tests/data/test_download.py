"""Downloads are pinned, hashed, resumed and unpacked safely; nothing half-written or unsafe stays."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pneumoscope.core.errors import DownloadError
from pneumoscope.data.download import CATALOGUE, RetryPolicy, Source, download, fetch, unpack_zip

CONTENT = bytes(i * 37 % 251 for i in range(400_000))
FAST = RetryPolicy(attempts=3, first_pause_s=0.001, timeout_s=5)


@dataclass
class Behaviour:
    """What the server does, and what it was asked."""

    content: bytes = CONTENT
    ranges: bool = True
    etag: str | None = '"one"'
    break_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    redirect: str | None = None
    requests: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[tuple[str, Behaviour]]:
    behaviour = Behaviour()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            behaviour.requests.append(dict(self.headers))
            if behaviour.redirect:
                return self.reply(302, b"", {"Location": behaviour.redirect})
            if behaviour.statuses:
                return self.reply(behaviour.statuses.pop(0), b"no")
            content, start = behaviour.content, 0
            headers = {"ETag": behaviour.etag} if behaviour.etag else {}
            asked, guard = self.headers.get("Range"), self.headers.get("If-Range")
            if asked and behaviour.ranges and guard in (None, behaviour.etag):
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    return self.reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.reply(206 if start else 200, content[start:], headers)

        def reply(self, status, body, headers=None):
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if behaviour.break_after and status in (200, 206):
                body = body[: behaviour.break_after.pop(0)]
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/film.bin", behaviour
        httpd.shutdown()
        thread.join()


def catalogue(address, digest="pinned", **values):
    if digest == "pinned":
        digest = "md5:" + hashlib.md5(CONTENT).hexdigest()
    source = Source(address, values.pop("file_name", "film.bin"), digest, "CC BY 4.0", "A. Author", **values)
    return {"films": source}


def test_a_download_is_verified_recorded_and_not_repeated(server, tmp_path):
    address, behaviour = server
    seen = []
    result = download(
        "films",
        tmp_path / "new" / "folder",
        catalogue=catalogue(address),
        retry=FAST,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert result.path == result.file == tmp_path / "new" / "folder" / "film.bin"
    assert result.file.read_bytes() == CONTENT
    assert (result.verified, result.fetched, result.size) == (True, True, 400_000)
    assert result.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert seen[-1] == (400_000, 400_000)
    assert seen == sorted(seen)
    assert sorted(p.name for p in result.file.parent.iterdir()) == ["film.bin", "film.bin.download.json"]
    again = download("films", tmp_path / "new" / "folder", catalogue=catalogue(address), retry=FAST)
    assert not again.fetched
    assert len(behaviour.requests) == 1


def test_an_interrupted_transfer_goes_on_where_it_stopped(server, tmp_path):
    address, behaviour = server
    behaviour.break_after = [150_000, 100_000]
    result = download("films", tmp_path, catalogue=catalogue(address), retry=FAST)
    assert result.file.read_bytes() == CONTENT
    assert [r.get("Range") for r in behaviour.requests] == [None, "bytes=150000-", "bytes=250000-"]
    assert [r.get("If-Range") for r in behaviour.requests] == [None, '"one"', '"one"']


def test_the_next_call_goes_on_where_patience_ended(server, tmp_path):
    address, behaviour = server
    behaviour.break_after = [150_000, 0, 0, 0]
    with pytest.raises(DownloadError, match="150,000 bytes have come"):
        download("films", tmp_path, catalogue=catalogue(address), retry=FAST)
    assert not (tmp_path / "film.bin").exists()
    behaviour.break_after = []
    behaviour.requests.clear()
    assert download("films", tmp_path, catalogue=catalogue(address), retry=FAST).verified
    assert [r.get("Range") for r in behaviour.requests] == ["bytes=150000-"]


def test_changed_content_is_fetched_afresh(server, tmp_path):
    address, behaviour = server
    behaviour.content, behaviour.etag, behaviour.break_after = b"old" * 100_000, '"old"', [100_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        download("films", tmp_path, catalogue=catalogue(address), retry=FAST)
    behaviour.content, behaviour.etag, behaviour.break_after = CONTENT, '"one"', []
    assert download("films", tmp_path, catalogue=catalogue(address), retry=FAST).file.read_bytes() == CONTENT


def test_a_server_without_ranges_is_read_from_the_start(server, tmp_path):
    address, behaviour = server
    behaviour.ranges, behaviour.break_after = False, [150_000]
    result = download("films", tmp_path, catalogue=catalogue(address), retry=FAST)
    assert result.file.read_bytes() == CONTENT
    assert len(behaviour.requests) == 2


@pytest.mark.parametrize(("trusted", "ranges"), [(True, [None, "bytes=150000-"]), (False, [None, None])])
def test_without_a_validator_only_a_pinned_hash_allows_to_go_on(server, tmp_path, trusted, ranges):
    address, behaviour = server
    behaviour.etag, behaviour.break_after = None, [150_000]
    fetch(address, tmp_path / "film.bin", trust_part=trusted, retry=FAST)
    assert (tmp_path / "film.bin").read_bytes() == CONTENT
    assert [r.get("Range") for r in behaviour.requests] == ranges


def test_a_weak_etag_is_no_validator(server, tmp_path):
    address, behaviour = server
    behaviour.etag, behaviour.break_after = 'W/"one"', [150_000]
    fetch(address, tmp_path / "film.bin", retry=FAST)
    assert [r.get("Range") for r in behaviour.requests] == [None, None]


def test_a_complete_part_file_is_kept(server, tmp_path):
    address, _ = server
    (tmp_path / "film.bin.part").write_bytes(CONTENT)
    note = {"address": address, "validator": '"one"'}
    (tmp_path / "film.bin.part.json").write_text(json.dumps(note))
    assert download("films", tmp_path, catalogue=catalogue(address), retry=FAST).verified


def test_a_part_file_longer_than_the_content_is_dropped(server, tmp_path):
    address, _ = server
    (tmp_path / "film.bin.part").write_bytes(CONTENT + b"more")
    note = {"address": address, "validator": '"one"'}
    (tmp_path / "film.bin.part.json").write_text(json.dumps(note))
    assert download("films", tmp_path, catalogue=catalogue(address), retry=FAST).verified


def test_a_wrong_hash_is_refused_and_nothing_is_left(server, tmp_path):
    address, _ = server
    with pytest.raises(DownloadError, match="not what the publisher offers") as caught:
        download("films", tmp_path, catalogue=catalogue(address, "md5:" + "0" * 32), retry=FAST)
    assert caught.value.expected == "md5:" + "0" * 32
    assert hashlib.md5(CONTENT).hexdigest() in caught.value.problem
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_fetched_again(server, tmp_path):
    address, _ = server
    (tmp_path / "film.bin").write_bytes(b"damaged")
    result = download("films", tmp_path, catalogue=catalogue(address), retry=FAST)
    assert result.fetched
    assert result.file.read_bytes() == CONTENT


def test_without_a_publishers_hash_the_record_says_so_and_notices_changes(server, tmp_path):
    address, behaviour = server
    first = download("films", tmp_path, catalogue=catalogue(address, None), retry=FAST)
    assert not first.verified
    assert "no publisher's hash" in first.note
    record = json.loads((tmp_path / "film.bin.download.json").read_text())
    assert record["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert record["digest"] is None
    assert not download("films", tmp_path, catalogue=catalogue(address, None), retry=FAST).fetched
    first.file.write_bytes(b"changed")
    assert download("films", tmp_path, catalogue=catalogue(address, None), retry=FAST).fetched
    assert len(behaviour.requests) == 2


def test_not_found_is_said_at_once(server, tmp_path):
    address, behaviour = server
    behaviour.statuses = [404]
    with pytest.raises(DownloadError, match="HTTP 404"):
        download("films", tmp_path, catalogue=catalogue(address), retry=FAST)
    assert len(behaviour.requests) == 1


def test_passing_trouble_is_waited_out(server, tmp_path):
    address, behaviour = server
    behaviour.statuses = [503, 429]
    assert download("films", tmp_path, catalogue=catalogue(address), retry=FAST).verified
    behaviour.statuses = [503] * 3
    with pytest.raises(DownloadError, match="HTTP 503"):
        download("films", tmp_path / "other", catalogue=catalogue(address), retry=FAST)


def test_no_connection_is_a_clean_error(tmp_path):
    with pytest.raises(DownloadError, match="broke off"):
        fetch("http://127.0.0.1:9/film", tmp_path / "film", retry=RetryPolicy(1, 0.0, 2.0))


@pytest.mark.parametrize(
    "address", ["http://example.org/film", "ftp://example.org/film", "file:///etc/hostname"]
)
def test_only_encrypted_addresses_are_used(address, tmp_path):
    with pytest.raises(DownloadError, match="not encrypted"):
        fetch(address, tmp_path / "film", retry=FAST)


def test_a_redirect_out_of_encryption_is_refused(server, tmp_path):
    address, behaviour = server
    behaviour.redirect = "http://example.org/film"
    with pytest.raises(DownloadError, match="not encrypted"):
        fetch(address, tmp_path / "film", retry=FAST)


def test_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(DownloadError, match="kermany"):
        download("nothing", tmp_path)


def test_the_catalogue_is_pinned_to_the_publishers():
    assert set(CATALOGUE) >= {"pneumoniamnist", "kermany"}
    for name, source in CATALOGUE.items():
        host = "https://data.mendeley.com/" if name == "kermany" else "https://zenodo.org/records/10519652/"
        assert source.address.startswith(host)
        assert source.licence
        assert source.citation
        assert source.digest is None or len(source.digest.partition(":")[2]) in (32, 64)
    assert CATALOGUE["pneumoniamnist"].digest == "md5:28209eda62fecd6e6a2d98b1501bb15f"
    assert CATALOGUE["kermany"].unpack


def test_an_archive_is_unpacked_once(server, tmp_path):
    address, behaviour = server
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("chest_xray/train/NORMAL/IM-0001-0001.jpeg", b"film")
    behaviour.content = stream.getvalue()
    sources = catalogue(address, None, file_name="films.zip", unpack=True)
    result = download("films", tmp_path, catalogue=sources, retry=FAST)
    assert result.path == tmp_path / "films" / "chest_xray"
    film = result.path / "train" / "NORMAL" / "IM-0001-0001.jpeg"
    assert film.read_bytes() == b"film"
    before = film.stat().st_mtime_ns
    again = download("films", tmp_path, catalogue=sources, retry=FAST)
    assert again.path == result.path
    assert film.stat().st_mtime_ns == before


def make(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_films_unpack_and_the_single_top_folder_is_the_answer(tmp_path):
    archive = make(
        tmp_path / "a.zip",
        [
            ("chest_xray/train/NORMAL/IM-0001-0001.jpeg", b"film"),
            ("__MACOSX/chest_xray/._x", b"junk"),
            ("chest_xray/.DS_Store", b"junk"),
            ("chest_xray/test/", b""),
        ],
    )
    seen = []
    root = unpack_zip(archive, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert root == tmp_path / "out" / "chest_xray"
    assert [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()] == [
        "train/NORMAL/IM-0001-0001.jpeg"
    ]
    assert seen == [(1, 1)]


def test_an_older_folder_is_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale").write_bytes(b"x")
    root = unpack_zip(make(tmp_path / "a.zip", [("a.txt", b"1"), ("b.txt", b"2")]), tmp_path / "out")
    assert sorted(p.name for p in root.iterdir()) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:/evil"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, name):
    archive = make(tmp_path / "a.zip", [("good", b"1"), (name, b"2")])
    with pytest.raises(DownloadError, match="leaves the folder"):
        unpack_zip(archive, tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(DownloadError, match="is a link"):
        unpack_zip(make(tmp_path / "a.zip", [(link, "/etc/passwd")]), tmp_path / "out")


def test_a_bomb_is_refused(tmp_path):
    bomb = make(tmp_path / "a.zip", [(f"zeros-{i}", bytes(40_000_000)) for i in range(3)])
    assert bomb.stat().st_size < 200_000
    with pytest.raises(DownloadError, match="not safe"):
        unpack_zip(bomb, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damage_is_noticed_and_nothing_is_left(tmp_path):
    archive = make(tmp_path / "a.zip", [("film", bytes(range(256)) * 50)])
    content = bytearray(archive.read_bytes())
    content[60] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack_zip(archive, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
    archive.write_bytes(b"not a zip")
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack_zip(archive, tmp_path / "out")
