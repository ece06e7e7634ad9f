"""``pneumoscope data review``: probable label errors on a page, and a reader's answers back into the data.

In: a data set and a run with predictions of films that its networks did not see; or a filled-in table. Out:
``review.html`` and ``review.csv``; or a record of the corrections and a corrected data set.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pneumoscope.cli.data_opening import open_dataset
from pneumoscope.cli.terminal import console, notes, progress_bar
from pneumoscope.core.errors import ConfigError, InputError

_PREDICTIONS = ("cross-validation.csv", "test.csv")


def review(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A data set made by 'data import'.")],
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A cross-validation, or a run with test predictions.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Films of each kind.")] = 60,
    blind: Annotated[
        bool, typer.Option("--blind", help="Show no labels, so that the reader is not led.")
    ] = False,
    apply: Annotated[Path | None, typer.Option(help="A filled-in review.csv to apply instead.")] = None,
    reader: Annotated[str | None, typer.Option(help="Who filled it in.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of the page (default DATASET/review), or of the new data set."
        ),
    ] = None,
) -> None:
    """Show the films whose labels are probably wrong or hard, or apply what a reader said of them."""
    if (run is None) == (apply is None):
        raise ConfigError("give either RUN or --apply", expected="a run to review, or a table to apply")
    if apply is not None:
        _apply(dataset, apply, reader, output)
    else:
        assert run is not None, "checked above"
        _review(dataset, run, count, blind, output)


def _review(directory: Path, run: Path, count: int, blind: bool, output: Path | None) -> None:
    from pneumoscope.core.files import write_table
    from pneumoscope.evaluation.label_review import review as rank
    from pneumoscope.evaluation.predictions import read_predictions
    from pneumoscope.reporting.review_page import write_review_page

    dataset = open_dataset(directory)
    file = next(
        (run / "predictions" / name for name in _PREDICTIONS if (run / "predictions" / name).is_file()), None
    )
    if file is None:
        raise InputError(
            "no predictions of films that were not trained on",
            where=run,
            expected="predictions/cross-validation.csv or predictions/test.csv",
            remedy="train with --folds, or evaluate the run's bundle on a test part",
        )
    films = rank(read_predictions(file), count)
    folder = output or dataset.directory / "review"
    with progress_bar("drawing films") as progress:
        page = write_review_page(films, dataset, folder, blind=blind, progress=progress)
    rows = [{**asdict(film), "reader_label": None, "comment": None} for film in films]
    hidden = ("kind", "given", "suggested", "probability", "suggested_probability", "score") if blind else ()
    write_table(folder / "review.csv", [{k: v for k, v in row.items() if k not in hidden} for row in rows])
    errors = sum(film.kind.startswith("probable") for film in films)
    console().print(f"{errors} probable label errors and {len(films) - errors} hard films: {page}")
    notes().print(
        f"fill in reader_label in {folder / 'review.csv'}, then: "
        f"pneumoscope data review {dataset.directory} --apply {folder / 'review.csv'} --reader NAME -o NEW"
    )


def _apply(directory: Path, table: Path, reader: str | None, output: Path | None) -> None:
    from pneumoscope.data.dataset import apply_corrections, read_corrections

    if reader is None or output is None:
        raise ConfigError("--apply needs --reader and --output", remedy="say who looked, and where to write")
    dataset = open_dataset(directory)
    corrected = apply_corrections(dataset, read_corrections(table, dataset), reader, output)
    console().print(f"{corrected.notes[-1]}: {corrected.directory}")
