"""``pneumoscope commission`` and ``rollback``: set a bundle up for a site, and take that back.

In: a bundle and labelled local films. Out: a folder with the verdict as ``commissioning.json``, ``.html``,
``.md`` and, on request, ``.pdf``, and the site's version of the bundle. A verdict of NO-GO is a result and no
error: its bundle is written all the same, for those who look into it, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoscope.cli.terminal import console, notes, progress_bar
from pneumoscope.core.errors import InputError
from pneumoscope.core.files import read_json

if TYPE_CHECKING:
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.evaluation.commissioning import LocalFilms
    from pneumoscope.inference.bundle import Bundle


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command(name="commission")(commission)
    app.command(name="rollback")(rollback)


def commission(
    bundle: Annotated[str, typer.Argument(help="A bundle's directory, or the name of a shipped one.")],
    dataset: Annotated[
        Path, typer.Argument(help="Labelled local films: a data set, or a folder, CSV or npz to import.")
    ],
    prevalence: Annotated[
        float, typer.Option(help="Share with pneumonia among those who will be examined here.")
    ],
    interval_width: Annotated[
        float | None, typer.Option(help="Wanted width of the 95 % intervals (default: 0.1).")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the limits of GO.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this part of the data set's split.")] = None,
    split_name: Annotated[str, typer.Option(help="Which split of the data set.")] = "default",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the results; default runs/<time>-commission-..."),
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also write the page as PDF.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print commissioning.json, not a table.")] = False,
) -> None:
    """Set a bundle up for a site: measure it on local films, recalibrate it, and say GO, CAUTION or NO-GO."""
    from pneumoscope.core.config import load_config
    from pneumoscope.data.importers import open_or_import
    from pneumoscope.evaluation.commissioning import CommissionConfig
    from pneumoscope.evaluation.scoring import ALL, check_leakage, choose_films, leakage_error
    from pneumoscope.inference.bundle import load_bundle

    settings = load_config(
        CommissionConfig, config, {"prevalence": prevalence, "interval_width": interval_width}
    )
    opened = load_bundle(bundle)
    with progress_bar("reading films") as progress:
        source = open_or_import(dataset, progress=progress)
    films = choose_films(source, split or ALL, split_name)
    leaks = check_leakage(opened.document, films.samples)
    if leaks:
        raise leakage_error(leaks, len(films.samples))
    directory = _directory(output, source.name)
    with progress_bar("examining") as progress:
        local = _examine(opened, source, films.samples, progress)
    document = _commission(opened, source, local, settings, directory)
    _write_pages(document, directory, pdf=pdf)
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _print(document)
    notes().print(f"page: {directory / 'commissioning.html'}; bundle: {directory / 'bundle'}")


def rollback(
    bundle: Annotated[Path, typer.Argument(help="A commissioned bundle's directory.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write there instead of replacing the bundle.")
    ] = None,
) -> None:
    """Take the last commissioning of a bundle back: its earlier calibration, thresholds and selection."""
    from pneumoscope.evaluation.commissioning import rolled_back_document
    from pneumoscope.inference.bundle import MODEL, load_bundle, write_bundle

    opened = load_bundle(bundle)
    earlier = write_bundle(
        output or opened.directory,
        opened.directory / MODEL,
        rolled_back_document(opened.document),
        opened.arrays,
    )
    console().print(f"{opened.id} -> {earlier.id}: {earlier.directory}")


def _directory(output: Path | None, dataset_name: str) -> Path:
    """The folder of the results; never the folder of another kind of run."""
    if output is None:
        return Path("runs") / f"{datetime.now().strftime('%Y%m%d-%H%M%S')}-commission-{dataset_name}"
    file = output / "run.json"
    if file.is_file() and read_json(file).get("command") != "commission":
        raise InputError(
            "the folder holds another run",
            where=output,
            expected="a new folder, or one of an earlier commissioning",
        )
    return output


def _examine(bundle: Bundle, dataset: Dataset, samples: Any, progress: Any) -> LocalFilms:
    """Ask gate and network about every film, refused ones included: their number counts."""
    import numpy as np

    from pneumoscope.core.errors import PneumoscopeError
    from pneumoscope.core.records import Label
    from pneumoscope.evaluation.commissioning import LocalFilms
    from pneumoscope.inference.pipeline import examine_many

    probability, verdicts = [], []
    files = [dataset.file(sample) for sample in samples]
    for _, outcome in examine_many(files, bundle, force=True, explain=False):
        if isinstance(outcome, PneumoscopeError):
            raise outcome
        assert outcome.prediction is not None, "forced"
        probability.append(outcome.prediction.probability)
        verdicts.append(outcome.gate.verdict)
        progress(len(verdicts), len(files))
    return LocalFilms(
        np.array(probability),
        np.array([sample.label is not Label.NORMAL for sample in samples]),
        tuple(sample.patient_id for sample in samples),
        tuple(verdicts),
    )


def _commission(
    bundle: Bundle, dataset: Dataset, local: LocalFilms, settings: Any, directory: Path
) -> dict[str, Any]:
    """Measure, judge, write the bundle's new version; return ``commissioning.json``'s content."""
    from pneumoscope.core.files import write_json
    from pneumoscope.core.run_manifest import RunManifest
    from pneumoscope.evaluation.commissioning import commission as measure
    from pneumoscope.evaluation.commissioning import commissioned_document
    from pneumoscope.inference.bundle import MODEL, write_bundle

    manifest = RunManifest(
        directory, "commission", settings.model_dump(mode="json"), {"folds": settings.seed}
    )
    manifest.add_input("dataset", dataset.hash)
    manifest.add_input("bundle", bundle.id)
    with manifest.stage("measure"):
        result = measure(local, bundle.document, settings)
    with manifest.stage("write"):
        new = write_bundle(
            directory / "bundle",
            bundle.directory / MODEL,
            commissioned_document(bundle.document, result, {"name": dataset.name, "hash": dataset.hash}),
            bundle.arrays,
        )
        document = {
            **result,
            "dataset": dataset.name,
            "dataset_hash": dataset.hash,
            "bundle": bundle.id,
            "new_bundle": new.id,
            "when": datetime.now().astimezone().isoformat(timespec="seconds"),
            "limitations": bundle.document["limitations"],
        }
        write_json(directory / "commissioning.json", document)
    manifest.finish(verdict=document["verdict"], bundle=new.id)
    return document


def _write_pages(document: Mapping[str, Any], directory: Path, *, pdf: bool) -> None:
    from pneumoscope.reporting.commissioning_page import write_commissioning_page
    from pneumoscope.reporting.pages import write_pdf

    page = write_commissioning_page(document, directory)
    if pdf:
        write_pdf(page.read_text(encoding="utf-8"), directory / "commissioning.pdf")


def _print(document: Mapping[str, Any]) -> None:
    from rich.table import Table

    from pneumoscope.reporting.commissioning_page import check_rows

    table = Table("check", "found", "limit", "verdict")
    for row in check_rows(document):
        table.add_row(*row, style=None if row[-1] == "GO" else "red")
    console().print(
        f"{document['films']} films of {document['patients']} patients, {document['ill']} with pneumonia; "
        f"the gate refuses {document['refused']['value']:.1%}"
    )
    console().print(table)
    for name, count in document["missing"].items():
        if count:
            console().print(f"{count} films {name} are missing for intervals of the wanted width")
    console().print(f"{document['verdict']}: {document['bundle']} -> {document['new_bundle']}")
