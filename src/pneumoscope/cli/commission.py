"""``pneumoscope commission`` and ``rollback``: set a bundle up for a site, and take that back.

A verdict of NO-GO is a result and no error: its bundle is written all the same, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pneumoscope.cli.film_files import FilmFiles
from pneumoscope.cli.options import AsJson, BundleName, Output, SplitName
from pneumoscope.cli.terminal import Display, console, notes, print_json


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command(name="commission")(commission)
    app.command(name="rollback")(rollback)


def commission(
    bundle: BundleName,
    dataset: Annotated[
        Path, typer.Argument(help="Labelled local images: a data set, or a folder, CSV or npz to import.")
    ],
    prevalence: Annotated[
        float, typer.Option(help="Share with pneumonia among those who will be examined here.")
    ],
    adapt: Annotated[
        bool,
        typer.Option(
            "--adapt",
            help="Also try a shift of the prior and a new head; take what is better for sure, with a gate "
            "and ages of this site.",
        ),
    ] = False,
    unlabelled: Annotated[
        Path | None,
        typer.Option(help="Folder of further local images without labels: they help --adapt find the prior."),
    ] = None,
    interval_width: Annotated[
        float | None, typer.Option(help="Wanted width of the 95 % intervals (default: 0.1).")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the limits of GO.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this part of the data set's split.")] = None,
    split_name: SplitName = "default",
    output: Output = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also write the page as PDF.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set a bundle up for a site: measure it on local images, recalibrate it, say GO, CAUTION or NO-GO."""
    from pneumoscope.workflows.commissioning import commission as run_commission

    flags: dict[str, Any] = {
        "prevalence": prevalence,
        "interval_width": interval_width,
        "adapt": adapt or None,
    }
    more = () if unlabelled is None else tuple(FilmFiles([unlabelled], recursive=True))
    with Display() as display:
        result = run_commission(
            bundle,
            dataset,
            split=split,
            split_name=split_name,
            output=output,
            pdf=pdf,
            config=config,
            unlabelled=more,
            progress=display,
            **flags,
        )
    if as_json:
        print_json(result.document)
    else:
        _print(result.document)
    notes().print(f"page: {result.directory / 'commissioning.html'}; bundle: {result.bundle}")


def rollback(
    bundle: Annotated[Path, typer.Argument(help="A commissioned bundle's directory.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write there instead of replacing the bundle.")
    ] = None,
) -> None:
    """Take the last commissioning of a bundle back: its earlier calibration, thresholds and selection."""
    from pneumoscope.workflows.commissioning import rollback as run_rollback

    before, after = run_rollback(bundle, output)
    console().print(f"{before.id} -> {after.id}: {after.directory}")


def _print(document: Mapping[str, Any]) -> None:
    from rich.table import Table

    from pneumoscope.reporting.commissioning_page import adaptation_lines, check_rows

    table = Table("check", "found", "limit", "verdict")
    for row in check_rows(document):
        table.add_row(*row, style=None if row[-1] == "GO" else "red")
    console().print(
        f"{document['films']} images of {document['patients']} patients, {document['ill']} with pneumonia; "
        f"the gate refuses {document['refused']['value']:.1%}"
    )
    console().print(table)
    for line in adaptation_lines(document.get("adaptation")):
        console().print(line)
    for name, count in document["missing"].items():
        if count:
            console().print(f"{count} images {name} are missing for intervals of the wanted width")
    console().print(f"{document['verdict']}: {document['bundle']} -> {document['new_bundle']}")
