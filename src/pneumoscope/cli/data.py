"""``pneumoscope data``: import, audit, clusters, split, export, download, phantoms.

In: folders, tables and archives of films. Out: data sets on disk, and a summary of each step for people
(tables) or for machines (``--json``).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pneumoscope.cli.data_opening import clusters_of, duplicates_of, open_dataset, split_of
from pneumoscope.cli.data_review import review
from pneumoscope.cli.data_summaries import (
    dataset_summary,
    duplicates_summary,
    print_audit,
    print_clusters,
    print_dataset,
    print_json,
    print_next,
    print_split,
    split_summary,
)
from pneumoscope.cli.terminal import console, progress_bar

app = typer.Typer(no_args_is_help=True)
app.command("review")(review)


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


DatasetArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DATASET", help="A data set made by 'data import', or a folder of films (imported first)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


@app.command("import")
def import_films(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder of films, a CSV table or a MedMNIST .npz file.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The data set's new directory.")],
    layout: Annotated[
        Layout | None, typer.Option(help="How the films lie; found out when not given.")
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
    """Make a data set: a manifest with hashes and patients, and a cache of decoded films."""
    from pneumoscope.data.importers import ImportOptions, import_dataset
    from pneumoscope.data.layouts import parse_class_map

    options = ImportOptions(layout, parse_class_map(class_map or ()), name, workers)
    with progress_bar("Opening films") as progress:
        dataset = import_dataset(source, output, options, progress=progress)
    if json:
        print_json(dataset_summary(dataset))
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
    duplicates = duplicates_of(opened)
    clusters = clusters_of(opened, settings) if settings.method == "leave-cluster-out" else None
    split = split_dataset(opened, settings, duplicates, name=name, clusters=clusters)
    split.save(file)
    if json:
        print_json(
            {**split_summary(opened, split), "file": str(file), "duplicates": duplicates_summary(duplicates)}
        )
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
    """Find films that were taken and processed alike, and whether that alone gives the class away."""
    from pneumoscope.data.acquisition import cluster_dataset, describe_clusters
    from pneumoscope.reporting.audit_page import write_acquisition

    opened = open_dataset(dataset)
    with progress_bar("Measuring films") as progress:
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


@app.command("export")
def export_films(
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
    format: Annotated[ExportFormat, typer.Option(help="Arrays for notebooks, or class folders.")],
    size: Annotated[int, typer.Option(help="Side of the exported films in pixels (npz).")] = 64,
    split: Annotated[
        str, typer.Option(help="Which split; made with the default settings if missing.")
    ] = "default",
    link: Annotated[bool, typer.Option(help="Hard links instead of copies (folders).")] = False,
    json: Json = False,
) -> None:
    """Write a data set per part, as arrays or as train / val / test class folders."""
    from pneumoscope.data.export import export_folders, export_npz

    opened = open_dataset(dataset)
    parts = split_of(opened, split)
    with progress_bar("Writing films") as progress:
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
    from dataclasses import asdict

    from pneumoscope.data.download import download

    with progress_bar(f"Downloading {name}", unit="bytes") as progress:
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
    count: Annotated[int, typer.Option(min=1, help="Films.")] = 300,
    size: Annotated[int, typer.Option(min=16, help="Height of a film in pixels.")] = 224,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same films.")] = 0,
    layout: Annotated[PhantomLayout, typer.Option(help="How the films lie.")] = PhantomLayout.KAGGLE,
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
