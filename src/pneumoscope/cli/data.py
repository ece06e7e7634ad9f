"""``pneumoscope data``: import, audit, clusters, split, review, export, download, phantoms."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoscope.cli.data_summaries import (
    print_audit,
    print_clusters,
    print_dataset,
    print_json,
    print_next,
    print_split,
    split_summary,
)
from pneumoscope.cli.terminal import console, notes, progress_bar
from pneumoscope.core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pneumoscope.data.dataset import Dataset

app = typer.Typer(no_args_is_help=True)
_PREDICTIONS = ("cross-validation.csv", "test.csv")


class Layout(StrEnum):
    """Layouts that an import reads."""

    KAGGLE = "kaggle"
    FOLDERS = "folders"
    CSV = "csv"
    RSNA = "rsna"
    MEDMNIST = "medmnist"


class PhantomLayout(StrEnum):
    """Layouts that phantoms are written in."""

    KAGGLE = "kaggle"
    CSV = "csv"
    DICOM = "dicom"


class ExportFormat(StrEnum):
    """Formats of an export."""

    NPZ = "npz"
    FOLDERS = "folders"


class SplitMethod(StrEnum):
    """Ways to split."""

    FRACTIONS = "fractions"
    K_FOLD = "k-fold"
    PUBLISHER = "publisher"
    LEAVE_CLUSTER_OUT = "leave-cluster-out"


def open_dataset(path: Path) -> Dataset:
    """The data set at ``path``; a folder of images is imported into ``datasets/`` first."""
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.data.importers import open_or_import

    if (path / "dataset.json").is_file():
        return Dataset.open(path)
    with progress_bar("Opening images") as progress:
        dataset = open_or_import(path, progress=progress)
    notes().print(f"Using the data set {dataset.directory}")
    return dataset


DatasetArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATASET", help="A data set made by 'data import', or a folder of images (imported first)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


@app.command("import")
def import_films(
    source: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A folder of images, a CSV table or a MedMNIST .npz."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The data set's new directory.")],
    layout: Annotated[
        Layout | None, typer.Option(help="How the images lie; found out when not given.")
    ] = None,
    class_map: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=LABEL",
            help="What a class name means: normal, bacterial, viral, pneumonia-unspecified or skip; "
            "NAME * is every other one. May be repeated.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The data set's name; the source's when not given.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that decode; one a processor when not given.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a data set: a manifest with hashes and patients, and a cache of decoded images."""
    from pneumoscope.data.importers import ImportOptions, import_dataset
    from pneumoscope.data.layouts import parse_class_map

    options = ImportOptions(layout, parse_class_map(class_map or ()), name, workers)
    with progress_bar("Opening images") as progress:
        dataset = import_dataset(source, output, options, progress=progress)
    if json:
        print_json(dataset.to_dict())
        return
    print_dataset(dataset)
    print_next(f"pneumoscope data audit {output}", f"pneumoscope train {output}")


@app.command("audit")
def audit_films(
    dataset: DatasetArgument,
    split: Annotated[
        str | None,
        typer.Option(help="Split whose parts are checked for leaks; the publisher's if not given."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of folds and bootstraps.")] = 0,
    json: Json = False,
) -> None:
    """Look for leaks, shortcuts, duplicates and imbalance before anything is learned."""
    from pneumoscope.core.records import Preprocessing
    from pneumoscope.data.audit import run_audit
    from pneumoscope.data.cache import build_cache
    from pneumoscope.data.splits import Split, split_file
    from pneumoscope.reporting.audit_page import write_audit_page

    opened = open_dataset(dataset)
    parts = Split.load(split_file(opened.directory, split)) if split else None
    with progress_bar("Auditing") as progress:
        audit = run_audit(opened, split=parts, seed=seed, progress=progress)
    page = opened.directory / "audit" / "audit.html"
    write_audit_page(audit, opened, build_cache(opened, Preprocessing()), page)
    if json:
        print_json(audit)
        return
    print_audit(opened, audit)
    console().print(f"\nPage: {page}\nJSON: {page.with_suffix('.json')}")
    print_next(f"pneumoscope data split {opened.directory}", f"pneumoscope train {opened.directory}")


@app.command("split")
def split_films(
    dataset: DatasetArgument,
    method: Annotated[SplitMethod | None, typer.Option(help="How to split (default: fractions).")] = None,
    train: Annotated[float | None, typer.Option(help="Share of train (default: 0.8).")] = None,
    validation: Annotated[float | None, typer.Option(help="Share of validation (default: 0.1).")] = None,
    test: Annotated[float | None, typer.Option(help="Share of test (default: 0.1).")] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Parts of k-fold (default: 5); clusters to leave out (default: as they stand apart)."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random (default: 0).")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the same keys.")] = None,
    name: Annotated[str, typer.Option(help="Name of the split.")] = "default",
    json: Json = False,
) -> None:
    """Split by patient, stratified by class, duplicates kept together; written to DATASET/splits."""
    from pneumoscope.core.config import load_config
    from pneumoscope.data.acquisition import cluster_dataset
    from pneumoscope.data.duplicates import find_duplicates
    from pneumoscope.data.splits import SplitConfig, split_dataset, split_file

    wanted = {
        "method": str(method) if method else None,
        "train": train,
        "validation": validation,
        "test": test,
        "folds": folds,
        "seed": seed,
    }
    settings = load_config(SplitConfig, config, wanted)
    opened = open_dataset(dataset)
    file = split_file(opened.directory, name)
    with progress_bar("Looking for duplicates") as progress:
        duplicates = find_duplicates(opened, progress=progress)
    clusters = None
    if settings.method == "leave-cluster-out":
        with progress_bar("Measuring images") as progress:
            found, _ = cluster_dataset(opened, settings.folds, seed=settings.seed, progress=progress)
        paths = [sample.path for sample in opened]
        clusters = dict(zip(paths, found.members.tolist(), strict=True))
    split = split_dataset(opened, settings, duplicates, name=name, clusters=clusters)
    split.save(file)
    if json:
        kinds = dict(Counter(group.kind for group in duplicates))
        print_json({**split_summary(opened, split), "file": str(file), "duplicates": kinds})
        return
    print_split(opened, split)
    console().print(f"Groups of duplicates kept together: {len(duplicates)}")
    console().print(f"Written to {file}")
    print_next(f"pneumoscope train {opened.directory}")


@app.command("clusters")
def cluster_films(
    dataset: DatasetArgument,
    count: Annotated[
        int | None, typer.Option(min=2, help="Clusters; when not given, as many as stand apart best.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of k-means and of the folds of the AUC.")] = 0,
    json: Json = False,
) -> None:
    """Find images that were acquired and processed alike, and whether that alone gives the class away."""
    from pneumoscope.data.acquisition import cluster_dataset, describe_clusters
    from pneumoscope.reporting.audit_page import write_acquisition

    opened = open_dataset(dataset)
    with progress_bar("Measuring images") as progress:
        clusters, cache = cluster_dataset(opened, count, seed=seed, progress=progress)
    found = describe_clusters(opened, clusters, seed=seed)
    folder = opened.directory / "acquisition"
    page = write_acquisition(found, opened, clusters, cache, folder)
    if json:
        print_json(found)
        return
    print_clusters(found)
    console().print(f"\nPage: {page}\nClusters: {folder / 'clusters.csv'}")
    print_next(f"pneumoscope data split {opened.directory} --method leave-cluster-out --name clusters")


@app.command("review")
def review_labels(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A data set made by 'data import'.")],
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A cross-validation, or a run with test predictions.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Images of each kind.")] = 60,
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
    """Show the images whose labels are probably wrong or hard, or apply what a reader said of them."""
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
            "no predictions of images that were not trained on",
            where=run,
            expected="predictions/cross-validation.csv or predictions/test.csv",
            remedy="train with --folds, or evaluate the run's bundle on a test part",
        )
    films = rank(read_predictions(file), count)
    folder = output or dataset.directory / "review"
    with progress_bar("drawing images") as progress:
        page = write_review_page(films, dataset, folder, blind=blind, progress=progress)
    rows = [{**asdict(film), "reader_label": None, "comment": None} for film in films]
    hidden = ("kind", "given", "suggested", "probability", "suggested_probability", "score") if blind else ()
    write_table(folder / "review.csv", [{k: v for k, v in row.items() if k not in hidden} for row in rows])
    errors = sum(film.kind.startswith("probable") for film in films)
    console().print(f"{errors} probable label errors and {len(films) - errors} hard images: {page}")
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


@app.command("export")
def export_films(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
    format: Annotated[ExportFormat, typer.Option(help="Arrays for notebooks, or class folders.")],
    size: Annotated[int, typer.Option(help="Side of the exported images in pixels (npz).")] = 64,
    split: Annotated[
        str, typer.Option(help="Which split; made with the default settings if missing.")
    ] = "default",
    link: Annotated[bool, typer.Option(help="Hard links instead of copies (folders).")] = False,
    json: Json = False,
) -> None:
    """Write a data set per part, as arrays or as train / val / test class folders."""
    from pneumoscope.data.export import export_folders, export_npz
    from pneumoscope.data.splits import load_or_split

    opened = open_dataset(dataset)
    with progress_bar("Looking for duplicates") as progress:
        parts = load_or_split(opened, split, progress)
    with progress_bar("Writing images") as progress:
        if format is ExportFormat.NPZ:
            written = export_npz(opened, parts, output, size=size, progress=progress)
        else:
            written = export_folders(opened, parts, output, link=link, progress=progress)
    if json:
        print_json({**split_summary(opened, parts), "written": [str(path) for path in written]})
        return
    print_split(opened, parts)
    for path in written:
        console().print(f"Written: {path}")


@app.command("download")
def download_films(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="pneumoniamnist (also -64, -128, -224) or kermany.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to download to.")],
    json: Json = False,
) -> None:
    """Fetch a public data set from its publisher: pinned, hashed, resumable."""
    from pneumoscope.data.download import download

    with progress_bar(f"Downloading {name}") as progress:
        came = download(name, output, progress=progress)
    if json:
        print_json(
            {key: str(value) if isinstance(value, Path) else value for key, value in asdict(came).items()}
        )
        return
    console().print(f"{'Downloaded' if came.fetched else 'Already there'}: {came.path}")
    console().print(f"sha256 {came.sha256}\n{came.note}\nLicence: {came.licence}\nCite: {came.citation}")
    print_next(f"pneumoscope data import {came.path} -o datasets/{name}")


@app.command("phantoms")
def draw_phantoms(
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder to write to.")],
    count: Annotated[int, typer.Option(min=1, help="Images.")] = 300,
    size: Annotated[int, typer.Option(min=16, help="Height of an image in pixels.")] = 224,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same images.")] = 0,
    layout: Annotated[PhantomLayout, typer.Option(help="How the images lie.")] = PhantomLayout.KAGGLE,
    json: Json = False,
) -> None:
    """Draw synthetic chest radiographs, for trying things out; they say nothing about patients."""
    from pneumoscope.core.config import load_config
    from pneumoscope.data.phantoms import WriteConfig, write_phantoms

    wanted = {"count": count, "size": size, "seed": seed, "layout": str(layout)}
    config = load_config(WriteConfig, overrides=wanted)
    with progress_bar("Drawing phantoms") as progress:
        folder = write_phantoms(output, config, progress=progress)
    if json:
        print_json({"folder": str(folder), **wanted})
        return
    console().print(f"{count} phantoms in {folder}")
    print_next(f"pneumoscope data import {folder} -o {folder.with_name(folder.name + '-dataset')}")
