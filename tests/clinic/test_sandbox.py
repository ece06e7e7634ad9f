"""A malicious image costs the examining process and nothing else."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import pytest
from PIL import Image

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope_clinic.image_errors import SandboxDiedError, rebuilt
from pneumoscope_clinic.settings import LimitSettings
from pneumoscope_clinic.store.tables import Film
from pneumoscope_clinic.worker import sandbox as module
from pneumoscope_clinic.worker.frames import read_frame, write_frame
from pneumoscope_clinic.worker.intake import Sender, receive
from pneumoscope_clinic.worker.sandbox import Sandbox
from tests.clinic.films import dicom_film, png_film
from tests.clinic.web_clinic import web_clinic, work
from tests.tiny_bundle import write_tiny_bundle

SECRET = "a-secret-of-the-server"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return str(write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny").directory)


@pytest.fixture(scope="module")
def box(bundle):
    with Sandbox(bundle, LimitSettings(film_memory_mb=250), threads=1) as found:
        yield found


@pytest.fixture(scope="module")
def large():
    """A small file of 81 million pixels: an image, by its size, that needs more memory than it gets here."""
    out = io.BytesIO()
    Image.new("L", (9000, 9000), 128).save(out, "PNG", compress_level=1)
    return out.getvalue()


def test_a_film_that_takes_too_much_memory(box, large):
    with pytest.raises(SandboxDiedError, match="ended its examination"):
        box.examine(large)
    assert box.examine(png_film(0.8)).record["decision"] == "POSITIVE"


def test_a_film_that_takes_too_long(box, bundle):
    with Sandbox(bundle, LimitSettings(film_seconds=0.001), threads=1) as hasty:
        with pytest.raises(SandboxDiedError, match=r"longer than 0\.001 s"):
            hasty.examine(png_film())
        hasty.limits = LimitSettings()
        assert hasty.examine(png_film(0.8)).record["decision"] == "POSITIVE"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_film_that_crashes_its_decoder(box, number):
    box.start()
    process = box._process
    os.kill(process.pid, signal.SIGSTOP)
    outcome = []

    def ask():
        try:
            box.examine(png_film())
        except SandboxDiedError as error:
            outcome.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.1)
    os.kill(process.pid, number)
    os.kill(process.pid, signal.SIGCONT)
    thread.join(10)
    assert len(outcome) == 1
    assert process.poll() == -number
    assert box.examine(png_film(0.8)).record["decision"] == "POSITIVE"


def test_the_next_film_is_answered_and_the_bomb_is_given_up(tmp_path, large):
    with web_clinic(tmp_path, limits__film_memory_mb=250, limits__attempts=2) as (store, films):
        sender = Sender("api:test", None, "api")
        ids = [
            receive(store, content, sender).film_id for content in (large, png_film(0.8), b"no image at all")
        ]
        work(store, films)
        with store.read() as session:
            found = [session.get_one(Film, film_id) for film_id in ids]
            jobs = [film.jobs[0] for film in found]
            assert [job.state for job in jobs] == ["failed", "done", "failed"]
            assert jobs[0].attempts == 2
            assert found[1].result.decision == "POSITIVE"
        assert store.blobs.get("received", ids[0]) is None  # what cannot be de-identified is not kept
        assert store.blobs.get("films", ids[0]) is None


def test_the_process_has_no_secrets(bundle, monkeypatch):
    monkeypatch.setenv("PNEUMOSCOPE_CLINIC__DATABASE__URL", SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    inherited = os.memfd_create("secret")
    os.set_inheritable(inherited, True)
    with Sandbox(bundle, LimitSettings(), threads=1) as box:
        box.start()
        folder = f"/proc/{box._process.pid}"
        with open(f"{folder}/environ", encoding="utf-8") as stream:
            names = {line.partition("=")[0] for line in stream.read().split("\0") if line}
        assert names <= set(module._KEPT_ENVIRONMENT)
        with open(f"{folder}/cmdline", encoding="utf-8") as stream:
            assert SECRET not in stream.read()
        opened = {os.readlink(f"{folder}/fd/{number}") for number in os.listdir(f"{folder}/fd")}
        assert all(name.startswith(("pipe:", "/dev/null", "anon_inode:")) for name in opened), opened
    os.close(inherited)


def test_the_process_cannot_read_what_it_is_not_given(bundle, caplog):
    """What a confined process cannot do is in test_confinement; here it is that each one is."""
    with Sandbox(bundle, LimitSettings(), threads=1) as box:
        box.start()
        with open(f"/proc/{box._process.pid}/status", encoding="ascii") as stream:
            confined = "NoNewPrivs:\t1" in stream.read()
        assert confined or "this kernel has no Landlock" in caplog.text
        with open(f"/proc/{box._process.pid}/limits", encoding="ascii") as stream:
            limits = {line[:26].strip(): line[26:47].strip() for line in stream}
        assert limits["Max core file size"] == "0"
        assert limits["Max open files"] == "64"
        assert limits["Max address space"] != "unlimited"


def test_a_film_leaves_no_file(box, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    box.close()
    box.examine(dicom_film(0.8))
    box.picture(png_film())
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_film_costs_no_process(box):
    box.start()
    process = box._process
    for content in (b"x", b"\x89PNG\r\n\x1a\n", b"\0" * 128 + b"DICM", b"\xff\xd8\xff\xe0"):
        with pytest.raises(UnreadableFileError):
            box.examine(content)
        with pytest.raises(UnreadableFileError):
            box.picture(content)
    assert box._process is process
    assert process.poll() is None


def header(**content):
    text = json.dumps({"values": {}, "blobs": {}, **content}).encode()
    return struct.pack(">I", len(text)) + text


LIES = {
    "more bytes than there are": header(blobs={"film": 1000}) + b"few",
    "negative": header(blobs={"film": -1}),
    "not a number": header(blobs={"film": "many"}),
    "terabytes": header(blobs={"film": 2**42}),
    "terabytes in all": header(blobs={str(number): 2**31 - 1 for number in range(3)}),
    "infinite": struct.pack(">I", 40) + b'{"values": {}, "blobs": {"film": 1e999}}',
    "a list": struct.pack(">I", 2) + b"[]",
    "nothing of the kind": struct.pack(">I", 2) + b"{}",
    "a long header": struct.pack(">I", 2**32 - 1),
    "a deep header": struct.pack(">I", 200_000) + b"[" * 200_000,
    "no JSON": struct.pack(">I", 4) + b"\xff\xfe\xfd\xfc",
    "no values": header(),
    "a wrong shape": header(
        values={
            "map_shape": [7, 7],
            "record": {},
            "facts": {},
            "drift": {},
            "names": {},
            "age_years": None,
            "sex": None,
        },
        blobs={"film": 1, "map:x": 3},
    )
    + b"fmap",
    "no image": header(
        values={
            "map_shape": None,
            "record": {},
            "facts": {},
            "drift": {},
            "names": {},
            "age_years": None,
            "sex": None,
        }
    ),
    "half a problem": header(values={"problem": {"kind": "InputError"}}),
    "a problem of a wrong kind": header(values={"problem": ["kind"]}),
    "silence": b"",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_process_that_lies_is_ended(bundle, lie, monkeypatch, tmp_path):
    """Whatever an examining process says that an image has taken over, its worker goes on with a new one."""
    (tmp_path / "lie").write_bytes(LIES[lie])
    liar = (
        "import sys; from pneumoscope_clinic.worker.frames import *;"
        "read_frame(sys.stdin.buffer); write_frame(sys.stdout.buffer, {'confined': True}, {});"
        "read_frame(sys.stdin.buffer);"
        f"sys.stdout.buffer.write(open({str(tmp_path / 'lie')!r}, 'rb').read())"
    )
    real = subprocess.Popen
    monkeypatch.setattr(
        module.subprocess, "Popen", lambda _, **given: real([sys.executable, "-c", liar], **given)
    )
    box = Sandbox(bundle, LimitSettings(film_seconds=20))
    with pytest.raises(SandboxDiedError):
        box.examine(b"film")
    assert box._process is None


def test_a_problem_is_plain_text_of_a_known_kind(bundle):
    said = {
        "kind": "Exception",
        "problem": {"a": 1},
        "expected": 5,
        "remedy": None,
        "code": None,
        "params": {},
    }
    found = rebuilt(said)
    assert type(found).__name__ == "PneumoscopeError"
    assert (found.problem, found.expected, found.remedy) == ("{'a': 1}", "5", None)
    for kind in ("__builtins__", "annotations", "Path"):
        assert type(rebuilt({**said, "kind": kind})).__name__ == "PneumoscopeError"
    assert rebuilt({**said, "code": "examination-too-long", "params": {"seconds": 5}}).params == {
        "seconds": 5
    }
    with pytest.raises(KeyError):
        rebuilt({**said, "code": "examination-too-long", "params": {"minutes": 5}})


def test_frames_come_back_as_they_were():
    out = io.BytesIO()
    write_frame(out, {"a": [1, None, "ä"]}, {"one": b"", "two": bytes(range(256))})
    assert read_frame(io.BytesIO(out.getvalue())) == (
        {"a": [1, None, "ä"]},
        {"one": b"", "two": bytes(range(256))},
    )
    with pytest.raises(ValueError, match="Out of range float"):
        write_frame(out, {"a": float("nan")}, {})


def test_a_worker_that_is_killed_takes_its_process_along(bundle, tmp_path):
    script = (
        "import sys, time\n"
        "from pneumoscope_clinic.worker.sandbox import Sandbox\n"
        "from pneumoscope_clinic.settings import LimitSettings\n"
        f"box = Sandbox({bundle!r}, LimitSettings(), threads=1)\n"
        "box.start()\n"
        "print(box._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as worker:
        child = int(worker.stdout.readline())
        os.kill(child, signal.SIGSTOP)  # busy with an image: it will not see that its input has ended
        worker.kill()
    until = time.monotonic() + 10
    while time.monotonic() < until and _is_alive(child):
        time.sleep(0.05)
    assert not _is_alive(child)


def _is_alive(process):
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
