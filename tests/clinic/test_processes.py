"""Processes are started again when they die, and stop with their parent."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from pneumoscope_clinic.settings import load_settings
from pneumoscope_clinic.worker.processes import Processes, Role, stop_requested

WAIT_S = 20


def note_and_wait(settings):
    """A role: leaves its pid in the data directory and runs until it is asked to stop."""
    stop = stop_requested()
    (settings.directory / f"ran-{os.getpid()}").write_text("")
    while not stop():
        time.sleep(0.02)
    (settings.directory / f"stopped-{os.getpid()}").write_text("")


def end_at_once(settings):
    """A role that cannot start."""
    (settings.directory / f"tried-{os.getpid()}").write_text("")


def fail(settings):
    """A role that ends with an error whose text and cause quote an image."""
    try:
        raise KeyError("CANARY^CAUSE")
    except KeyError as cause:
        raise ValueError("CANARY^NAME") from cause


@pytest.fixture
def settings(tmp_path):
    return load_settings(None, {"data_dir": str(tmp_path)}, {})


def files(settings, kind):
    return {int(file.name.partition("-")[2]) for file in settings.directory.glob(f"{kind}-*")}


def await_(condition):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_as_many_as_were_asked_for_and_they_stop(settings):
    with Processes(settings, [Role("one", note_and_wait, 2), Role("two", note_and_wait)]) as processes:
        await_(lambda: len(files(settings, "ran")) == 3)
        assert set(processes.pids()) == files(settings, "ran")
    assert files(settings, "stopped") == files(settings, "ran")
    for pid in files(settings, "ran"):
        assert not Path(f"/proc/{pid}").exists()


def test_a_killed_one_is_started_again(settings):
    with Processes(settings, [Role("one", note_and_wait)]) as processes:
        await_(lambda: files(settings, "ran"))
        [first] = processes.pids()
        os.kill(first, signal.SIGKILL)
        await_(lambda: len(files(settings, "ran")) == 2)
        assert processes.pids() != [first]


def test_one_that_cannot_start_is_tried_less_and_less(settings):
    with Processes(settings, [Role("one", end_at_once)]):
        await_(lambda: len(files(settings, "tried")) >= 3)
        before = len(files(settings, "tried"))
        time.sleep(1)
        assert len(files(settings, "tried")) - before <= 1


def test_one_that_cannot_be_forked_is_tried_again(settings, monkeypatch, caplog):
    processes = Processes(settings, [Role("one", note_and_wait), Role("two", note_and_wait)])
    start, calls = processes._context.Process.start, []

    def sometimes(self):
        calls.append(self.name)
        if len(calls) in (1, 4):  # at first, and when it is to be started again
            raise BlockingIOError(11, "Resource temporarily unavailable")
        start(self)

    monkeypatch.setattr(processes._context.Process, "start", sometimes)
    with processes:
        await_(lambda: len(files(settings, "ran")) == 2)
        os.kill(processes.pids()[0], signal.SIGKILL)
        await_(lambda: len(files(settings, "ran")) == 3)
        assert calls == ["one", "two", "one", "one", "one"]
    assert [record.getMessage() for record in caplog.records if "cannot" in record.getMessage()] == [
        "one cannot be started: BlockingIOError"
    ] * 2


def test_the_error_of_a_role_is_said_without_its_words(settings, capfd, caplog):
    with Processes(settings, [Role("one", fail)]):
        await_(lambda: "one ended with 1" in caplog.text)
    said = capfd.readouterr().err
    assert re.search(r"one failed with ValueError at test_processes\.py:\d+", said)
    assert "CANARY" not in said
    assert "Traceback" not in said


def test_orphans_stop_by_themselves(settings):
    pid = os.fork()
    if pid == 0:
        with Processes(settings, [Role("one", note_and_wait)]):
            time.sleep(WAIT_S)
        os._exit(0)
    await_(lambda: files(settings, "ran"))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    await_(lambda: files(settings, "stopped") == files(settings, "ran"))
