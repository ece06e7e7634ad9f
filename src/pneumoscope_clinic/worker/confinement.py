"""Sandbox confinement with Linux Landlock (landlock(7), since 5.13): libraries readable, nothing writable.

It needs no privileges and cannot be undone; what an older kernel does not know stays allowed. Open files and
memory files stay usable.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable
from pathlib import Path

# Numbers of system calls, the same on all architectures since Linux 5.0, and constants of linux/landlock.h
# and linux/prctl.h.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_NO_NEW_PRIVILEGES, _PARENT_DEATH_SIGNAL = 38, 1
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Rights to files by version of the interface: execute, write, read, remove, make, refer, truncate, ioctl."""
_NETWORK_FROM, _NETWORK_RIGHTS = 4, 0b11  # bind and connect by TCP
_SCOPES_FROM, _SCOPES = 6, 0b11  # abstract sockets and signals outside


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def die_with(parent: int) -> None:
    """Let the kernel kill this process when the thread of ``parent`` that started it ends.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    kernel = ctypes.CDLL(None, use_errno=True)
    _checked(kernel.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def confine(readable: Iterable[Path]) -> bool:
    """Allow this process, and all that it starts, to read ``readable`` and below, and no other file.

    Nor may it write or run any file, connect or listen by TCP, signal or look into processes outside.

    Returns:
        Whether it is so; False where the kernel has no Landlock.

    Raises:
        OSError: the kernel knows Landlock and refuses it.
    """
    kernel = ctypes.CDLL(None, use_errno=True)
    version = kernel.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    if version < 1:
        return False
    rights = _Ruleset(
        files=(1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1,
        network=_NETWORK_RIGHTS if version >= _NETWORK_FROM else 0,
        scopes=_SCOPES if version >= _SCOPES_FROM else 0,
    )
    rules = _checked(kernel.syscall(_CREATE_RULESET, ctypes.byref(rights), ctypes.sizeof(rights), 0))
    try:
        for folder in readable:
            _allow(kernel, rules, folder)
        _checked(kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        _checked(kernel.syscall(_RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)
    return True


def _allow(kernel: ctypes.CDLL, rules: int, path: Path) -> None:
    """Allow to read ``path``, a folder with all below or a file; one that is not there needs no leave."""
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rights = _READ_FILE | _READ_DIR if path.is_dir() else _READ_FILE
        rule = _PathBeneath(allowed=rights, folder=handle)
        _checked(kernel.syscall(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(handle)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
