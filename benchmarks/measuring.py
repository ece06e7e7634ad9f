"""Fair comparisons on one machine: every measurement in its own fresh process, sides taking turns, medians.

In: commands, or functions of the benchmark modules. Out: what they measured, their wall time and peak memory,
and tables. The allocator, the thread pools and the peak memory belong to a process, so no process measures
two sides; sides alternate (A B A B ...), so that a machine which slows down slows down both.

This module and whoever calls :func:`measure` stay small on purpose: Linux counts the memory that a process
held before it started another as the other's peak.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

__all__ = [
    "Measurement",
    "Table",
    "alternate",
    "answered",
    "machine",
    "measure",
    "middle",
    "module_command",
    "without_tuning",
]

ROOT = Path(__file__).resolve().parent.parent

# Settings of the surrounding shell that would favour one side.
_LEFT_OUT = ("MALLOC_", "OMP_", "KMP_", "MKL_", "LD_PRELOAD", "PNEUMOSCOPE_THREADS", "GLIBC_TUNABLES")

_LIBRARIES = ("torch", "lightning", "transformers", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Measurement:
    """One process.

    Attributes:
        values: what it printed.
        seconds: its wall time.
        peak_mb: its peak resident memory in MB (10^6 bytes).
        disturbance: share of the machine's processor time that went to other processes meanwhile.
    """

    values: Mapping[str, Any]
    seconds: float
    peak_mb: float
    disturbance: float = 0.0


@dataclass(frozen=True)
class Table:
    """A titled table of text cells, and remarks below it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    remarks: Sequence[str] = ()

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join([f"### {self.title}", table, *self.remarks])


def module_command(module: str, side: str, **settings: Any) -> list[str]:
    """The command that lets :func:`answered` of ``module`` run one of its sides."""
    return [sys.executable, "-m", module, "--measure", json.dumps({"side": side, **settings})]


def answered(sides: Mapping[str, Callable[..., dict[str, Any]]]) -> bool:
    """Run the side that :func:`module_command` asked this process for; False when it asked for none."""
    if sys.argv[1:2] != ["--measure"]:
        return False
    request = json.loads(sys.argv[2])
    print(json.dumps(sides[request.pop("side")](**request)))
    return True


def without_tuning(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without the allocator's and the thread pools' variables."""
    return {key: value for key, value in environment.items() if not key.startswith(_LEFT_OUT)}


def measure(command: Sequence[str]) -> Measurement:
    """Run ``command`` in a fresh process and take its time and peak memory.

    ``values`` is the last line of its standard output when that is a JSON object.

    Raises:
        RuntimeError: it failed, or its peak memory cannot be told from that of this process.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start, busy = time.perf_counter(), _busy_seconds()
        process = subprocess.Popen(
            command, stdout=output, stderr=errors, env=without_tuning(os.environ), cwd=ROOT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        others = _busy_seconds() - busy - usage.ru_utime - usage.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{errors.read().decode()}")
        lines = output.read().decode().splitlines()
    if usage.ru_maxrss <= _own_peak():
        raise RuntimeError("this process is larger than the one it measures")
    values = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    disturbance = max(0.0, others) / (seconds * (os.cpu_count() or 1))
    return Measurement(values, seconds, usage.ru_maxrss * 1024 / 1e6, disturbance)


def alternate(commands: Mapping[str, Sequence[str]], repeats: int) -> dict[str, list[Measurement]]:
    """Measure each side ``repeats`` times, in turn; what is going on is told on standard error."""
    results: dict[str, list[Measurement]] = {side: [] for side in commands}
    for turn in range(repeats):
        for side, command in commands.items():
            results[side].append(measure(command))
            last = results[side][-1]
            note = f"; others took {last.disturbance:.0%} of the machine" if last.disturbance > 0.05 else ""
            print(f"  {turn + 1}/{repeats} {side}: {last.seconds:.1f} s{note}", file=sys.stderr, flush=True)
    return results


def middle(measurements: Sequence[Measurement], key: str) -> float:
    """Median of a printed value, or of ``seconds`` or ``peak_mb``."""
    return median(
        getattr(m, key) if key in ("seconds", "peak_mb") else float(m.values[key]) for m in measurements
    )


def machine() -> str:
    """Processor, cores, memory and versions, in one line."""
    names = [line.partition(":")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    processor = names[0].strip() if names else platform.processor() or platform.machine()
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    return (
        f"{os.cpu_count()} cores of {processor}, {gigabytes:.0f} GB, {platform.system()}; "
        f"Python {platform.python_version()}, {versions}"
    )


def _busy_seconds() -> float:
    """Processor time that all processes together have used since the machine started (proc(5), stat)."""
    user, nice, system, _idle, _waiting, *rest = map(int, _lines("/proc/stat")[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def _own_peak() -> int:
    """Peak resident memory of this process in kB (proc(5), VmHWM)."""
    status = dict(line.split(":", 1) for line in _lines("/proc/self/status"))
    return int(status["VmHWM"].split()[0])


def _lines(file: str) -> list[str]:
    return Path(file).read_text(encoding="utf-8").splitlines() if Path(file).exists() else []
