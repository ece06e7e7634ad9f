"""``pneumoscope tune``: search for a better training configuration, for as long as there is time.

In: a data set (or any folder that ``data import`` takes), a base configuration, a search space. Out: a folder
with the study, a table and a page of all trials, and ``best.toml`` for ``pneumoscope train --config``. The
same command goes on; started several times at once, its processes share the work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoscope.cli.terminal import console, notes, progress_bar
from pneumoscope.cli.train import TrainingDisplay, parse_options, require_training

if TYPE_CHECKING:
    from pneumoscope.learning.search import SearchRun
    from pneumoscope.learning.search_space import Parameters, SearchConfig

TRIALS = 50
"""Trials of a search without a limit of its own: some random ones, and a few for each of ten parameters."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, 128 + SIGINT, as shells have it."""

SHOWN = 5
"""Best trials in the terminal's table, a column each: what 80 columns hold."""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="tune")(tune)


def tune(
    dataset: Annotated[
        Path, typer.Argument(help="Data set directory, or a folder, CSV or npz to import first.")
    ],
    config: Annotated[Path | None, typer.Option(help="TOML file of the run to vary.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="A key of that run, as KEY=VALUE in TOML; epochs=6.")
    ] = None,
    space: Annotated[Path | None, typer.Option(help="TOML file of the search space.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help=f"Trials in all, earlier ones too; default {TRIALS} or --hours.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0, help="Begin no further trial after so many hours.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="SQLite file or URL of the study; default: study.db in the output.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; default: tuning/ and the data set's name.")
    ] = None,
    objective: Annotated[str | None, typer.Option(help="log-loss (default) or auc.")] = None,
    pruner: Annotated[
        str | None, typer.Option(help="What ends hopeless trials: median (default), halving or none.")
    ] = None,
    startup_trials: Annotated[int | None, typer.Option(help="Random trials at the start; default 8.")] = None,
    split_name: Annotated[
        str, typer.Option(help="Split of the data set; the default one is made when missing.")
    ] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:  # fmt: skip
    """Search for better hyper-parameters; go on where an earlier search stopped."""
    require_training("optuna", "tomli_w")
    from pneumoscope.core.config import load_config
    from pneumoscope.learning.config import TrainConfig
    from pneumoscope.learning.search import SearchRun
    from pneumoscope.learning.search_space import SearchConfig, SearchSpace

    flags: dict[str, Any] = {
        "objective": objective, "pruner": pruner, "startup_trials": startup_trials,
        "base": load_config(TrainConfig, config, parse_options(option or [])),
        "space": load_config(SearchSpace, space),
    }  # fmt: skip
    settings = load_config(SearchConfig, overrides=flags)
    run = SearchRun(
        output or Path("tuning") / dataset.resolve().stem,
        study,
        TRIALS if trials is None and hours is None else trials,
        hours,
    )
    document = _search(dataset, settings, run, split_name)
    if as_json:
        print(json.dumps(_summary(document, run.directory), indent=2))
    else:
        _print_summary(document, run.directory)
    if document["interrupted"]:
        raise typer.Exit(INTERRUPTED)


def _search(source: Path, settings: SearchConfig, run: SearchRun, split_name: str) -> dict[str, Any]:
    from pneumoscope.data.importers import open_or_import
    from pneumoscope.learning.search import search
    from pneumoscope.learning.training import training_set
    from pneumoscope.reporting.search_page import write_search_page

    with progress_bar("reading films") as progress:
        dataset = open_or_import(source, progress=progress)
    films = training_set(dataset, split_name, settings.base.seed)
    with _SearchDisplay() as display:
        document = search(films, settings, run, display)
    write_search_page(document, run.directory / "search.html")
    return document


class _SearchDisplay(TrainingDisplay):
    """Draws the runs of a search, and a line when a trial begins and when it ends."""

    def trial(self, number: int, point: Parameters) -> None:
        """Say what is tried."""
        self.stage(f"trial {number}: " + ", ".join(f"{name} {_short(point[name])}" for name in point))

    def result(self, row: dict[str, Any], best: dict[str, Any] | None) -> None:
        """Say what came out."""
        reason = f": {row['reason']}" if row["reason"] else ""
        value = "" if row["value"] is None else f" {row['value']:.5f}"
        leader = f"; best {best['value']:.5f} of trial {best['number']}" if best else ""
        self.stage(f"trial {row['number']} {row['state']}{value}{reason}{leader}")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _finished(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Complete trials, the best first."""
    complete = [row for row in document["trials"] if row["state"] == "complete"]
    return sorted(complete, key=lambda row: row["value"], reverse=document["direction"] == "maximize")


def _summary(document: dict[str, Any], directory: Path) -> dict[str, Any]:
    states = [row["state"] for row in document["trials"]]
    best = document["best"]
    return {
        "directory": str(directory),
        "objective": document["search"]["objective"],
        "trials": {state: states.count(state) for state in dict.fromkeys(states)},
        "best": None if best is None else document["trials"][best],
        "importances": document["importances"],
        "interrupted": document["interrupted"],
    }


def _print_summary(document: dict[str, Any], directory: Path) -> None:
    from rich.table import Table

    finished = _finished(document)
    best = finished[:SHOWN]
    table = Table("trial", *(str(row["number"]) for row in best), title="best trials, on validation films")
    table.add_row("log loss", *(f"{row['log_loss']:.4f}" for row in best))
    table.add_row("AUC", *(f"{row['auc']:.4f}" for row in best))
    for name in document["searched"]:
        table.add_row(name.replace("_", " "), *(_short(row["parameters"][name]) for row in best))
    if finished:
        console().print(table)
    counts = _summary(document, directory)["trials"]
    console().print("trials: " + (", ".join(f"{n} {state}" for state, n in counts.items()) or "none"))
    console().print(f"page: {directory / 'search.html'}")
    if finished:
        console().print(f"next: pneumoscope train DATASET --config {directory / 'best.toml'}")
    if document["interrupted"]:
        notes().print("interrupted; the same command goes on with the trial that was stopped")
