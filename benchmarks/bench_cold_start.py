"""Cold start: wall time and peak memory of ``pneumoscope predict ONE_FILE``, from exec to exit.

The image is the largest file of original size at hand. One run is thrown away, so that the files of the
package are in the page cache and compiled. Beside it stands a script that imports torch, builds the same
network and predicts the same image (it loads no weights; a real one also would).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.material import find_bundle, find_films
from benchmarks.measuring import Table, alternate, machine, measure, middle, module_command

__all__ = ["compare", "measure_cold_start"]

GOAL_SECONDS, GOAL_MB = 1.2, 250
FILMS = 136


def compare(workspace: Path, repeats: int = 7, films: int = FILMS) -> Table:
    """Measure the command with and without a heat map, and the torch script."""
    material = find_films("original", films, workspace)
    film = max(material.files, key=lambda file: Path(file).stat().st_size)
    print(f"cold start on one image ({material.name})", file=sys.stderr)
    return measure_cold_start(film, find_bundle(workspace), workspace, repeats)


def measure_cold_start(film: str, bundle: str, workspace: Path, repeats: int, torch: bool = True) -> Table:
    """The table of one image and one bundle; ``torch`` says whether the script is measured too."""
    command = [str(Path(sys.executable).with_name("pneumoscope")), "predict", film, "--bundle", bundle]
    commands = {
        "`pneumoscope predict FILE`": command,
        "`pneumoscope predict FILE --heatmaps DIR`": [*command, "--heatmaps", str(workspace / "heatmaps")],
    }
    if torch:
        listing = workspace / "film.txt"
        listing.write_text(film, encoding="utf-8")
        commands["a torch script"] = module_command(
            "benchmarks.bench_prediction", "torch", listing=str(listing), bundle=bundle, warm=0
        )
    for once in commands.values():
        measure(once)
    rows = []
    for side, measured in alternate(commands, repeats).items():
        goals = f"{GOAL_SECONDS} s, {GOAL_MB} MB" if side.endswith("FILE`") else ""
        slowest = max(measurement.seconds for measurement in measured)
        rows.append(
            [side, f"{middle(measured, 'seconds'):.2f} s", f"{slowest:.2f} s",
             f"{middle(measured, 'peak_mb'):.0f} MB", goals]
        )  # fmt: skip
    title = f"Cold start, image of {Path(film).stat().st_size / 1e3:.0f} kB, bundle {Path(bundle).name}"
    return Table(title, ("command", "wall time", "slowest", "peak memory", "goals"), rows)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as workspace:
        print(machine(), compare(Path(workspace), repeats).markdown(), sep="\n\n")


if __name__ == "__main__":
    main()
