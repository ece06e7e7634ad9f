"""``pneumoscope point``: do the heat maps of a bundle point at the lesions? On images with lesion masks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pneumoscope.cli.terminal import console, progress_bar


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="point")(point)


def point(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle's name or a directory.")],
    dataset: Annotated[Path, typer.Argument(help="Data set directory of images with lesion masks.")],
    masks: Annotated[
        Path | None, typer.Option(help="Folder of the masks; default: the images' folder with -masks.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="A part of the split, or all. Default: test, or all.")
    ] = None,
    split_name: Annotated[str, typer.Option(help="Which split of the data set.")] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Play the pointing game: is a heat map strongest inside the lesion? On images not trained on."""
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.evaluation.pointing import play, summarise
    from pneumoscope.evaluation.scoring import check_leakage, choose_films, leakage_error
    from pneumoscope.inference.bundle import load_bundle

    opened, source = load_bundle(bundle), Dataset.open(dataset)
    films = choose_films(source, split, split_name)
    if leaks := check_leakage(opened.document, films.samples):
        raise leakage_error(leaks, len(films.samples))
    with progress_bar("pointing") as progress:
        played = play(opened, source, films.samples, masks, progress)
    found = summarise([(sample.label, result) for sample, result in played])
    document = {"bundle": opened.id, "dataset_hash": source.hash, "protocol": films.protocol, **found}
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        _print_pointing(document)


def _print_pointing(document: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table(
        "lesion", "images", "peak inside [95 % interval]", f"within {document['tolerance']:.0%} of the side",
        "evidence inside", "area of the lesion",
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for label, found in document["classes"].items():
        hits = (f"{f['value']:.1%} [{f['low']:.1%}, {f['high']:.1%}]" for f in (found["hit"], found["near"]))
        table.add_row(label, str(found["n"]), *hits, f"{found['energy']:.1%}", f"{found['area']:.1%}")
    table.add_section()
    table.add_row("mean", "", *(f"{document['mean'][key]:.1%}" for key in ("hit", "near", "energy", "area")))
    console().print(f"{document['bundle']}; {document['protocol']}")
    console().print(table)
