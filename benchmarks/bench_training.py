"""Training: images/s, memory and waiting of pneumoscope's loop against a plain torch loop.

Sides, each in a fresh process, over the same images, network, batch size, optimiser and float32:

- ``pneumoscope``: what ``pneumoscope train`` runs (pixel cache, batched augmentation with the default
  ranges, channels_last, large buffers kept, averaged weights, clipping and checkpoints);
- ``without augmentation``: the same with augmentation off, as the plain side has none;
- ``plain``: a ``Dataset`` that opens, decodes and resizes each file in each epoch with Pillow, a
  ``DataLoader``, torch's default memory format and the system's allocator, a bare loop without augmentation.

Two epochs; the second is measured (training steps only, without validation and checkpoints).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.material import VALIDATION, Material, find_films
from benchmarks.measuring import Measurement, Table, alternate, machine, middle, module_command

__all__ = ["compare", "rows_of"]


@dataclass(frozen=True)
class Case:
    """One block of the table: a network on images, the sides that are measured and the goal."""

    network: str
    kind: str
    films: int
    sides: tuple[str, ...]
    goal: float


_SMALL = ("plain", "plain, 2 workers", "pneumoscope", "without augmentation")
_LARGE = ("plain", "pneumoscope", "without augmentation")
CASES = (
    Case("cnn-small", "small", 1024, _SMALL, 2.0),
    Case("cnn-small", "original", 128, _SMALL, 2.0),
    Case("mobilenet-v2", "small", 192, _LARGE, 4.0),
    Case("mobilenet-v2", "original", 128, _LARGE, 4.0),
)
_SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("plain", {"workers": 0}),
    "plain, 2 workers": ("plain", {"workers": 2}),
    "pneumoscope": ("pneumoscope", {"augment": True}),
    "without augmentation": ("pneumoscope", {"augment": False}),
}


def compare(workspace: Path, repeats: int = 3, cases: tuple[Case, ...] = CASES) -> Table:
    """Measure every case and put it into a table."""
    rows = []
    films: dict[tuple[str, int], Material] = {}
    for case in cases:
        wanted = case.kind, case.films + VALIDATION
        if wanted not in films:
            films[wanted] = find_films(*wanted, workspace)
        material = films[wanted]
        print(f"{case.network} on {material.name}", file=sys.stderr)
        commands = {side: _command(side, case.network, material) for side in case.sides}
        rows += rows_of(case, material, alternate(commands, repeats))
    header = ("network, images", "side", "images/s", "ratio", "goal", "waiting for data", "peak memory")
    remarks = [
        f"Decoding and caching {len(material.files)} images ({material.name}), once for all epochs and runs, "
        f"took {material.cache_seconds:.1f} s."
        for material in films.values()
    ]
    return Table("Training", header, rows, remarks)


def _command(side: str, network: str, material: Material) -> list[str]:
    function, settings = _SIDES[side]
    return module_command(
        "benchmarks.training_loops", function, dataset=material.dataset, network=network, **settings
    )


def rows_of(case: Case, material: Material, results: dict[str, list[Measurement]]) -> list[list[str]]:
    """The rows of one case, a side each."""
    plain = middle(results["plain"], "images_per_second")
    rows = []
    for side, measurements in results.items():
        speed = middle(measurements, "images_per_second")
        rows.append(
            [
                f"{case.network}, {material.name}",
                side,
                f"{speed:.1f}",
                f"{speed / plain:.2f}",
                f"{case.goal:.0f}" if side == "pneumoscope" else "",
                f"{100 * middle(measurements, 'waiting_share'):.1f} %",
                f"{middle(measurements, 'peak_mb'):.0f} MB",
            ]
        )
    return rows


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as workspace:
        print(machine(), compare(Path(workspace), repeats).markdown(), sep="\n\n")


if __name__ == "__main__":
    main()
