"""Sandbox process (``python -m pneumoscope_clinic.worker.sandbox_child``): parses untrusted bytes.

It has no database, no key, no network connection and an environment without secrets. Once the bundle is
open its memory is limited, and where the kernel can it may read its libraries and nothing else. It ends
with its worker.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import sys
from pathlib import Path
from typing import Any, BinaryIO

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.inference.bundle import Bundle, load_bundle
from pneumoscope_clinic.image_errors import image_error, problem
from pneumoscope_clinic.worker.confinement import confine, die_with
from pneumoscope_clinic.worker.frames import read_frame, write_frame
from pneumoscope_clinic.worker.sandbox_tasks import draw_picture, examine_film

_OPEN_FILES = 64
_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/null",
    "/dev/urandom",
    "/proc/self",
)


def main() -> None:
    """Answer until standard input ends."""
    # Libraries that print would break the protocol: their standard output is our standard error.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)  # their log lines may hold values of an image's header
    given, _ = read_frame(sys.stdin.buffer)
    die_with(given["parent"])
    try:
        # With all cores for an image alone, and with one where other images are examined beside it: threads
        # that wait for each other on a busy core waste it (docs/benchmarks.md).
        bundles = {shared: load_bundle(given["bundle"], threads=1 if shared else given["threads"])
                   for shared in (False, True)}  # fmt: skip
        for bundle in bundles.values():
            bundle.open()
    except PneumoscopeError as error:
        write_frame(out, {"problem": problem(error)}, {})
        return
    confined = confine(_libraries(bundles[False]))
    _limit(given["memory_mb"] * 2**20)
    write_frame(out, {"bundle_id": bundles[False].id, "confined": confined}, {})
    while True:
        try:
            request, blobs = read_frame(sys.stdin.buffer)
        except EOFError:
            return
        _answer(out, bundles[request.get("shared", False)], request, blobs["film"])


def _answer(out: BinaryIO, bundle: Bundle, request: dict[str, Any], content: bytes) -> None:
    try:
        if request["task"] == "picture":
            picture = draw_picture(content)
            write_frame(out, {"shape": list(picture.shape)}, {"picture": picture.tobytes()})
        else:
            write_frame(out, *examine_film(content, bundle, request["options"]))
    except PneumoscopeError as error:
        write_frame(out, {"problem": problem(error)}, {})
    except Exception as error:  # anything a decoder may raise on a broken file; the text may quote the file
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            # What is left of the memory is unknown; a fresh process is safer than this one.
            os._exit(3)
        failure = image_error(PneumoscopeError, "unexpected-in-examination", error=type(error).__name__)
        write_frame(out, {"problem": problem(failure)}, {})


def _libraries(bundle: Bundle) -> list[Path]:
    """What is read while an image is examined: decoders are imported when one needs them."""
    return [Path(path) for path in dict.fromkeys((sys.prefix, sys.base_prefix, *sys.path, *_SYSTEM))] + [
        bundle.directory
    ]


def _limit(memory: int) -> None:
    """Limit address space beyond what is in use now, files and core dumps (getrlimit(2))."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        used = int(stream.read().split()[0]) * resource.getpagesize()
    for kind, value in (
        (resource.RLIMIT_AS, used + memory),
        (resource.RLIMIT_FSIZE, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    main()
