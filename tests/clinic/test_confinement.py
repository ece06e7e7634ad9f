"""A confined process reads its libraries, and nothing else is left to it."""

import os
import subprocess
import sys
import textwrap

import pytest

TRIES = {
    "read": "open(secret).read()",
    "list": "os.listdir(os.path.dirname(secret))",
    "write": "open(secret + '.new', 'w')",
    "remove": "os.unlink(secret)",
    "run": "subprocess.run(['/bin/true'])",
    "connect": "socket.create_connection(('127.0.0.1', port), timeout=2)",
    "listen": "socket.create_server(('127.0.0.1', 0))",
    "signal": "os.kill(os.getppid(), 0)",
    "environment of the parent": "open(f'/proc/{os.getppid()}/environ').read()",
    "memory of the parent": "open(f'/proc/{os.getppid()}/mem', 'rb')",
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What came of each try in a confined process; the tests that a kernel cannot keep are skipped."""
    import socket

    secret = tmp_path_factory.mktemp("secret") / "secret.key"
    secret.write_text("the key")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        program = f"""
            import json, os, socket, subprocess, sys
            from pathlib import Path
            from pneumoscope_clinic.worker.confinement import confine
            secret, port = {str(secret)!r}, {listening.getsockname()[1]}
            assert open(secret).read() == "the key"
            handle = os.memfd_create("image")
            os.write(handle, b"image")
            readable = (sys.prefix, sys.base_prefix, "/usr", *sys.path)
            found = {{"confined": confine(map(Path, readable))}}
            for name, what in {TRIES!r}.items():
                try:
                    exec(what)
                    found[name] = "done"
                except OSError as error:
                    found[name] = type(error).__name__
            found["memory file"] = open(f"/proc/self/fd/{{handle}}").read()
            import PIL.TiffImagePlugin
            found["library"] = PIL.TiffImagePlugin.__name__
            print(json.dumps(found))
        """
        ran = subprocess.run(
            [sys.executable, "-P", "-c", textwrap.dedent(program)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    import json

    found = json.loads(ran.stdout)
    if not found["confined"]:
        pytest.skip("this kernel has no Landlock")
    return {**found, "kept": secret.read_text()}


@pytest.mark.parametrize("what", TRIES)
def test_it_may_do_nothing_else(outcome, what):
    late = {"connect": (6, 7), "listen": (6, 7), "signal": (6, 12)}  # Linux that knows it first
    if tuple(map(int, os.uname().release.split(".")[:2])) < late.get(what, (5, 13)):
        pytest.skip("this kernel cannot forbid it")
    assert outcome[what] == "PermissionError"
    assert outcome["kept"] == "the key"


def test_it_still_works(outcome):
    assert outcome["memory file"] == "image"
    assert outcome["library"] == "PIL.TiffImagePlugin"
