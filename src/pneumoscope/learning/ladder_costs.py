"""What a rung costs: parameters, training time, milliseconds a film on the CPU, size on disk, and its curves.

In: the run folder of a trained fold. Out: plain numbers.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np

from pneumoscope.core.files import read_json
from pneumoscope.inference.bundle import load_bundle
from pneumoscope.inference.prediction import run_network

SPEED_THREADS = 1
"""Threads of the timed pass: what a laptop spares beside other work, and the same on every machine."""

_WARM_UP, _PASSES = 5, 30


def film_milliseconds(bundle: Path) -> float:
    """Milliseconds of the network's pass over one decoded film, on one thread of the CPU.

    The fastest of 30 passes: what else the machine does only adds to it (Python's documentation of timeit).
    """
    opened = load_bundle(bundle, threads=SPEED_THREADS)
    side = opened.preprocessing.size
    film = np.random.default_rng(0).random((1, 1, side, side), dtype=np.float32)
    seconds = []
    for _ in range(_WARM_UP + _PASSES):
        start = time.perf_counter()
        run_network(opened, film)
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds[_WARM_UP:])


def bundle_costs(bundle: Path) -> dict[str, Any]:
    """Parameters of the network, bytes of the bundle's files, and what the network started from, in words."""
    document = read_json(bundle / "bundle.json")
    return {
        "parameters": document["network"]["parameters"],
        "bundle_bytes": sum(file.stat().st_size for file in bundle.iterdir() if file.is_file()),
        "initial_weights": document["training"]["initial_weights"],
    }


def training_seconds(fold: Path) -> float:
    """Seconds that fitting took, without decoding and packaging.

    A run that was stopped and went on knows the time of its last part only; the sum of the training steps of
    its epochs is then the better lower bound.
    """
    films = read_json(fold / "bundle" / "bundle.json")["training"]["counts"]["training"]
    steps = sum(films / rate for rate in read_history(fold)["images_per_second"])
    return max(float(read_json(fold / "run.json")["durations_s"]["fit"]), steps)


def read_history(fold: Path) -> dict[str, list[float]]:
    """Columns of ``history.csv``, one value an epoch; the column ``stage`` is left out."""
    with open(fold / "history.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "stage"}
