"""Sandbox: untrusted bytes are decoded and examined in a process of their own.

The process stays for the next image; it is killed when it takes too long, and started again when it is gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope_clinic.image_errors import SandboxDiedError, image_error, rebuilt
from pneumoscope_clinic.settings import LimitSettings
from pneumoscope_clinic.worker.frames import read_frame, write_frame

_log = logging.getLogger(__name__)

_START_SECONDS = 120.0
_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "OMP_NUM_THREADS", "PNEUMOSCOPE_THREADS")


@dataclass(frozen=True, slots=True)
class Examined:
    """What came of an image.

    Attributes:
        record: of ``inference.examination``, with ``limitations`` and ``versions``.
        facts, drift: plain values of the image.
        names: ``study_instance_uid``, ``sop_instance_uid`` and ``patient_id`` of DICOM, else None each.
        age_years, sex: of the patient, or None.
        film: the de-identified bytes.
        identity: DICOM header as JSON bytes, or None.
        heat_maps: (h, w) uint8 by pneumonia class.
    """

    record: dict[str, Any]
    facts: dict[str, Any]
    drift: dict[str, Any]
    names: dict[str, str | None]
    age_years: float | None
    sex: str | None
    film: bytes
    identity: bytes | None
    heat_maps: dict[str, npt.NDArray[np.uint8]]


class Sandbox:
    """The examining process of one worker; a context manager.

    Args:
        bundle: location for ``load_bundle``.
        limits: time and memory of one image.
        threads: of one network pass; None as ``load_bundle``.
        alive: called every second while an image is examined (a worker renews its lease there).
    """

    def __init__(
        self,
        bundle: str,
        limits: LimitSettings,
        *,
        threads: int | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.bundle = bundle
        self.limits = limits
        self.threads = threads
        self.alive = alive
        self._process: subprocess.Popen[bytes] | None = None
        self._bundle_id = ""

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def examine(
        self, content: bytes, options: Mapping[str, Any] | None = None, *, shared: bool = False
    ) -> Examined:
        """Take one image through the line; ``shared``: others are examined meanwhile, so one thread must do.

        Raises:
            PneumoscopeError: as ``examine`` does, of the same kind.
            SandboxDiedError: the image took too long, too much memory, or crashed its decoder.
        """
        values, blobs = self._ask(
            {"task": "examine", "options": dict(options or {}), "shared": shared}, content
        )
        with self._believed():
            shape = values["map_shape"]
            maps = {
                name.removeprefix("map:"): np.frombuffer(raw, np.uint8).reshape(shape)
                for name, raw in blobs.items()
                if name.startswith("map:")
            }
            kept = {key: values[key] for key in ("record", "facts", "drift", "names", "age_years", "sex")}
            return Examined(**kept, film=blobs["film"], identity=blobs.get("identity"), heat_maps=maps)

    def picture(self, content: bytes) -> npt.NDArray[np.uint8]:
        """The image for the eye, (H, W) uint8 on its original grid, bright = dense.

        Raises:
            PneumoscopeError, SandboxDiedError: as :meth:`examine`.
        """
        values, blobs = self._ask({"task": "picture"}, content)
        with self._believed():
            rows, columns = values["shape"]
            return np.frombuffer(blobs["picture"], np.uint8).reshape(rows, columns)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def start(self) -> str:
        """Start the process and open the bundle, unless it runs; the bundle's id.

        Raises:
            BundleError: the bundle cannot be opened.
        """
        if self._process is not None and self._process.poll() is None:
            return self._bundle_id
        self.close()
        self._process = subprocess.Popen(  # nosec B603  # no shell, nothing that came from outside
            [sys.executable, "-P", "-m", "pneumoscope_clinic.worker.sandbox_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
            close_fds=True,
        )
        first = {
            "bundle": self.bundle,
            "threads": self.threads,
            "memory_mb": self.limits.film_memory_mb,
            "parent": os.getpid(),
        }
        answer, _ = self._exchange(first, {}, _START_SECONDS)
        if not answer.get("confined"):
            _log.warning("this kernel has no Landlock: the examining process could read the user's files")
        self._bundle_id = str(answer.get("bundle_id"))
        return self._bundle_id

    @contextlib.contextmanager
    def _believed(self) -> Iterator[None]:
        """End a process whose answer is not what it should be: an image may have taken it over."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.close()
            raise image_error(SandboxDiedError, "examination-ended") from error

    def _ask(self, request: Mapping[str, Any], content: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
        self.start()
        return self._exchange(request, {"film": content}, self.limits.film_seconds)

    def _exchange(
        self, values: Mapping[str, Any], blobs: Mapping[str, bytes], seconds: float
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        watch = _Watch(process, seconds, self.alive)
        try:
            with watch:
                write_frame(process.stdin, values, blobs)
                answer, parts = read_frame(process.stdout)
        except (EOFError, BrokenPipeError, ValueError, MemoryError) as error:
            self.close()
            if watch.problem is not None:
                raise watch.problem from error
            died = (
                image_error(SandboxDiedError, "examination-too-long", seconds=seconds)
                if watch.expired
                else image_error(SandboxDiedError, "examination-ended")
            )
            raise died from error
        if "problem" in answer:
            with self._believed():
                problem = rebuilt(answer["problem"])
            raise problem
        return answer, parts


class _Watch:
    """Ends a process that takes too long, and says every second that its worker is alive."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float, alive: Callable[[], None]) -> None:
        self._process = process
        self._seconds = seconds
        self._alive = alive
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.expired = False
        self.problem: BaseException | None = None

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        left = self._seconds
        while left > 0:
            step = min(1.0, left)
            if self._over.wait(step):
                return
            left -= step
            try:
                self._alive()
            except BaseException as error:  # raised again where the image was asked for
                self.problem = error
                self._process.kill()
                return
        self.expired = True
        self._process.kill()
