"""``pneumoscope stress`` and ``audit-shortcuts``: robustness, and whether a network reads lungs.

A failed check is a result and no error, unless ``--check`` (exit code 1) or ``--strict`` (2) is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoscope.cli.options import (
    AsJson,
    ConfigFile,
    DatasetPath,
    OperatingPoint,
    Output,
    Seed,
    SplitName,
    SplitPart,
    Subject,
)
from pneumoscope.cli.terminal import Display, console, notes, print_json

if TYPE_CHECKING:
    from pneumoscope.workflows.runs import Result


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command(name="stress")(stress)
    app.command(name="audit-shortcuts")(audit_shortcuts)


def stress(
    subject: Subject,
    dataset: DatasetPath,
    split: SplitPart = None,
    split_name: SplitName = "default",
    images: Annotated[
        int | None, typer.Option("--images", "--films", min=0, help="At most so many; 0: all (default).")
    ] = None,
    seed: Seed = None,
    limit: Annotated[
        float | None, typer.Option(help="Points of accuracy that a change may cost (default: 1.5).")
    ] = None,
    probe_limit: Annotated[
        float | None, typer.Option(help="Largest AUC without lungs (default: 0.75).")
    ] = None,
    operating_point: OperatingPoint = None,
    config: ConfigFile = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with code 1 when a check fails.")] = False,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Measure what everyday changes of the image cost in accuracy, on images that were not trained on."""
    from pneumoscope.workflows.audits import stress as run_stress

    flags: dict[str, Any] = {"films": images, "seed": seed, "limit": limit, "probe_limit": probe_limit}
    with Display() as display:
        result = run_stress(
            subject,
            dataset,
            split=split,
            split_name=split_name,
            operating_point=operating_point,
            output=output,
            config=config,
            progress=display,
            **flags,
        )
    _show(result, as_json, _print_stress, "stress.html")
    if check and result.failures:
        raise typer.Exit(1)


def audit_shortcuts(
    subject: Subject,
    dataset: DatasetPath,
    split: SplitPart = None,
    split_name: SplitName = "default",
    images: Annotated[
        int | None,
        typer.Option("--images", "--films", min=0, help="At most so many; 0: all (default: 1000)."),
    ] = None,
    map_images: Annotated[
        int | None,
        typer.Option(
            "--map-images", "--map-films", min=1, help="With pneumonia, heat maps tested (default: 60)."
        ),
    ] = None,
    seed: Seed = None,
    config: ConfigFile = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 2 unless the audit passes.")
    ] = False,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Hide the lungs, keep nothing but the lungs, test the heat maps: a release gate with limits."""
    from pneumoscope.workflows.audits import audit_shortcuts as run_audit

    flags: dict[str, Any] = {"films": images, "map_films": map_images, "seed": seed}
    with Display() as display:
        result = run_audit(
            subject,
            dataset,
            split=split,
            split_name=split_name,
            output=output,
            config=config,
            progress=display,
            **flags,
        )
    _show(result, as_json, _print_audit, "shortcuts.html")
    if strict and result.verdict != "pass":
        raise typer.Exit(2)


def _show(result: Result, as_json: bool, show: Any, page: str) -> None:
    if left_out := result.document["left_out"]:
        notes().print(f"{left_out} images are left out: trained on, or tested by no fold")
    if as_json:
        print_json(result.document)
    else:
        show(result.document)
    notes().print(f"results: {result.directory / page}")


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
    console().print(f"{document['films']} images of {document['patients']} patients; {document['protocol']}")
    console().print(table)


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
