"""``pneumoscope clinic backup`` and ``restore``: an installation into a folder while it runs, and back.

In: the data directory of an installation, a folder. Out: the same, in the other place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pneumoscope_clinic.cli.clinic_settings import (
    ConfigFile,
    DataDir,
    clinic_settings,
    clinic_store,
    terminal_actor,
)

Folder = Annotated[Path, typer.Argument(help="Folder of the backup.")]

_SHOWN = 20
"""Films that are named when their bytes are missing."""


def backup(
    folder: Folder,
    with_key: Annotated[
        bool, typer.Option("--with-key/--without-key", help="Include the key, without which nothing opens.")
    ] = True,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Write a backup, or bring the one in the folder up to date; the server may run."""
    from pneumoscope_clinic.store.backup import back_up

    with clinic_store(config, data_dir) as store:
        made = back_up(store, folder, terminal_actor(), with_key=with_key)
        key_file = store.settings.key_file
    print(f"{folder}: {made.blobs} files and the database of {made.made_at}.")
    print(f"Head of the audit log: {made.audit_head}")
    if made.key:
        print("The key is in it: whoever has the folder can read the films.")
    else:
        print(f"The key is not in it. Keep {key_file} elsewhere: without it nothing opens.")


def restore(folder: Folder, config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Put a backup into an empty data directory, and check that everything is there."""
    from pneumoscope_clinic.store.backup import restore as put_back

    settings = clinic_settings(config, data_dir=data_dir)
    found = put_back(settings, folder, terminal_actor())
    whole = "whole" if not found.audit_problem else found.audit_problem
    print(f"{settings.directory}: {found.films - len(found.missing)} of {found.films} films readable.")
    print(f"Audit log: {found.audit_rows} rows, {whole}.")
    for film in found.missing[:_SHOWN]:
        print(f"missing or damaged: {film}")
    if not found.good:
        raise typer.Exit(1)
