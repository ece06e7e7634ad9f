"""Where the speed of a training step comes from: memory format, allocator and bfloat16, added one by one.

Forward, backward and AdamW on a batch of 32 random images of 224 x 224 pixels, without any input pipeline.
Each rung of the ladder is measured in a fresh process; the first step is not counted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from statistics import median

from benchmarks.measuring import Table, alternate, answered, machine, middle, module_command

__all__ = ["compare"]

NETWORKS = ("mobilenet-v2", "resnet-18")
BATCH, SIZE, STEPS = 32, 224, 4
LADDER = {
    "float32, torch's defaults": {},
    "and channels_last": {"channels_last": True},
    "and large buffers kept": {"channels_last": True, "keep_buffers": True},
    "and bfloat16": {"channels_last": True, "keep_buffers": True, "bfloat16": True},
}


def compare(repeats: int = 1) -> Table:
    """Measure the ladder for every network."""
    rows = []
    for network in NETWORKS:
        print(f"training step of {network}", file=sys.stderr)
        commands = {
            rung: module_command("benchmarks.bench_step", "steps", network=network, **settings)
            for rung, settings in LADDER.items()
        }
        results = alternate(commands, repeats)
        speeds = {rung: middle(measured, "images_per_second") for rung, measured in results.items()}
        slowest = speeds[next(iter(LADDER))]
        rows += [
            [network, rung, f"{speed:.1f}", f"{speed / slowest:.1f}",
             f"{middle(results[rung], 'peak_mb'):.0f} MB"]
            for rung, speed in speeds.items()
        ]  # fmt: skip
    return Table("One training step", ("network", "setting", "images/s", "ratio", "peak memory"), rows)


def run_steps(
    network: str,
    channels_last: bool = False,
    keep_buffers: bool = False,
    bfloat16: bool = False,
    size: int = SIZE,
) -> dict[str, float]:
    """Images/s of the median step."""
    if keep_buffers:
        from pneumoscope.learning.loop import keep_large_buffers

        keep_large_buffers()
    import torch

    from pneumoscope.learning.networks import NetworkConfig, create_network

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    model = create_network(NetworkConfig(name=network, classes=3, size=size)).train()
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from the stubs
    optimiser = torch.optim.AdamW(model.parameters())
    films, targets = torch.rand(BATCH, 1, size, size), torch.randint(3, (BATCH,))
    seconds = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = torch.nn.functional.cross_entropy(model(films)[0], targets)
        loss.backward()
        optimiser.step()
        seconds.append(time.perf_counter() - start)
    return {"images_per_second": BATCH / median(seconds[1:])}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1)
    print(machine(), compare(parser.parse_args().repeats).markdown(), sep="\n\n")


if __name__ == "__main__" and not answered({"steps": run_steps}):
    main()
