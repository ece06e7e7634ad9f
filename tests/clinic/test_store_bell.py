"""The bell wakes who waits, and forgets who died."""

import threading
import time

import pytest

from pneumoscope_clinic.store.bell import Bell, ring


def test_a_ring_wakes_everyone_who_waits(tmp_path):
    heard = []

    def wait():
        with Bell(tmp_path, "work") as bell:
            ready.wait()
            started = time.monotonic()
            heard.append((bell.wait(20), time.monotonic() - started))

    ready = threading.Barrier(4)
    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    ring(tmp_path, "work")
    for thread in threads:
        thread.join()
    assert [rang for rang, _ in heard] == [True] * 3
    assert max(seconds for _, seconds in heard) < 10
    assert list((tmp_path / "bells" / "work").iterdir()) == []


def test_rings_before_the_wait_count_once(tmp_path):
    with Bell(tmp_path, "work") as bell:
        for _ in range(1000):  # more than a socket holds
            ring(tmp_path, "work")
        assert bell.wait(20)
        assert not bell.wait(0.01)


def test_a_bell_hears_only_what_it_is_for(tmp_path):
    with Bell(tmp_path, "work") as work, Bell(tmp_path, "done") as done:
        ring(tmp_path, "done")
        assert done.wait(0)
        assert not work.wait(0)


def test_the_dead_are_forgotten(tmp_path):
    bell = Bell(tmp_path, "work")
    bell._socket.close()  # as after kill -9: the file stays
    assert len(list((tmp_path / "bells" / "work").iterdir())) == 1
    ring(tmp_path, "work")
    assert list((tmp_path / "bells" / "work").iterdir()) == []


def test_nobody_waits(tmp_path):
    ring(tmp_path / "nowhere", "work")
    assert not (tmp_path / "nowhere").exists()


def test_a_directory_with_a_long_name(tmp_path):
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with Bell(deep, "work") as bell:
        ring(deep, "work")
        assert bell.wait(20)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        Bell(tmp_path / "file", "work")
