"""Makes glibc keep large buffers instead of giving them back to the kernel on every training step.

In: nothing. Out: whether the setting took. Every step allocates and frees the same activations; by default
each is a fresh memory map, and half of a CPU training step goes into page faults. The effect on speed is in
docs/benchmarks.md.
"""

from __future__ import annotations

import ctypes
import sys

# Parameter numbers of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_INT = 2**31 - 1


def keep_large_buffers() -> bool:
    """Raise glibc's mmap and trim thresholds to 2 GiB for this process; False where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(M_MMAP_THRESHOLD, LARGEST_INT) and libc.mallopt(M_TRIM_THRESHOLD, LARGEST_INT))
