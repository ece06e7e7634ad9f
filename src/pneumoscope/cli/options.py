"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BundleName = Annotated[str, typer.Argument(help="A bundle's directory, or the name of a shipped one.")]
DatasetPath = Annotated[
    Path, typer.Argument(help="Data set directory, or a folder, CSV or npz to import first.")
]
Subject = Annotated[
    str, typer.Argument(metavar="RUN_OR_BUNDLE", help="A cross-validation, a run, or a bundle.")
]
SplitPart = Annotated[
    str | None, typer.Option(help="A part of the split, or all. Default: test, or all if never split.")
]
SplitName = Annotated[str, typer.Option(help="Which split of the data set.")]
TrainSplit = Annotated[str, typer.Option(help="Split of the data set; the default one is made when missing.")]
OperatingPoint = Annotated[
    str | None, typer.Option(help="One of the bundle's operating points instead of its default.")
]
ConfigFile = Annotated[Path | None, typer.Option(help="TOML file of the command's keys; flags win over it.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of everything random (default: 0).")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder of the results; default: one below runs/.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, not tables.")]
