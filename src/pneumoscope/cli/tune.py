"""``pneumoscope tune``: search for a better training configuration, for as long as there is time.

The same command goes on; started several times at once, its processes share the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoscope.cli.options import AsJson, DatasetPath, TrainSplit
from pneumoscope.cli.terminal import Display, console, notes, print_json
from pneumoscope.cli.train import parse_options

if TYPE_CHECKING:
    from pneumoscope.learning.search_space import Parameters
    from pneumoscope.workflows.training import SearchResult

INTERRUPTED = 130
"""Exit code after Ctrl-C, 128 + SIGINT, as shells have it."""

SHOWN = 5
"""Best trials in the terminal's table, a column each: what 80 columns hold."""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="tune")(tune)


def tune(
    dataset: DatasetPath,
    config: Annotated[Path | None, typer.Option(help="TOML file of the run to vary.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="A key of that run, as KEY=VALUE in TOML; epochs=6.")
    ] = None,
    space: Annotated[Path | None, typer.Option(help="TOML file of the search space.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in all, earlier ones too; default 50 or --hours.")
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
    split_name: TrainSplit = "default",
    as_json: AsJson = False,
) -> None:
    """Search for better hyper-parameters; go on where an earlier search stopped."""
    from pneumoscope.workflows.training import tune as run_tune

    with _SearchDisplay() as display:
        result = run_tune(
            dataset,
            base=parse_options(option or []),
            config=config,
            space=space,
            trials=trials,
            hours=hours,
            study=study,
            split_name=split_name,
            output=output or Path("tuning") / dataset.resolve().stem,
            listener=display,
            progress=display,
            objective=objective,
            pruner=pruner,
            startup_trials=startup_trials,
        )
    if as_json:
        print_json(result.summary())
    else:
        _print_summary(result)
    if result.document["interrupted"]:
        raise typer.Exit(INTERRUPTED)


class _SearchDisplay(Display):
    """Shows the runs of a search, and a line when a trial begins and when it ends."""

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


def _print_summary(result: SearchResult) -> None:
    from rich.table import Table

    document, directory, best = result.document, result.directory, result.finished[:SHOWN]
    if best:
        table = Table(
            "trial", *(str(row["number"]) for row in best), title="best trials, on validation images"
        )
        table.add_row("log loss", *(f"{row['log_loss']:.4f}" for row in best))
        table.add_row("AUC", *(f"{row['auc']:.4f}" for row in best))
        for name in document["searched"]:
            table.add_row(name.replace("_", " "), *(_short(row["parameters"][name]) for row in best))
        console().print(table)
    counts = result.summary()["trials"]
    console().print("trials: " + (", ".join(f"{n} {state}" for state, n in counts.items()) or "none"))
    console().print(f"page: {directory / 'search.html'}")
    if best:
        console().print(f"next: pneumoscope train DATASET --config {directory / 'best.toml'}")
    if document["interrupted"]:
        notes().print("interrupted; the same command goes on with the trial that was stopped")
