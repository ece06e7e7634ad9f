"""``pneumoscope stress``: does the answer hold when a film is exposed, framed or compressed otherwise?

In: a cross-validation, a run or a bundle, and a data set. Out: a folder with ``stress.json``, ``stress.csv``,
``films.csv``, ``stress.html``, ``stress.md`` and ``run.json``; a table on standard output. A failed check is
a result and no error, as with ``data audit``; with ``--check`` it is exit code 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoscope.cli.terminal import console, notes, progress_bar
from pneumoscope.core.errors import InputError
from pneumoscope.core.files import read_json

if TYPE_CHECKING:
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.evaluation.stress import StressConfig, StressPlan, StressTable


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="stress")(stress)


def stress(
    subject: Annotated[
        str, typer.Argument(metavar="RUN_OR_BUNDLE", help="A cross-validation, a run, or a bundle.")
    ],
    dataset: Annotated[
        Path, typer.Argument(help="Data set directory, or a folder, CSV or npz to import first.")
    ],
    split: Annotated[
        str | None,
        typer.Option(help="With one bundle: a part of the split, or all. Default: test, or all."),
    ] = None,
    split_name: Annotated[str, typer.Option(help="Which split of the data set.")] = "default",
    films: Annotated[int | None, typer.Option(min=0, help="At most so many films; 0: all (default).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random (default: 0).")] = None,
    limit: Annotated[
        float | None, typer.Option(help="Points of accuracy that a stress may cost (default: 1.5).")
    ] = None,
    probe_limit: Annotated[
        float | None, typer.Option(help="Largest AUC without lungs (default: 0.75).")
    ] = None,
    operating_point: Annotated[
        str | None, typer.Option(help="One that every bundle has, instead of each one's default.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the same keys, and resamples.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with code 1 when a check fails.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the results; default runs/<time>-stress-..."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print stress.json, not a table.")] = False,
) -> None:
    """Measure what everyday changes of the film cost in accuracy, on films that were not trained on."""
    from pneumoscope.core.config import load_config
    from pneumoscope.data.importers import open_or_import
    from pneumoscope.evaluation.stress import StressConfig, choose_some, failures, plan_stress

    flags = {"films": films, "seed": seed, "limit": limit, "probe_limit": probe_limit}
    settings = load_config(StressConfig, config, flags)
    with progress_bar("reading films") as progress:
        source = open_or_import(dataset, progress=progress)
    plan = plan_stress(subject, source, split, split_name)
    if plan.left_out:
        notes().print(f"{plan.left_out} films are left out: trained on, or tested by no fold")
    if settings.films:
        plan = choose_some(plan, settings.films, settings.seed)
    directory = _directory(output, source.name)
    document = _measure(_Job(plan, source, settings, operating_point), directory)
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _print_stress(document)
    notes().print(f"results: {directory / 'stress.html'}")
    if check and failures(document):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Job:
    """Who is asked about which films, and how it is judged."""

    plan: StressPlan
    dataset: Dataset
    config: StressConfig
    operating_point: str | None


def _directory(output: Path | None, dataset_name: str) -> Path:
    """The folder of the results; never the folder of another kind of run."""
    if output is None:
        return Path("runs") / f"{datetime.now().strftime('%Y%m%d-%H%M%S')}-stress-{dataset_name}"
    file = output / "run.json"
    if file.is_file() and read_json(file).get("command") != "stress":
        raise InputError(
            "the folder holds another run",
            where=output,
            expected="a new folder, or one of an earlier stress test",
        )
    return output


def _measure(job: _Job, directory: Path) -> dict[str, Any]:
    """Ask, score, write everything; return ``stress.json``'s content."""
    from pneumoscope.core.run_manifest import RunManifest
    from pneumoscope.evaluation.stress import failures, run_stress, score_stress

    asked = {"operating_point": job.operating_point, **job.config.model_dump(mode="json")}
    manifest = RunManifest(directory, "stress", asked, {"stress": job.config.seed})
    manifest.add_input("dataset", job.dataset.hash)
    bundles = {examiner.name: examiner.bundle.id for examiner in job.plan.examiners}
    for name, identity in bundles.items():
        manifest.add_input(f"bundle {name}", identity)
    with manifest.stage("predict"), progress_bar("stressing") as progress:
        table = run_stress(
            job.plan,
            job.dataset,
            operating_point=job.operating_point,
            seed=job.config.seed,
            progress=progress,
        )
    with manifest.stage("score"):
        document = score_stress(table, job.config) | {
            "dataset": job.dataset.name,
            "dataset_hash": job.dataset.hash,
            "protocol": job.plan.protocol,
            "left_out": job.plan.left_out,
            "bundles": bundles,
            "operating_point": job.operating_point or "default",
        }
    with manifest.stage("write"):
        _write(document, table, job, directory)
    manifest.finish(films=len(table.samples), failures=failures(document))
    return document


def _write(document: Mapping[str, Any], table: StressTable, job: _Job, directory: Path) -> None:
    """``stress.json``, the two tables, and the page with the first film."""
    from pneumoscope.core.files import write_json, write_table
    from pneumoscope.evaluation.stress import film_rows, stress_rows
    from pneumoscope.imaging.radiograph import read_radiograph
    from pneumoscope.imaging.stress import STRESSES
    from pneumoscope.reporting.stress_page import write_stress_page

    write_json(directory / "stress.json", document)
    write_table(directory / "stress.csv", stress_rows(document))
    write_table(directory / "films.csv", film_rows(table))
    first = table.samples[0]
    pixels = read_radiograph(job.dataset.file(first)).pixels
    changed = {stress.title: stress.apply(pixels, first.sha256, job.config.seed) for stress in STRESSES}
    write_stress_page(document, {"Unchanged": pixels, **changed}, directory)


def _print_stress(document: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table(
        "stress", "accuracy", "change in points [95 % interval]", "AUC", "flipped", "refused", "verdict"
    )
    for column in table.columns[1:6]:
        column.justify = "right"
    for row in document["stresses"]:
        figures = row["estimates"]
        change, area = figures.get("accuracy_change"), figures.get("roc_auc")
        table.add_row(
            row["title"],
            f"{figures['accuracy']['value']:.2%}",
            f"{change['value']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}]" if change else "",
            f"{area['value']:.4f}" if area else "undefined",
            f"{figures['flipped']['value']:.2%}" if change else "",
            f"{figures['refused']['value']:.2%}",
            row["verdict"] or "",
            style="red" if row["verdict"] == "fail" else None,
        )
    console().print(f"{document['films']} films of {document['patients']} patients; {document['protocol']}")
    console().print(table)
