"""``pneumoscope audit-shortcuts``: does a network read lungs, or something that goes with the class?

In: a cross-validation, a run or a bundle, and a data set. Out: a folder with ``shortcuts.json``,
``films.csv``, ``shortcuts.html``, ``shortcuts.md``, ``contact-sheet.jpg`` and ``run.json``; the verdict on
standard output. A failed audit is a result and no error; with ``--strict`` it is exit code 2.
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
    from pneumoscope.evaluation.shortcut_audit import ShortcutAudit, ShortcutConfig
    from pneumoscope.evaluation.stress import StressPlan

COMMAND = "audit-shortcuts"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name=COMMAND)(audit_shortcuts)


def audit_shortcuts(
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
    films: Annotated[int | None, typer.Option(min=0, help="At most so many; 0: all (default: 1000).")] = None,
    map_films: Annotated[
        int | None, typer.Option(min=1, help="Films with pneumonia whose heat maps are tested (default: 60).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random (default: 0).")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the same keys, and the limits.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 2 unless the audit passes.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the results; default runs/<time>-audit-shortcuts-..."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print shortcuts.json, not tables.")] = False,
) -> None:
    """Hide the lungs, keep nothing but the lungs, test the heat maps: a release gate with limits."""
    from pneumoscope.core.config import load_config
    from pneumoscope.data.importers import open_or_import
    from pneumoscope.evaluation.shortcut_audit import ShortcutConfig
    from pneumoscope.evaluation.stress import plan_stress

    flags = {"films": films, "map_films": map_films, "seed": seed}
    settings = load_config(ShortcutConfig, config, flags)
    with progress_bar("reading films") as progress:
        source = open_or_import(dataset, progress=progress)
    plan = plan_stress(subject, source, split, split_name)
    if plan.left_out:
        notes().print(f"{plan.left_out} films are left out: trained on, or tested by no fold")
    directory = _directory(output, source.name)
    document = _measure(_Job(plan, source, settings), directory)
    if as_json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _print_audit(document)
    notes().print(f"results: {directory / 'shortcuts.html'}")
    if strict and document["verdict"] != "pass":
        raise typer.Exit(2)


@dataclass(frozen=True, slots=True)
class _Job:
    """Who is asked about which films, and how it is judged."""

    plan: StressPlan
    dataset: Dataset
    config: ShortcutConfig


def _directory(output: Path | None, dataset_name: str) -> Path:
    """The folder of the results; never the folder of another kind of run."""
    if output is None:
        return Path("runs") / f"{datetime.now().strftime('%Y%m%d-%H%M%S')}-{COMMAND}-{dataset_name}"
    file = output / "run.json"
    if file.is_file() and read_json(file).get("command") != COMMAND:
        raise InputError(
            "the folder holds another run", where=output, expected="a new folder, or one of an earlier audit"
        )
    return output


def _measure(job: _Job, directory: Path) -> dict[str, Any]:
    """Ask, score, write everything; return ``shortcuts.json``'s content."""
    from pneumoscope.core.run_manifest import RunManifest
    from pneumoscope.evaluation.shortcut_audit import audit, failed_checks
    from pneumoscope.evaluation.shortcut_probes import find_films

    config = job.config
    manifest = RunManifest(directory, COMMAND, config.model_dump(mode="json"), {"audit": config.seed})
    manifest.add_input("dataset", job.dataset.hash)
    bundles = {examiner.name: examiner.bundle.id for examiner in job.plan.examiners}
    for name, identity in bundles.items():
        manifest.add_input(f"bundle {name}", identity)
    with manifest.stage("films"), progress_bar("finding lungs") as progress:
        films = find_films(job.plan, job.dataset, config.films, config.seed, progress=progress)
    with manifest.stage("probes"), progress_bar("hiding lungs") as asked:
        found = audit(films, job.dataset, config, progress=asked)
    with manifest.stage("maps"), progress_bar("testing heat maps") as looked:
        found = found.with_maps(progress=looked)
    with manifest.stage("score"):
        document = found.document() | {"left_out": job.plan.left_out, "bundles": bundles}
    with manifest.stage("write"):
        _write(document, found, directory)
    failed = failed_checks(document["checks"])
    manifest.finish(films=document["films"], verdict=document["verdict"], failed=failed)
    return document


def _write(document: Mapping[str, Any], found: ShortcutAudit, directory: Path) -> None:
    from pneumoscope.core.files import write_json, write_table
    from pneumoscope.reporting.shortcut_page import write_shortcut_page

    write_json(directory / "shortcuts.json", document)
    write_table(directory / "films.csv", found.film_rows())
    write_shortcut_page(document, found.examples(), directory)


def _print_audit(document: Mapping[str, Any]) -> None:
    from rich.table import Table

    from pneumoscope.reporting.shortcut_page import (
        CHECK_COLUMNS,
        PROBE_COLUMNS,
        VERDICTS,
        check_rows,
        probe_rows,
        provenance,
    )

    console().print(provenance(document))
    shown = (0, 1, 3, 4)  # a terminal has no room for more
    probes = [[row[place] for place in shown] for row in probe_rows(document)]
    columns = [PROBE_COLUMNS[place] for place in shown]
    for names, rows in ((columns, probes), (CHECK_COLUMNS, check_rows(document))):
        table = Table(*names)
        for row in rows:
            table.add_row(
                *(cell.replace("*", "") for cell in row), style="red" if "fail" in row[-1] else None
            )
        console().print(table)
    console().print(VERDICTS[document["verdict"]])
