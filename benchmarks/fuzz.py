"""Fuzzing of every parser that a stranger's bytes reach: ``python -m benchmarks.fuzz --minutes 30``.

In: a time, a number of inputs. Out: a table of what was tried on standard output, and findings (inputs, with
what they did) in a folder. atheris (libFuzzer) chooses mutants by the lines of Python that they reach; they
are made by :mod:`benchmarks.fuzz_mutations`, since random bytes seldom get past a check sum. Each target runs
in a process of its own, so that an input that crashes a decoder, hangs it or takes too much memory is caught,
kept and counted, and the run goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pneumoscope.core.files import sha256_bytes, write_bytes, write_json

__all__ = ["main"]

HANG_S = 5.0
"""Processor time of one input, in seconds."""
MEMORY_MB = 1024
"""Of one process beyond what it has when it is ready."""
_LIBRARIES = ("pneumoscope", "pydicom", "pynetdicom", "dicomanonymizer", "python_multipart", "PIL", "tomllib")
_NOTE_EVERY = 200


def main() -> None:
    """Attack what was asked for, or everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="TARGET", help="image, results, frames, settings, rest, node"
    )
    parser.add_argument(
        "--minutes", type=float, default=30, help="altogether, shared out by weight (default: 30)"
    )
    parser.add_argument(
        "--inputs", type=int, default=1_000_000, help="stop after so many (default: 1,000,000)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path("fuzz"), help="folder of the findings (default: fuzz)"
    )
    parser.add_argument("--one", metavar="TARGET", help=argparse.SUPPRESS)
    parser.add_argument("--replay", type=Path, metavar="INPUT", help="run one input of --one again")
    given = parser.parse_args()
    if given.replay:
        _replay(given.one, given.replay)
    elif given.one:
        _attack(given.one, given.seed, given.out)
    else:
        _run_all(given)


def _run_all(given: argparse.Namespace) -> None:
    from benchmarks.fuzz_targets import TARGETS

    chosen = [TARGETS[name] for name in given.names or TARGETS]
    total = sum(target.weight for target in chosen)
    print("| target | inputs | accepted | minutes | findings |\n|---|---:|---:|---:|---:|")
    left = given.inputs
    for target in chosen:
        seconds = given.minutes * 60 * target.weight / total
        done = _supervise(target.name, seconds, left, given)
        left -= done["inputs"]
        row = (
            f"{done['inputs']:,}",
            f"{done['accepted']:,}",
            f"{done['seconds'] / 60:.1f}",
            done["findings"],
        )
        print(f"| {target.name}: {target.about} | " + " | ".join(map(str, row)) + " |", flush=True)


def _supervise(name: str, seconds: float, inputs: int, given: argparse.Namespace) -> dict[str, Any]:
    """Run a target until its time is over; one that dies or hangs is replaced with another seed."""
    folder = given.out / name
    folder.mkdir(parents=True, exist_ok=True)
    count, accepted, seed, start = 0, 0, given.seed, time.monotonic()
    while (spent := time.monotonic() - start) < seconds and count < inputs:
        command = [
            sys.executable,
            "-m",
            "benchmarks.fuzz",
            "--one",
            name,
            "--seed",
            str(seed),
            "--out",
            str(folder),
        ]
        with open(folder / "stderr.txt", "w", encoding="utf-8") as errors:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
            ended = _watch(process, folder, seconds - spent, inputs - count)
        note = _note(folder)
        count, accepted = count + note["inputs"], accepted + note["accepted"]
        if ended and note["started"] == 0:
            raise SystemExit((folder / "stderr.txt").read_text()[-3000:])
        if ended:
            _keep(folder, ended, (folder / "current").read_bytes())
        (folder / "note.json").unlink(missing_ok=True)
        seed += 1
    findings = len(list(folder.glob("*.input")))
    return {"inputs": count, "accepted": accepted, "seconds": time.monotonic() - start, "findings": findings}


def _watch(process: subprocess.Popen[bytes], folder: Path, seconds: float, inputs: int) -> str:
    """Wait for the end; returns what an input did to the process, empty when its time was simply over."""
    end = time.monotonic() + seconds
    seen, since = -1, 0.0
    while time.monotonic() < end and _note(folder)["inputs"] < inputs:
        if process.poll() is not None:
            return (
                f"died of signal {-process.returncode}"
                if process.returncode < 0
                else f"exit {process.returncode}"
            )
        used, number = _processor_seconds(process.pid), _note(folder)["started"]
        if number != seen:
            seen, since = number, used
        elif used - since > 4 * HANG_S + 20:
            process.kill()
            process.wait()
            return "hang"
        time.sleep(0.5)
    process.kill()
    process.wait()
    return ""


def _processor_seconds(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _note(folder: Path) -> dict[str, int]:
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, int] = json.loads((folder / "note.json").read_text())
        return found
    return {"inputs": 0, "accepted": 0, "started": 0}


def _keep(folder: Path, what: str, content: bytes) -> None:
    """Keep an input under what it did; a second one that did the same is only counted."""
    name = sha256_bytes(what.encode())[:12]
    file = folder / f"{name}.json"
    count = json.loads(file.read_text())["count"] if file.exists() else 0
    if not count:
        write_bytes(folder / f"{name}.input", content)
    write_json(file, {"what": what, "count": count + 1})


class _Attack:
    """Runs inputs, notes progress, keeps findings."""

    def __init__(self, function: Callable[[bytes], bool], folder: Path) -> None:
        self.function = function
        self.folder = folder
        self.count: Counter[str] = Counter()
        self.current = os.open(folder / "current", os.O_RDWR | os.O_CREAT, 0o600)

    def __call__(self, content: bytes) -> None:
        os.ftruncate(self.current, 0)
        os.pwrite(self.current, content, 0)
        self.count["started"] += 1
        used = time.process_time()
        try:
            self.count["accepted"] += self.function(content)
        except Exception as error:
            _keep(self.folder, _place(error), content)
        if time.process_time() - used > HANG_S:
            _keep(self.folder, f"slow: {time.process_time() - used:.0f} s", content)
        self.count["inputs"] += 1
        if self.count["inputs"] % _NOTE_EVERY == 0:
            self.note()

    def note(self) -> None:
        write_json(
            self.folder / "note.json", {name: self.count[name] for name in ("inputs", "accepted", "started")}
        )


def _place(error: Exception) -> str:
    """The kind of an error and where it was raised: what makes two findings the same."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "fuzz" not in frame.filename]
    where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in (ours or frames)[-3:]]
    text = "" if ours and "pneumoscope" not in ours[-1].filename else f": {error}"
    return f"{type(error).__name__}{text[:200]} at {' < '.join(reversed(where))}"


def _attack(name: str, seed: int, folder: Path) -> None:
    """One process: until it is killed, or an input kills it."""
    import atheris

    from benchmarks.fuzz_mutations import mutated

    with atheris.instrument_imports(include=list(_LIBRARIES), enable_loader_override=False):
        from benchmarks.fuzz_targets import TARGETS

        target = TARGETS[name]
        seeds = target.seeds()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    chance = random.Random(seed)
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, content in enumerate(seeds):
        write_bytes(corpus / f"seed-{number}", content)

    def mutate(content: bytes, most: int, _: int) -> bytes:
        return mutated(content, chance, seeds, target.words)[:most]

    with target.opened() as function:
        attack = _Attack(function, folder)
        for content in seeds:
            attack(content)
        attack.note()
        _limit_memory()
        longest = 4 * max(map(len, seeds))
        options = [
            f"-seed={seed}",
            f"-max_len={longest}",
            "-rss_limit_mb=0",
            "-timeout=600",
            "-verbosity=0",
            "-handle_segv=0",
            "-handle_abrt=0",
            "-handle_bus=0",
            "-handle_fpe=0",
            "-len_control=0",
        ]
        atheris.Setup(
            [sys.argv[0], *options, str(corpus)], attack, custom_mutator=mutate, internal_libfuzzer=True
        )
        atheris.Fuzz()


def _limit_memory() -> None:
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_MB * 2**20,) * 2)


def _replay(name: str, file: Path) -> None:
    from benchmarks.fuzz_targets import TARGETS

    with TARGETS[name].opened() as function:
        function(file.read_bytes())


if __name__ == "__main__":
    main()
