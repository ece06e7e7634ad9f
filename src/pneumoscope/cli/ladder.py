"""``pneumoscope ladder``: model families trained and compared under one protocol.

In: a data set (or any folder that ``data import`` takes), a ladder as TOML or the one that ships, a budget.
Out: a folder with a cross-validation a rung, ``ladder.json``, ``ladder.csv``, ``ladder.html`` and
``ladder.md``; the ranking on standard output. Exit code 2 when a rung could not be run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoscope.cli.terminal import console, notes, progress_bar
from pneumoscope.cli.train import TrainingDisplay, require_training
from pneumoscope.core.errors import InputError

if TYPE_CHECKING:
    from pneumoscope.learning.ladder import Climb


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="ladder")(ladder)


def ladder(
    dataset: Annotated[
        Path, typer.Argument(help="Data set directory, or a folder, CSV or npz to import first.")
    ],
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
    as_json: Annotated[bool, typer.Option("--json", help="Print ladder.json, not a table.")] = False,
) -> None:
    """Train and compare model families; run again, it goes on with what is missing."""
    from pneumoscope.learning.ladder_config import load_ladder

    require_training()
    wanted = tuple(name.strip() for name in only.split(",")) if only else ()
    settings = load_ladder(config, {"run_folds": folds})
    settings = settings.model_copy(update={"weights": {**settings.weights, **_weights(init or [])}})
    from pneumoscope.learning.ladder import Climb

    result, directory = _run(dataset, Climb(settings, wanted, hours), output)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        _print_result(result)
    for sentence in result["cut"]:
        notes().print(sentence)
    notes().print(f"results: {directory / 'ladder.html'}")
    if any(rung["failure"] for rung in result["rungs"]):
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


def _run(source: Path, climb: Climb, output: Path | None) -> tuple[dict[str, Any], Path]:
    from pneumoscope.data.importers import open_or_import
    from pneumoscope.learning.ladder import run_ladder
    from pneumoscope.reporting.ladder_page import write_ladder

    with progress_bar("reading films") as progress:
        dataset = open_or_import(source, progress=progress)
    directory = output or Path("runs") / f"ladder-{dataset.name}"
    with TrainingDisplay() as display:
        result = run_ladder(dataset, climb, directory, display)
    write_ladder(result, directory)
    return result, directory


def _print_result(result: dict[str, Any]) -> None:
    from rich.table import Table

    from pneumoscope.reporting.ladder_page import compared_rungs, places, ranking_sentences

    place = places(result)
    columns = ("roc_auc", "accuracy", "sensitivity", "specificity", "ece")
    table = Table("rung", "place", "AUC", "accuracy", "sens.", "spec.", "ECE", "ms")
    for rung in compared_rungs(result):
        figures = [f"{rung['estimates'][key]['value']:.4f}" for key in columns]
        table.add_row(rung["name"], place[rung["name"]], *figures, f"{rung['milliseconds_per_film']:.2f}")
    console().print(table)
    for sentence in ranking_sentences(result):
        console().print(sentence)
