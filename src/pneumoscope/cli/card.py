"""``pneumoscope card``: what a bundle is, how good it is, and what it must not be used for.

In: a bundle. Out: its card in Markdown, on standard output or in a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pneumoscope.cli.terminal import notes

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="card")(card)


def card(
    bundle: Annotated[str, typer.Argument(help="A bundle's directory, or the name of a shipped one.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead of standard output.")
    ] = None,
) -> None:
    """Print a bundle's card: task, training films, figures with intervals, operating points, limits."""
    from pneumoscope.core.files import write_text
    from pneumoscope.inference.bundle import load_bundle
    from pneumoscope.reporting.bundle_card import bundle_card

    text = bundle_card(load_bundle(bundle).document, bundle)
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)
        notes().print(f"card: {output}")
