"""``pneumoscope report`` and ``card``: the report of a run, the model card and evidence pack of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pneumoscope.cli.options import BundleName
from pneumoscope.cli.terminal import Display, console, notes


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command(name="report")(report)
    app.command(name="card")(card)


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run ('train' wrote it).")],
    pdf: Annotated[bool, typer.Option("--pdf", help="Write a PDF too (extra 'pdf').")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page's file; default RUN/report/report.html.")
    ] = None,
) -> None:
    """Write the report of a run: what was asked, how good the answer is, what it must not be used for."""
    from pneumoscope.workflows.documents import report as write_report

    with Display() as display:
        page = write_report(run, pdf=pdf, output=output, progress=display)
    console().print(f"report: {page}")
    if pdf:
        console().print(f"PDF: {page.with_suffix('.pdf')}")


def card(
    bundle: BundleName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead of standard output.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the evidence pack: card, checklists, bill of materials.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="A cross-validation of the recipe, for figures on unseen images.")
    ] = None,
    evidence: Annotated[
        list[Path] | None,
        typer.Option(help="JSON of stress, audit-shortcuts or commission. May be repeated."),
    ] = None,
    release: Annotated[
        Path | None, typer.Option(help="release.json of the bundle's release check, for the card.")
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="With --out: the pack's page as PDF, too.")] = False,
) -> None:
    """Print a bundle's card, or write its evidence pack: checklists, hashes and bill of materials, too."""
    from pneumoscope.core.files import write_text
    from pneumoscope.workflows import documents

    if out is not None:
        files = documents.evidence_pack(bundle, out, run=run, files=evidence or [], release=release, pdf=pdf)
        for file in files:
            notes().print(f"wrote {file}")
        return
    text = documents.card(bundle, release)
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)
        notes().print(f"card: {output}")
