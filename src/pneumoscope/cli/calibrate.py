"""``pneumoscope calibrate``: a bundle's thresholds, chosen on images that its recipe found harder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoscope.cli.options import AsJson
from pneumoscope.cli.terminal import console, print_json

if TYPE_CHECKING:
    from pneumoscope.workflows.calibration import CalibrationResult


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="calibrate")(calibrate)


def calibrate(
    bundle: Annotated[str, typer.Argument(help="A bundle's directory or name.")],
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of 'train --folds' of the same recipe: by patient, and with clusters left out."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new bundle.")],
    as_json: AsJson = False,
) -> None:
    """Choose calibration and thresholds anew, so that they hold the worst group of images left out."""
    from pneumoscope.workflows.calibration import calibrate as run_calibrate

    result = run_calibrate(bundle, runs, output)
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result)
        console().print(f"written: {output}")


def _print(result: CalibrationResult) -> None:
    from rich.table import Table

    table = Table("calibrated on", "images", "n", "sensitivity", "specificity")
    for row in result.rows():
        figures = ("-" if row[key] is None else f"{row[key]:.3f}" for key in ("sensitivity", "specificity"))
        table.add_row(row["calibrated on"], row["images"], str(row["n"]), *figures)
    console().print(table)
    console().print(f"chosen: {result.document['chosen']}")
