"""All benchmarks in one run: ``python -m benchmarks.run``, about a quarter of an hour on 2 cores.

In: optionally PNEUMOSCOPE_DATA, a folder with real images; phantoms stand in for them. Out: Markdown tables
on standard output, as docs/benchmarks.md keeps them; what is going on is told on standard error.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import bench_cold_start, bench_network, bench_prediction, bench_step, bench_training
from benchmarks.measuring import machine

__all__ = ["main"]


def main() -> None:
    """Run what was asked for, or everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="cold-start, network, prediction, step, training"
    )
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side (default: 3)")
    options = parser.parse_args()
    repeats = options.repeats
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        benchmarks = {
            "cold-start": lambda: bench_cold_start.compare(workspace, 2 * repeats + 1),
            "network": lambda: bench_network.compare(workspace, repeats),
            "prediction": lambda: bench_prediction.compare(workspace, repeats + 2),
            "step": lambda: bench_step.compare(max(1, repeats // 3)),
            "training": lambda: bench_training.compare(workspace, repeats),
        }
        unknown = set(options.names) - set(benchmarks)
        if unknown:
            parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
        print(machine(), flush=True)
        for name in options.names or benchmarks:
            print(f"\n{benchmarks[name]().markdown()}", flush=True)


if __name__ == "__main__":
    main()
