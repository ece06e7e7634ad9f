"""``pneumoscope serve`` as a real process: without configuration, stopped, killed, its port taken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.clinic.films import png_film
from tests.clinic.serving import START_S, Serving, alive

ARGUMENTS = ("--port", "0", "--workers", "1")


def await_end(pids: set[int]) -> None:
    """Wait until none of the processes runs."""
    for _ in range(600):
        if not any(alive(pid) for pid in pids):
            return
        time.sleep(0.05)
    raise AssertionError(f"still there: {[pid for pid in pids if alive(pid)]}")


def test_without_any_configuration(tmp_path: Path) -> None:
    server = Serving(tmp_path, *ARGUMENTS, OMP_NUM_THREADS="1")
    server.await_ready()
    secret, said = server.secret, server.said()
    pids = server.pids()

    # What it says, and that it is true.
    assert secret is not None
    assert said.count(secret) == 1
    assert said.splitlines()[:2] == [
        "A new installation. Log in as: admin",
        f"Password, and API token, shown only now: {secret}",
    ]
    assert f"pneumoscope serves at {server.url}/ with reference@" in said
    assert "data in ~/.local/share/pneumoscope." in said
    assert "not a medical device" in said
    assert (tmp_path / ".local/share/pneumoscope/clinic.db").is_file()
    assert (tmp_path / ".local/share/pneumoscope/secret.key").stat().st_mode & 0o777 == 0o600
    answer = httpx.post(
        f"{server.url}/v1/examine",
        files={"film": ("film", png_film())},
        headers={"Authorization": f"Bearer {secret}"},
        timeout=120,
    )
    assert answer.status_code == 200
    assert answer.json()["state"] == "done"
    assert answer.json()["result"]["bundle"].startswith("reference@")

    # SIGTERM ends them all.
    assert server.stop() == 0
    await_end(pids)
    assert len(pids) >= 4  # itself, web, worker and its sandbox, watcher

    # The second start has the same installation and says no secret.
    again = Serving(tmp_path, *ARGUMENTS, OMP_NUM_THREADS="1")
    again.await_ready()
    assert "A new installation" not in again.said()
    assert again.secret is None
    studies = httpx.get(f"{again.url}/v1/studies", headers={"Authorization": f"Bearer {secret}"}).json()
    assert len(studies["studies"]) == 1

    # kill -9 leaves nothing behind, either.
    pids = again.pids()
    again.process.kill()
    again.process.wait()
    await_end(pids)


def test_a_busy_port(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = Serving(tmp_path, "--port", str(port))
        code = server.process.wait(START_S)

    assert code == 2
    assert server.said() == (
        "error: the server cannot listen: Address already in use\n"
        f"  where: 127.0.0.1:{port}\n"
        "  remedy: choose another with --port, or 0 for any that is free\n"
    )


def test_a_port_of_another_installation(tmp_path: Path) -> None:
    first = Serving(tmp_path / "first", *ARGUMENTS)
    try:
        first.await_ready()
        port = first.url.rpartition(":")[2]
        second = Serving(tmp_path / "second", "--port", port)
        assert second.process.wait(START_S) == 2
        assert "cannot listen: Address already in use" in second.said()
    finally:
        first.process.terminate()
        first.process.wait(START_S)


def test_a_key_that_is_gone_or_another(tmp_path: Path) -> None:
    first = Serving(tmp_path, *ARGUMENTS)
    first.await_ready()
    first.process.terminate()
    first.process.wait(START_S)
    key = next(tmp_path.rglob("secret.key"))
    key.rename(key.with_name("elsewhere"))

    gone = Serving(tmp_path, *ARGUMENTS)
    assert gone.process.wait(START_S) == 2
    assert "the key of this installation is missing" in gone.said()
    assert not key.exists()

    key.write_text("00" * 32)
    other = Serving(tmp_path, *ARGUMENTS)
    assert other.process.wait(START_S) == 2
    assert "the key does not fit" in other.said()


def test_ctrl_c(tmp_path: Path) -> None:
    server = Serving(tmp_path, *ARGUMENTS)
    while "serves at" not in server.said():
        assert server.process.poll() is None, server.said()
        time.sleep(0.05)
    pids = server.pids()
    server.process.send_signal(signal.SIGINT)

    assert server.process.wait(60) == 0
    await_end(pids)
    assert "Traceback" not in server.said()


def serve(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start it where it cannot start."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PNEUMOSCOPE_")}
    return subprocess.run(
        [sys.executable, "-m", "pneumoscope", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=START_S,
        cwd=folder,
        env={**kept, "HOME": str(folder), **environment},
    )


def test_wrong_settings_are_said_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("[server]\nprot = 80\n")
    unknown = serve(tmp_path, "--config", "wrong.toml")
    missing = serve(tmp_path, "--config", "missing.toml")
    variable = serve(tmp_path, PNEUMOSCOPE_CLINIC__SERVER__PORT="many")

    assert [run.returncode for run in (unknown, missing, variable)] == [2, 2, 2]
    assert "prot" in unknown.stderr
    assert "missing.toml" in missing.stderr
    assert "server.port" in variable.stderr
    assert not (tmp_path / ".local").exists()


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    run = serve(tmp_path, "--bundle", "no-such-bundle", "--port", "0")

    assert run.returncode == 2
    assert "no-such-bundle" in run.stderr
    assert "pns_" not in run.stdout
