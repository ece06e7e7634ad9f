"""``pneumoscope serve`` as a process of its own, as an operator starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START_S = 120


class Serving:
    """A server that was started in ``folder``, with its home there; standard output and error in ``log``."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "serve.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PNEUMOSCOPE_")}
        command = [sys.executable, "-m", "pneumoscope", "serve", *arguments]
        self._before = self.text()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=folder, env={**kept, "HOME": str(folder), **environment}
            )

    def text(self) -> str:
        """What it has said, and those before it in this folder."""
        return self.log.read_text() if self.log.exists() else ""

    def said(self) -> str:
        """What it has said since it was started."""
        return self.text().removeprefix(self._before)

    @property
    def url(self) -> str:
        found = re.search(r"serves at (\S+)/ ", self.said())
        assert found is not None, self.said()
        return found[1]

    @property
    def secret(self) -> str | None:
        """The administrator's password and token, where it was said."""
        found = re.search(r"pns_\S+", self.said())
        return None if found is None else found[0]

    def await_ready(self) -> None:
        """Wait until it answers."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self.said()
            try:
                if "serves at" in self.said() and httpx.get(f"{self.url}/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"it is not ready\n{self.said()}")

    def pids(self) -> set[int]:
        """The process and all below it."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
        found = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    def stop(self) -> int:
        """Ask it to end as an operator does, and wait; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def alive(pid: int) -> bool:
    """Whether a process runs; one that is over and not yet collected does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def serving(folder: Path, *arguments: str, **environment: str) -> Iterator[Serving]:
    """A server that answers, until the end of the block."""
    server = Serving(folder, *arguments, **environment)
    try:
        server.await_ready()
        yield server
    finally:
        server.stop()
