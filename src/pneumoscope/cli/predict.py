"""``pneumoscope predict``: results of images as text, JSON lines or CSV, with heat maps.

Exit code 2 when a file could not be read, 1 when one failed through our fault, else 0; an image that the
gate refuses is an answer.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoscope.cli.terminal import print_error
from pneumoscope.core.errors import ConfigError, InputError, PneumoscopeError

if TYPE_CHECKING:
    from pneumoscope.cli.film_files import FilmFiles
    from pneumoscope.inference.examination import Examination

NO_FILM_REMEDY = "images are told by their extension or as DICOM by content; --recursive enters subfolders"


class HeatMapStyle(StrEnum):
    """How heat maps are drawn."""

    OVERLAY = "overlay"
    SIDE_BY_SIDE = "side-by-side"
    CONTOUR = "contour"


class HeatMapClass(StrEnum):
    """Whose evidence heat maps show."""

    AUTO = "auto"
    BACTERIAL = "bacterial"
    VIRAL = "viral"
    BOTH = "both"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="predict")(predict)


def predict(
    films: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an image.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A table with a header.")] = False,
    heatmaps: Annotated[
        Path | None, typer.Option(help="Write heat maps as PNG to this folder, and explain.")
    ] = None,
    heatmap_style: Annotated[
        HeatMapStyle, typer.Option(help="Colours on the image, image beside colours, or lines on the image.")
    ] = HeatMapStyle.OVERLAY,
    heatmap_class: Annotated[
        HeatMapClass, typer.Option(help="Whose evidence; auto: of the likelier kind.")
    ] = HeatMapClass.AUTO,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say where the evidence lies, and which training images are alike."),
    ] = False,
    dataset: Annotated[
        Path | None,
        typer.Option(help="The training images, where at hand: shows those that are alike."),
    ] = None,
    bundle: Annotated[str, typer.Option(help="A shipped bundle's name or a directory.")] = "reference",
    operating_point: Annotated[
        str | None, typer.Option(help="One of the bundle's operating points instead of its default.")
    ] = None,
    age_years: Annotated[
        float | None, typer.Option(min=0, max=130, help="The patient's age, where the file does not say it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Answer images that the gate refuses.")] = False,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Enter subfolders.")] = False,
) -> None:
    """Say whether images show pneumonia, bacterial or viral, and how sure that is."""
    if as_json and as_csv:
        raise ConfigError("--json and --csv exclude each other", remedy="give one of them")
    if heatmaps is not None:
        _make_folder(heatmaps)
    from pneumoscope.cli.explanations import Explainer
    from pneumoscope.cli.film_files import FilmFiles
    from pneumoscope.cli.predict_output import Writer
    from pneumoscope.inference.bundle import load_bundle
    from pneumoscope.inference.examination import record
    from pneumoscope.inference.pipeline import examine_many

    opened = load_bundle(bundle)
    explainer = Explainer(opened, heatmaps, (heatmap_style, heatmap_class), dataset)
    files = FilmFiles(films, recursive=recursive)
    outcomes = examine_many(
        files,
        opened,
        force=force,
        operating_point=operating_point,
        age_years=age_years,
        explain=explain or heatmaps is not None or dataset is not None,
        keep_image=heatmaps is not None,
    )
    write = Writer("json" if as_json else "csv" if as_csv else "text", opened.task.classes)
    counts: Counter[str] = Counter()
    with _bar(files) as advance:
        for path, outcome in outcomes:
            outcome, picture = explainer(path, outcome)
            row = record(path, outcome)
            row["heatmap"] = picture
            write(row)
            counts[_kind(row, outcome)] += 1
            advance()
    _summarise(counts, files.skipped, opened.id)
    for folder in files.empty:
        print_error(InputError("no image in this folder", where=folder, remedy=NO_FILM_REMEDY))
    if counts["failed"]:
        raise typer.Exit(1)
    if counts["unreadable"] or files.empty:
        raise typer.Exit(2)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot be made: {error.strerror}", where=folder, remedy="choose another"
        ) from error


def _kind(row: dict[str, Any], outcome: Examination | PneumoscopeError) -> str:
    if isinstance(outcome, PneumoscopeError):
        return "unreadable" if outcome.exit_code == 2 else "failed"
    kinds = {"POSITIVE": "positive", "NEGATIVE": "negative"}
    return kinds.get(row["decision"], "refused" if row["abstained_by"] == "gate" else "abstained")


@contextmanager
def _bar(files: FilmFiles) -> Iterator[Callable[[], None]]:
    """A progress bar when a folder was given and a person watches; it costs counting the files first."""
    if not (files.has_folder and sys.stderr.isatty()):
        yield lambda: None
        return
    from pneumoscope.cli.terminal import progress_bar

    total, done = files.count(), 0
    with progress_bar("predict") as report:

        def advance() -> None:
            nonlocal done
            done += 1
            report(done, total)

        yield advance


def _summarise(counts: Counter[str], skipped: int, bundle_id: str) -> None:
    kinds = ("positive", "negative", "abstained", "refused", "unreadable", "failed")
    parts = [f"{counts[kind]} {kind}" for kind in kinds if counts[kind]]
    if skipped:
        parts.append(f"{skipped} other files skipped")
    print(f"{', '.join(parts)}. {bundle_id}; not for primary diagnosis.", file=sys.stderr)
