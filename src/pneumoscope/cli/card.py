"""``pneumoscope card``: what a bundle is, how good it is, and what it must not be used for.

In: a bundle, and what other commands found. Out: its card in Markdown, on standard output or in a file; or
the evidence pack, a folder with card, checklists, hashes and bill of materials.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pneumoscope.cli.terminal import notes


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="card")(card)


def card(
    bundle: Annotated[str, typer.Argument(help="A bundle's directory, or the name of a shipped one.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead of standard output.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the evidence pack: card, checklists, bill of materials.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="A cross-validation of the recipe, for figures on unseen films.")
    ] = None,
    evidence: Annotated[
        list[Path] | None,
        typer.Option(help="JSON of stress, audit-shortcuts or commission. May be repeated."),
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="With --out: the pack's page as PDF, too.")] = False,
) -> None:
    """Print a bundle's card, or write its evidence pack: checklists, hashes and bill of materials, too."""
    from pneumoscope.core.files import write_text
    from pneumoscope.inference.bundle import load_bundle
    from pneumoscope.reporting.bundle_card import bundle_card

    if out is not None:
        _write_pack(bundle, out, run, evidence or [], pdf=pdf)
        return
    text = bundle_card(load_bundle(bundle).document, bundle)
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)
        notes().print(f"card: {output}")


def _write_pack(bundle: str, out: Path, run: Path | None, files: list[Path], *, pdf: bool) -> None:
    from pneumoscope.inference.bundle import load_bundle
    from pneumoscope.reporting.evidence import attach, evidence, write_evidence

    opened = load_bundle(bundle)
    internal = None
    if run is not None:
        (internal,) = attach([run / "evaluation" / "cross-validation.json"]).values()
    content = evidence(opened, bundle, internal, attach(files))
    for file in write_evidence(content, opened, out, pdf=pdf):
        notes().print(f"wrote {file}")
