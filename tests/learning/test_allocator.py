import ctypes
import sys
from types import SimpleNamespace

import pytest

from pneumoscope.learning.allocator import keep_large_buffers


def test_glibc_takes_both_settings(monkeypatch):
    asked = []
    libc = SimpleNamespace(
        gnu_get_libc_version=None, mallopt=lambda name, value: asked.append((name, value)) or 1
    )
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    assert keep_large_buffers() is True
    # glibc's malloc.h: M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD is -1.
    assert asked == [(-3, 2**31 - 1), (-1, 2**31 - 1)]


def test_a_refusal_is_told(monkeypatch):
    libc = SimpleNamespace(gnu_get_libc_version=None, mallopt=lambda name, value: 0)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    assert keep_large_buffers() is False


@pytest.mark.parametrize(("platform", "libc"), [("darwin", None), ("linux", SimpleNamespace())])
def test_elsewhere_nothing_is_touched(monkeypatch, platform, libc):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    assert keep_large_buffers() is False


@pytest.mark.skipif(
    not (sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")),
    reason="no glibc here",
)
def test_the_real_library_takes_it():
    assert keep_large_buffers() is True
