"""``pneumoscope release-check``: a release gate that does no harm.

Exit code 1 when the candidate is not released; 2, as always, when the input is at fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pneumoscope.cli.options import AsJson, BundleName, ConfigFile, Output, Seed
from pneumoscope.cli.terminal import Display, console, notes, print_json


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="release-check")(release_check)


def release_check(
    bundle: BundleName,
    data: Annotated[Path, typer.Option(help="The data set that the bundle was trained on.")],
    external: Annotated[
        list[Path] | None, typer.Option(help="Labelled images of another hospital. May be repeated.")
    ] = None,
    twins: Annotated[
        Path | None, typer.Option(help="The same radiographs at another size, under the same file names.")
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option(min=0, help="Acquisition clusters left out in turn; 0: none (default: all)."),
    ] = None,
    contrary: Annotated[
        bool | None,
        typer.Option("--contrary/--no-contrary", help="Leave out images of contrary acquisition (default)."),
    ] = None,
    framing: Annotated[
        bool | None,
        typer.Option("--framing/--no-framing", help="Leave out images of contrary framing (default)."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Parts of the ordinary split by patient (default: 5).")
    ] = None,
    run_folds: Annotated[
        int | None, typer.Option(min=1, help="Of these, so many are trained (default: 1).")
    ] = None,
    stress_images: Annotated[
        int | None, typer.Option(min=0, help="At most so many images are stressed; 0: all (default).")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="File or folder of the weights that the bundle names.")
    ] = None,
    seed: Seed = None,
    config: ConfigFile = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Train a bundle's recipe beside a plain one; refuse it where it is worse on shifted images."""
    from pneumoscope.workflows.release import release_check as run_check

    flags: dict[str, Any] = {
        "clusters": clusters, "contrary": contrary, "framing": framing, "folds": folds,
        "run_folds": run_folds,
        "stress_films": stress_images, "init": init, "seed": seed,
    }  # fmt: skip
    with Display() as display:
        result = run_check(
            bundle,
            data,
            twins=twins,
            external=external or [],
            output=output,
            config=config,
            listener=display,
            progress=display,
            **flags,
        )
    if as_json:
        print_json(result.document)
    else:
        _print(result.document)
    notes().print(f"results: {result.directory / 'release.html'}")
    if not result.released:
        raise typer.Exit(1)


def _print(document: Mapping[str, Any]) -> None:
    from rich.table import Table

    from pneumoscope.reporting import release_page

    shown = (0, 1, 2, 3, 4, 9)  # a terminal has no room for more
    table = Table(*(release_page.COLUMNS[place] for place in shown))
    for column in table.columns[1:5]:
        column.justify = "right"
    for row, view in zip(release_page.table_rows(document), document["views"], strict=True):
        table.add_row(*(row[place] for place in shown), style="red" if view["vote"] == "worse" else None)
    console().print(f"{document['bundle']} beside a plain fine-tune, {document['dataset']}")
    console().print(table)
    for sentence in release_page.notes(document):
        console().print(sentence)
    console().print(release_page.verdict_text(document))
