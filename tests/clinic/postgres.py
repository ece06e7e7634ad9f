"""A PostgreSQL server for tests: on loopback, in a folder of its own, gone when the test is."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a fresh server without its database's name; skips where PostgreSQL is not installed."""
    programs = _programs()
    user = None
    if os.getuid() == 0:  # it refuses to run as root
        names = {entry.pw_name for entry in pwd.getpwall()} & {"postgres", "nobody"}
        user = max(names)
    folder = Path(tempfile.mkdtemp(prefix="pneumoscope-pg-"))
    if user is not None:
        shutil.chown(folder, user)
    port, data = free_port(), folder / "data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "user": user, "cwd": folder}
    flags = ["--auth=trust", "--username=clinic", "--encoding=UTF8", "--no-sync", "--locale=C"]
    try:
        subprocess.run([programs / "initdb", "-D", data, *flags], check=True, timeout=120, **quiet)
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F"],
            **quiet,
        )
        try:
            _await(port, server)
            yield f"postgresql+psycopg://clinic@127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGINT)  # SIGTERM would wait for connections that tests left open
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_database(server: str, name: str, template: str = "template1") -> str:
    """Make a database as ``template`` is, which is empty; its URL."""
    plain = server.replace("+psycopg", "")
    with psycopg.connect(f"{plain}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return f"{server}/{name}"


def _programs() -> Path:
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders or not (folders[-1] / "initdb").is_file():
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    return folders[-1]


def _await(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert server.poll() is None
        try:
            psycopg.connect(f"postgresql://clinic@127.0.0.1:{port}/postgres", connect_timeout=1).close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("PostgreSQL does not start")
