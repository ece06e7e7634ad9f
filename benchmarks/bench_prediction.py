"""Prediction: images/s from JPEG files of original size, file to answer, against torch eager.

Sides, each in a fresh process, over the same files at the same network input size:

- ``pneumoscope``: ``examine_many``, all that ``pneumoscope predict`` does but printing: hashing the file,
  reduced-size decoding in threads, source rules, percentile exposure, ONNX Runtime, gate, calibration,
  decision; and with ``heat maps`` the class-activation map on the original pixel grid;
- ``torch eager``: for each image Pillow's full decode, resize, the same network in torch eager (float32,
  inference mode, evaluation mode), softmax. Nothing else: no hash, no gate, no heat map.

The network and a few images are warmed up before the clock starts; loading is part of the cold start.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.material import find_bundle, find_films
from benchmarks.measuring import Table, alternate, answered, machine, middle, module_command

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["compare"]

FILMS = 136
"""All images of original size that there are."""
WARM = 8
GOAL = 3.0


def compare(workspace: Path, repeats: int = 5, films: int = FILMS) -> Table:
    """Measure all sides over the same files."""
    material = find_films("original", films, workspace)
    listing = workspace / "files.txt"
    listing.write_text("\n".join(material.files), encoding="utf-8")
    bundle = find_bundle(workspace)
    print(f"prediction of {len(material.files)} images ({material.name})", file=sys.stderr)
    shared = {"listing": str(listing), "bundle": bundle}
    commands = {
        side: module_command("benchmarks.bench_prediction", function, **shared, **settings)
        for side, (function, settings) in {
            "torch eager": ("torch", {}),
            "pneumoscope": ("pneumoscope", {"explain": False}),
            "pneumoscope, heat maps": ("pneumoscope", {"explain": True}),
        }.items()
    }
    results = alternate(commands, repeats)
    plain = middle(results["torch eager"], "films_per_second")
    rows = []
    for side, measured in results.items():
        speed = middle(measured, "films_per_second")
        goal = f"{GOAL:.0f}" if side == "pneumoscope" else ""
        rows.append(
            [side, f"{speed:.1f}", f"{speed / plain:.2f}", goal, f"{middle(measured, 'peak_mb'):.0f} MB"]
        )
    title = f"Prediction of {len(material.files)} images, {material.name}, bundle {Path(bundle).name}"
    return Table(title, ("side", "films/s", "ratio", "goal", "peak memory"), rows)


def predict_as_pneumoscope(listing: str, bundle: str, explain: bool) -> dict[str, float]:
    """Images/s of ``examine_many``."""
    from pneumoscope.core.errors import PneumoscopeError
    from pneumoscope.inference.bundle import load_bundle
    from pneumoscope.inference.pipeline import examine_many

    files = Path(listing).read_text(encoding="utf-8").splitlines()
    opened = load_bundle(bundle)
    for _ in examine_many(files[:WARM], opened, explain=explain):
        pass
    start = time.perf_counter()
    for _, outcome in examine_many(files, opened, explain=explain, force=True):
        if isinstance(outcome, PneumoscopeError):
            raise outcome
    return {"films_per_second": len(files) / (time.perf_counter() - start)}


def predict_with_torch(listing: str, bundle: str, warm: int = WARM) -> dict[str, float]:
    """Images/s of a torch script over the same files, with the bundle's network and input size."""
    import torch

    from pneumoscope.inference.bundle import load_bundle
    from pneumoscope.learning.networks import NetworkConfig, create_network

    files = Path(listing).read_text(encoding="utf-8").splitlines()
    document = load_bundle(bundle).document
    size = document["preprocessing"]["size"]
    torch.set_num_threads(os.cpu_count() or 1)
    config = NetworkConfig(
        name=document["network"]["name"],
        classes=len(document["classes"]),
        size=size,
        output_stride=document["training"]["config"].get("output_stride", 32),
    )
    network = create_network(config).eval()
    with torch.inference_mode():
        for file in files[:warm]:
            network(_plain_input(file, size))[0].softmax(dim=1)
        start = time.perf_counter()
        for file in files:
            network(_plain_input(file, size))[0].softmax(dim=1).tolist()
        return {"films_per_second": len(files) / (time.perf_counter() - start)}


def _plain_input(file: str, size: int) -> Tensor:
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(file) as picture:
        film = picture.convert("L").resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(film, dtype=np.float32) / 255)[None, None]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as workspace:
        print(machine(), compare(Path(workspace), repeats).markdown(), sep="\n\n")


if __name__ == "__main__" and not answered(
    {"pneumoscope": predict_as_pneumoscope, "torch": predict_with_torch}
):
    main()
