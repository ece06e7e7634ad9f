"""A notification wakes listeners, and removes sockets of dead processes."""

import threading
import time

import pytest

from pneumoscope_clinic.store.notification import Listener, notify


def test_a_notification_wakes_every_listener(tmp_path):
    heard = []

    def wait():
        with Listener(tmp_path, "work") as listener:
            ready.wait()
            started = time.monotonic()
            heard.append((listener.wait(20), time.monotonic() - started))

    ready = threading.Barrier(4)
    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    notify(tmp_path, "work")
    for thread in threads:
        thread.join()
    assert [rang for rang, _ in heard] == [True] * 3
    assert max(seconds for _, seconds in heard) < 10
    assert list((tmp_path / "notifications" / "work").iterdir()) == []


def test_notifications_before_the_wait_count_once(tmp_path):
    with Listener(tmp_path, "work") as listener:
        for _ in range(1000):  # more than a socket holds
            notify(tmp_path, "work")
        assert listener.wait(20)
        assert not listener.wait(0.01)


def test_a_listener_hears_its_event_only(tmp_path):
    with Listener(tmp_path, "work") as work, Listener(tmp_path, "done") as done:
        notify(tmp_path, "done")
        assert done.wait(0)
        assert not work.wait(0)


def test_the_dead_are_forgotten(tmp_path):
    listener = Listener(tmp_path, "work")
    listener._socket.close()  # as after kill -9: the file stays
    assert len(list((tmp_path / "notifications" / "work").iterdir())) == 1
    notify(tmp_path, "work")
    assert list((tmp_path / "notifications" / "work").iterdir()) == []


def test_nobody_waits(tmp_path):
    notify(tmp_path / "nowhere", "work")
    assert not (tmp_path / "nowhere").exists()


def test_a_directory_with_a_long_name(tmp_path):
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with Listener(deep, "work") as listener:
        notify(deep, "work")
        assert listener.wait(20)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        Listener(tmp_path / "file", "work")
