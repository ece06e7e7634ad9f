"""``pneumoscope pacs``: a DICOM node that examines images and sends results back; pull, echo, deliveries."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoscope.cli.terminal import console, notes, progress_bar
from pneumoscope.core.errors import InputError
from pneumoscope_clinic.cli.clinic_settings import (
    ConfigFile,
    DataDir,
    clinic_settings,
    clinic_store,
    terminal_actor,
    wait_for_signal,
)

if TYPE_CHECKING:
    from pneumoscope_clinic.settings import ClinicSettings, Destination
    from pneumoscope_clinic.store.tables import Job

app = typer.Typer(no_args_is_help=False, add_completion=False)


@app.callback(invoke_without_command=True)
def pacs(
    context: typer.Context,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen at. Default: this machine only.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen at; 0 for any. Default: 11112.")] = None,
    ae_title: Annotated[str | None, typer.Option(help="Our AE title. Default: PNEUMOSCOPE.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that examine images. Default: 2.")] = None,
    bundle: Annotated[
        str | None, typer.Option(help="Bundle of a new installation: a shipped name or a directory.")
    ] = None,
    shadow: Annotated[
        bool | None,
        typer.Option("--shadow/--no-shadow", help="Examine and store, but show and send nothing."),
    ] = None,
) -> None:
    """Listen for images (C-STORE), examine them, and send results where the configuration says.

    Runs until Ctrl-C or SIGTERM. Nothing is lost when it is killed: it goes on where it was.
    """
    if context.invoked_subcommand is not None:
        return
    settings = clinic_settings(
        config,
        data_dir=data_dir,
        dicom__host=host,
        dicom__port=port,
        dicom__ae_title=ae_title,
        workers=workers,
        bundle=bundle,
        shadow=shadow,
    )
    _run(settings)


@app.command()
def pull(
    query: Annotated[
        list[str] | None,
        typer.Option("--query", help="KEYWORD=VALUE of studies, such as ModalitiesInStudy=CR; repeatable."),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only studies from this day on.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take so many images at most.")] = None,
    url: Annotated[str | None, typer.Option(help="DICOMweb address. Default: dicomweb.url.")] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print counts as JSON.")] = False,
) -> None:
    """Take images from a PACS by DICOMweb and queue them; what was taken before is skipped."""
    pairs = _pairs(query or [])
    with clinic_store(config, data_dir, dicomweb__url=url) as store:
        from pneumoscope_clinic.dicom.http_clients import WebSource
        from pneumoscope_clinic.dicom.pull import pull as pull_films
        from pneumoscope_clinic.dicom.pull import study_query

        wanted = study_query(pairs, since.date() if since else None)
        source = WebSource(store.settings.dicomweb, store.settings.server.max_upload_mb)
        with progress_bar("pulling") as progress:
            pulled = pull_films(store, source, wanted, limit=limit, progress=progress)
    counts = {"taken": pulled.taken, "known": pulled.known, "failed": pulled.failed}
    if as_json:
        print(json.dumps(counts))
    else:
        console().print(
            f"{pulled.taken} images taken, {pulled.known} were here, {pulled.failed} were not given"
        )
    if pulled.taken:
        notes().print("they are examined by `pneumoscope pacs` or `pneumoscope serve`")


@app.command()
def echo(
    destination: Annotated[str, typer.Argument(help="Name of a destination of the configuration.")],
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Ask a destination whether it is there: C-ECHO, a QIDO query, or a FHIR capability statement."""
    settings = clinic_settings(config, data_dir=data_dir)
    from pneumoscope_clinic.dicom.deliveries import client_of

    found = _destination(settings, destination)
    client_of(settings, found).check()
    console().print(f"{found.name} ({found.kind}) answers")


@app.command()
def deliveries(
    retry_now: Annotated[
        bool, typer.Option("--retry-now", help="Try at once what waits, and what was given up.")
    ] = False,
    destination: Annotated[str | None, typer.Option(help="Of one destination only.")] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show which results wait for a destination, which were given up, and why."""
    with clinic_store(config, data_dir) as store:
        from sqlalchemy import select

        from pneumoscope_clinic.dicom.deliveries import retry_now as retry
        from pneumoscope_clinic.store.tables import Job

        if retry_now:
            notes().print(f"{retry(store, terminal_actor(), destination)} deliveries are tried again")
        chosen = select(Job).where(Job.kind == "deliver", Job.state != "done").order_by(Job.due_at)
        if destination is not None:
            chosen = chosen.where(Job.target == destination)
        with store.read() as session:
            rows = [_delivery(job) for job in session.scalars(chosen)]
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        _print_deliveries(rows)


def _run(settings: ClinicSettings) -> None:
    """The node in this process, the work in others, until a signal."""
    from pneumoscope_clinic.dicom.node import Node
    from pneumoscope_clinic.logs import log_to_stderr
    from pneumoscope_clinic.roles import roles
    from pneumoscope_clinic.store import audit_log
    from pneumoscope_clinic.store.bundles import open_active
    from pneumoscope_clinic.store.database import open_store
    from pneumoscope_clinic.worker.processes import Processes

    log_to_stderr()
    store = open_store(settings)
    try:
        audit_log.check_key(store)
        bundle_id = open_active(store).id
        with Node(store) as node, Processes(settings, roles(settings)):
            _announce(settings, node.address, bundle_id)
            wait_for_signal()
            notes().print("stopping")
    finally:
        store.close()


def _announce(settings: ClinicSettings, address: tuple[str, int], bundle_id: str) -> None:
    host, port = address
    dicom = settings.dicom
    console().print(
        f"{dicom.ae_title} listens at {host}:{port}{' with TLS' if dicom.tls_certificate else ''}"
    )
    console().print(f"bundle {bundle_id}, data in {settings.directory}")
    peers = ", ".join(peer.ae_title for peer in dicom.peers) or "anyone on this machine"
    console().print(f"takes images from: {peers}")
    destinations = ", ".join(f"{found.name} ({found.kind})" for found in settings.destinations)
    console().print(
        f"sends results to: {destinations or 'nobody; see destinations in docs/configuration.md'}"
    )
    if settings.shadow:
        console().print("shadow mode: results are stored, shown and sent to nobody")


def _pairs(query: list[str]) -> dict[str, str]:
    pairs = {}
    for text in query:
        keyword, equals, value = text.partition("=")
        if not equals or not keyword:
            raise InputError("--query is not of the form KEYWORD=VALUE", expected="ModalitiesInStudy=CR")
        _require_attribute(keyword)
        pairs[keyword] = value
    return pairs


def _require_attribute(name: str) -> None:
    """``name`` is a keyword or a tag of eight digits (PS3.18 section 8.3.4.1): servers pass over all else."""
    from difflib import get_close_matches

    from pydicom.datadict import keyword_dict, tag_for_keyword

    if tag_for_keyword(name) is not None or re.fullmatch("[0-9A-Fa-f]{8}", name):
        return
    close = get_close_matches(name, keyword_dict, 1)
    raise InputError(
        f"--query: DICOM has no attribute '{name}'",
        expected="a keyword, such as ModalitiesInStudy, or a tag, such as 00080061",
        remedy=f"perhaps {close[0]} is meant" if close else None,
    )


def _destination(settings: ClinicSettings, name: str) -> Destination:
    for destination in settings.destinations:
        if destination.name == name:
            return destination
    known = ", ".join(destination.name for destination in settings.destinations)
    raise InputError(
        f"no destination is called {name}",
        expected=f"one of {known}" if known else "destinations in the configuration; there are none",
    )


def _delivery(job: Job) -> dict[str, Any]:
    problem = job.problem or {}
    return {
        "film": job.film_id,
        "destination": job.target,
        "state": job.state,
        "attempts": job.attempts,
        "since": job.created_at.isoformat(timespec="seconds"),
        "next": job.due_at.isoformat(timespec="seconds") if job.state == "waiting" else None,
        "problem": problem.get("problem"),
        "remedy": problem.get("remedy"),
    }


def _print_deliveries(rows: list[dict[str, Any]]) -> None:
    """One paragraph for each destination and reason; image by image they are in the JSON."""
    if not rows:
        console().print("no result waits for a destination")
        return
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["destination"], row["state"], row["problem"] or ""), []).append(row)
    for (destination, state, problem), group in sorted(groups.items()):
        what = "given up" if state == "failed" else state
        line = f"{destination}: {len(group)} {what}, the oldest since {min(row['since'] for row in group)}"
        if state == "waiting":
            line += f", next attempt {min(row['next'] for row in group)}"
        console().print(line)
        for text in filter(None, (problem, group[0]["remedy"])):
            console().print(f"  {text}")
