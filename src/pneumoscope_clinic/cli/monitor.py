"""``pneumoscope monitor``: the monitoring report, one check by hand, alarms, a new baseline."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pneumoscope.cli.terminal import console, notes
from pneumoscope_clinic.cli.clinic_settings import ConfigFile, DataDir, clinic_store, terminal_actor

app = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("report")
def report(
    days: Annotated[int, typer.Option(min=1, max=3650, help="So many days, today included.")] = 30,
    output: Annotated[Path, typer.Option("--out", help="Folder of the files.")] = Path("monitoring"),
    pdf: Annotated[bool, typer.Option("--pdf", help="Also write the page as PDF.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write the monitoring report: volume, rates, agreement with readers, drift, alarms, queue."""
    with clinic_store(config, data_dir) as store:
        from pneumoscope_clinic.monitoring.dashboard import dashboard
        from pneumoscope_clinic.monitoring.report import document, write_report

        board = dashboard(store, days)
        page = write_report(board, store.settings.monitoring.min_agreement, output, pdf=pdf)
    if as_json:
        print(json.dumps(document(board), indent=2, ensure_ascii=False))
    else:
        films = sum(day.films for day in board.days)
        console().print(f"{films} images in {days} days, {len(board.alarms)} alarms open.")
    notes().print(f"page: {page}")


@app.command("check")
def check(config: ConfigFile = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Check now, as a server does by itself: close windows, open and resolve alarms, send messages."""
    with clinic_store(config, data_dir) as store:
        from pneumoscope_clinic.monitoring.watch import check as check_once

        found = check_once(store)
    if as_json:
        print(json.dumps({"looks": len(found.looks), "blocks": len(found.blocks), "opened": found.opened,
                          "resolved": found.resolved, "unsent": found.unsent}))  # fmt: skip
        return
    console().print(f"{len(found.looks)} looks at images, {len(found.blocks)} at feedback.")
    for word, kinds in (("opened", found.opened), ("resolved", found.resolved)):
        for kind in kinds:
            console().print(f"{word}: {kind}")
    if found.unsent:
        console().print(f"{found.unsent} alarms could not be sent; the next check tries again.")


@app.command("alarms")
def alarms(
    acknowledge: Annotated[
        int | None, typer.Option(metavar="ID", help="Note that you have seen this one.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show open alarms, the newest first."""
    with clinic_store(config, data_dir) as store:
        from pneumoscope_clinic.monitoring import alarms as alarm_log

        if acknowledge is not None:
            alarm_log.acknowledge(store, acknowledge, terminal_actor())
        with store.read() as session:
            rows = alarm_log.alarm_rows(session, only_open=not every)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], default=str, indent=2))
        return
    if not rows:
        console().print("No alarm is open.")
    for row in rows:
        seen = f", seen by {row.acknowledged_by}" if row.acknowledged_by else ""
        over = f", over since {row.resolved_at:%Y-%m-%d %H:%M}" if row.resolved_at else ""
        console().print(f"{row.id} {row.created_at:%Y-%m-%d %H:%M} {row.kind}{seen}{over}: {row.message}")


@app.command("baseline")
def baseline(
    restart: Annotated[
        bool, typer.Option("--restart", help="Take the images from now on as the new baseline.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Say how far the baseline is; restart it after a change that is known and wanted (a new device)."""
    with clinic_store(config, data_dir) as store:
        from pneumoscope_clinic.monitoring.sequential import progress, restart_baseline
        from pneumoscope_clinic.store.bundles import active_bundle

        bundle_id = active_bundle(store).bundle_id
        if restart:
            restart_baseline(store, bundle_id, terminal_actor())
        where = progress(store, bundle_id)
    missing = where.films_until_baseline
    state = f"{missing} images are still missing" if missing else "it is complete"
    console().print(
        f"Baseline of {bundle_id}: {state}. {where.films_until_window} images until the next window."
    )
