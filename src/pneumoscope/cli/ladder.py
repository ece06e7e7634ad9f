"""``pneumoscope ladder``: model families trained and compared under one protocol.

Exit code 2 when a rung could not be run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoscope.cli.options import AsJson, DatasetPath
from pneumoscope.cli.terminal import Display, console, notes, print_json
from pneumoscope.core.errors import InputError

if TYPE_CHECKING:
    from pneumoscope.workflows.training import LadderResult


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="ladder")(ladder)


def ladder(
    dataset: DatasetPath,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with [base] and [[rung]]; default: the shipped ladder.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0, help="Begin nothing that would end later; 0 only compares.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Names of rungs, with commas between them.")] = None,
    folds: Annotated[int | None, typer.Option(min=1, help="Run only the first so many folds.")] = None,
    init: Annotated[
        list[str] | None, typer.Option(help="Weights to start from, as NETWORK=FILE or NETWORK=FOLDER.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder, also to go on with; default runs/ladder-<data set>."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train and compare model families; run again, it goes on with what is missing."""
    from pneumoscope.workflows.training import run_ladder

    with Display() as display:
        result = run_ladder(
            dataset,
            config=config,
            only=tuple(name.strip() for name in only.split(",")) if only else (),
            hours=hours,
            folds=folds,
            weights=_weights(init or []),
            output=output,
            listener=display,
            progress=display,
        )
    if as_json:
        print_json(result.document)
    else:
        _print_result(result)
    for sentence in result.document["cut"]:
        notes().print(sentence)
    notes().print(f"results: {result.directory / 'ladder.html'}")
    if result.failed:
        raise typer.Exit(2)


def _weights(options: list[str]) -> dict[str, str]:
    """``NETWORK=SOURCE`` strings as network -> source."""
    weights = {}
    for text in options:
        network, sign, source = text.partition("=")
        if not (network and sign and source):
            raise InputError(
                "not NETWORK=SOURCE", where=f"--init {text}", expected="--init vgg16=vgg16.safetensors"
            )
        weights[network] = source
    return weights


def _print_result(result: LadderResult) -> None:
    from rich.table import Table

    from pneumoscope.reporting.ladder_page import ranking_sentences

    table = Table("rung", "place", "AUC", "accuracy", "sens.", "spec.", "ECE", "ms")
    for row in result.rows():
        figures = (row[key] for key in ("roc_auc", "accuracy", "sensitivity", "specificity", "ece"))
        table.add_row(
            row["rung"], row["place"], *(f"{value:.4f}" for value in figures), f"{row['milliseconds']:.2f}"
        )
    console().print(table)
    for sentence in ranking_sentences(result.document):
        console().print(sentence)
