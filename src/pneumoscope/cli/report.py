"""``pneumoscope report``: one page about a run, for people who were not there.

In: the folder of a training run or of a cross-validation. Out: a self-contained HTML page and, when asked,
the same as PDF.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pneumoscope.cli.terminal import console, progress_bar


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def report(
        run: Annotated[Path, typer.Argument(help="Folder of a run ('train' wrote it).")],
        pdf: Annotated[bool, typer.Option("--pdf", help="Write a PDF too (extra 'pdf').")] = False,
        output: Annotated[
            Path | None,
            typer.Option("--output", "-o", help="The page's file; default RUN/report/report.html."),
        ] = None,
    ) -> None:
        """Write the report of a run: what was asked, how good the answer is, what it must not be used for."""
        from pneumoscope.reporting.run_report import write_run_report

        with progress_bar("drawing the worst mistakes") as progress:
            page = write_run_report(run, pdf=pdf, file=output, progress=progress)
        console().print(f"report: {page}")
        if pdf:
            console().print(f"PDF: {page.with_suffix('.pdf')}")
