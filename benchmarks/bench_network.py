"""One pass of the network: milliseconds an image of the shipped bundles, torch eager and VGG16.

Sides, each in a fresh process at one and at two threads, on random images that are in memory already:

- ``reference`` and ``reference-int8``: ``run_network`` of the bundle, what ``pneumoscope predict`` runs;
- *the same network, torch eager*: random weights, float32, PyTorch's default memory format and allocator,
  evaluation mode, inference mode;
- *VGG16, torch eager*: as above at 224 pixels, the choice of the seed projects. Batches of 32 are left out:
  on one core a pass takes half a minute.

The first pass of each batch size is not counted; the figure of a process is the median of its passes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

from benchmarks.material import find_bundle, find_twin
from benchmarks.measuring import (
    Measurement,
    Table,
    alternate,
    answered,
    machine,
    measure,
    middle,
    module_command,
)

__all__ = ["compare"]

MODULE = "benchmarks.bench_network"
BATCHES, THREADS = (1, 8, 32), (1, 2)
SECONDS = 1.0
"""Passes of one batch size are repeated for so long."""
VGG16, VGG16_SIZE, VGG16_BATCHES = "vgg16", 224, (1, 8)
GOALS = {"reference": (6, 40), "reference-int8": (12, 80)}
"""How many times faster than the same network and than VGG16 in torch eager."""

Key = tuple[str, int]


def compare(workspace: Path, repeats: int = 3) -> Table:
    """Measure every side at every number of threads, in turn."""
    bundle = find_bundle(workspace)
    facts = measure(module_command(MODULE, "facts", bundle=bundle)).values
    print(f"one pass of {facts['network']} at {facts['size']} pixels", file=sys.stderr)
    eager = f"{facts['network']}, torch eager"
    sides: dict[str, tuple[str, dict[str, Any]]] = {
        "VGG16, torch eager": (
            "torch",
            {"network": VGG16, "size": VGG16_SIZE, "classes": 3, "stride": 32, "batches": VGG16_BATCHES},
        ),
        eager: ("torch", {**facts, "batches": BATCHES}),
        "reference": ("bundle", {"bundle": bundle, "batches": BATCHES}),
        "reference-int8": ("bundle", {"bundle": find_twin(bundle, workspace), "batches": BATCHES}),
    }  # fmt: skip
    keys = {f"{side}, {threads} threads": (side, threads) for threads in THREADS for side in sides}
    results = alternate(
        {
            label: module_command(MODULE, sides[side][0], threads=threads, **sides[side][1])
            for label, (side, threads) in keys.items()
        },
        repeats,
    )
    measured = {keys[label]: measurements for label, measurements in results.items()}
    header = ("side", "threads", "1 image", "8 images", "32 images", "against torch eager", "against VGG16")
    title = f"One network pass, {facts['network']} at {facts['size']} pixels: ms an image"
    remark = (
        "The last two columns say how many times faster a side is, in the order of the batch sizes; goals in "
        "brackets, for one image."
    )
    return Table(title, header, rows_of(measured, eager), [remark])


def rows_of(measured: dict[Key, list[Measurement]], eager: str) -> list[list[str]]:
    """The table's rows: by number of threads, then by side."""
    speeds = {
        key: {
            batch: middle(measurements, f"batch_{batch}")
            for batch in BATCHES
            if f"batch_{batch}" in measurements[0].values
        }
        for key, measurements in measured.items()
    }
    rows = []
    for (side, threads), own in speeds.items():
        cells = [f"{own[batch]:.2f}" if batch in own else "" for batch in BATCHES]
        ratios = []
        for other, goal in zip((eager, "VGG16, torch eager"), GOALS.get(side, ("", "")), strict=True):
            slower = speeds[other, threads]
            shared = [f"{slower[batch] / own[batch]:.1f}" for batch in own if batch in slower]
            ratios.append(" / ".join(shared) + (f" ({goal})" if goal else ""))
        rows.append([side, str(threads), *cells, *(ratios if side in GOALS else ["", ""])])
    return rows


def describe(bundle: str) -> dict[str, Any]:
    """What torch has to build to have the bundle's network."""
    from pneumoscope.inference.bundle import load_bundle

    document = load_bundle(bundle).document
    return {
        "network": document["network"]["name"],
        "size": document["preprocessing"]["size"],
        "classes": len(document["classes"]),
        "stride": document["training"]["config"].get("output_stride", 32),
    }


def time_bundle(bundle: str, threads: int, batches: Sequence[int]) -> dict[str, float]:
    """Milliseconds an image of a bundle's network, by batch size."""
    import numpy as np

    from pneumoscope.inference.bundle import load_bundle
    from pneumoscope.inference.prediction import run_network

    opened = load_bundle(bundle, threads=threads)
    size = opened.preprocessing.size
    films = np.random.default_rng(0).random((max(batches), 1, size, size), np.float32)
    return _time(lambda batch: run_network(opened, films[:batch]), batches)


def time_torch(
    network: str, size: int, classes: int, stride: Literal[16, 32], threads: int, batches: Sequence[int]
) -> dict[str, float]:
    """Milliseconds an image of a network in torch eager, by batch size."""
    import torch

    from pneumoscope.learning.networks import NetworkConfig, create_network

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = create_network(
        NetworkConfig(name=network, classes=classes, size=size, output_stride=stride)
    ).eval()
    films = torch.rand(max(batches), 1, size, size)
    with torch.inference_mode():
        return _time(lambda batch: model(films[:batch]), batches)


def _time(run: Callable[[int], object], batches: Sequence[int]) -> dict[str, float]:
    found = {}
    for batch in batches:
        run(batch)
        seconds: list[float] = []
        while not seconds or sum(seconds) < SECONDS:
            start = time.perf_counter()
            run(batch)
            seconds.append(time.perf_counter() - start)
        found[f"batch_{batch}"] = 1000 * median(seconds) / batch
    return found


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as workspace:
        print(machine(), compare(Path(workspace), repeats).markdown(), sep="\n\n")


if __name__ == "__main__" and not answered({"facts": describe, "bundle": time_bundle, "torch": time_torch}):
    main()
