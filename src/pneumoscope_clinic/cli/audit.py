"""``pneumoscope audit``: the audit log of an installation, verified and shown."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pneumoscope.core.errors import InputError
from pneumoscope_clinic.cli.clinic_settings import ConfigFile, DataDir, clinic_store

app = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("verify")
def verify_log(
    head: Annotated[
        str | None, typer.Option(metavar="HASH", help="A head that was noted earlier and must be there.")
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Check that no row was changed, removed or put in; print the head to note down. Exit code 2: broken."""
    with clinic_store(config, data_dir) as store:
        from pneumoscope_clinic.store.audit_log import verify

        found = verify(store, head)
    if as_json:
        print(json.dumps({"rows": found.rows, "head": found.head, "broken_at": found.broken_at,
                          "reason": found.reason}))  # fmt: skip
    if found.broken_at is not None:
        raise InputError(
            f"the audit log is broken: {found.reason}",
            where=f"row {found.broken_at}",
            remedy="compare it with a backup, and find out who could write to the database",
        )
    if not as_json:
        print(f"{found.rows} rows, none altered.")
        print(f"head: {found.head}")


@app.command("show")
def show_log(
    last: Annotated[int, typer.Option(min=1, help="So many rows, the newest last.")] = 20,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print the last rows: when, who, what, about what."""
    with clinic_store(config, data_dir) as store:
        from sqlalchemy import select

        from pneumoscope_clinic.store.tables import AuditEntry

        with store.read() as session:
            statement = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(last)
            rows = session.scalars(statement).all()[::-1]
    for row in rows:
        if as_json:
            print(json.dumps({"id": row.id, "at": row.at, "actor": row.actor, "action": row.action,
                              "object": row.object, "detail": row.detail, "hash": row.hash}))  # fmt: skip
        else:
            detail = " ".join(f"{key}={value}" for key, value in row.detail.items())
            print(f"{row.id} {row.at} {row.actor} {row.action} {row.object} {detail}".rstrip())
