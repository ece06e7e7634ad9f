"""``pneumoscope quantise``: a bundle in 8-bit integers, calibrated anew; or those of a cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoscope.cli.options import AsJson
from pneumoscope.cli.terminal import Display, console, print_json

if TYPE_CHECKING:
    from pneumoscope.workflows.training import QuantisationResult

SHOWN = ("roc_auc", "accuracy", "sensitivity", "specificity", "ece", "three_class_accuracy")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="quantise")(quantise)


def quantise(
    source: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", help="A bundle's directory or name, or a cross-validation's folder."
        ),
    ],
    dataset: Annotated[Path, typer.Argument(help="The data set that it was trained on.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the new bundle, or of the folds.")
    ],
    run: Annotated[
        Path | None,
        typer.Option(help="Run that trained the bundle; default: the one that the bundle lies in."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the data set that it was trained with, instead of --run.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the new bundle; default: the old one's and -int8.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the 8-bit version of a bundle: a third of the size, twice as fast, thresholds chosen again."""
    from pneumoscope.workflows.training import quantise as run_quantise

    with Display() as display:
        result = run_quantise(source, dataset, output, run=run, split=split, name=name, progress=display)
    if as_json:
        print_json(result.document)
    else:
        _print(result)
        console().print(f"written: {output}")


def _print(result: QuantisationResult) -> None:
    from rich.table import Table

    from pneumoscope.evaluation.metrics import TITLES

    document, rows = result.document, {row["figure"]: row for row in result.rows()}
    where = "validation images" if "bundles" in document else "images out of fold"
    table = Table("figure", "float32", "int8", "difference", title=f"{document['films']} {where}")
    for row in (rows[figure] for figure in SHOWN if figure in rows):
        table.add_row(
            TITLES[row["figure"]], f"{row['float32']:.4f}", f"{row['int8']:.4f}", f"{row['difference']:+.4f}"
        )
    console().print(table)
    if "changed_decisions" in document:
        changed = document["changed_decisions"]
        console().print(f"{changed['value']:.2%} of the decisions at probability 0.5 changed")
