"""``pneumoscope clinic``: users, tokens, bundles, settings, retention, backup, ``data export-feedback``."""

from __future__ import annotations

import getpass
import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoscope.cli.data_summaries import print_dataset, print_json, print_next
from pneumoscope.cli.terminal import console, progress_bar
from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Label
from pneumoscope_clinic.cli.clinic_settings import (
    ConfigFile,
    DataDir,
    clinic_settings,
    clinic_store,
    terminal_actor,
)

if TYPE_CHECKING:
    from pneumoscope_clinic.store.database import Store
    from pneumoscope_clinic.store.retention import Deleted
    from pneumoscope_clinic.store.viewers import Viewer

app = typer.Typer(no_args_is_help=True, help="Users, tokens, bundles, retention of an installation.")
users = typer.Typer(no_args_is_help=True, help="Who may log in.")
tokens = typer.Typer(no_args_is_help=True, help="Tokens of programs.")
bundles = typer.Typer(no_args_is_help=True, help="Which bundle examines images.")
app.add_typer(users, name="users")
app.add_typer(tokens, name="tokens")
app.add_typer(bundles, name="bundles")

Folder = Annotated[Path, typer.Argument(help="Folder of the backup.")]

_SHOWN = 20
"""Images that are named when their bytes are missing."""
_WORDS = {
    "studies": "studies",
    "films": "images with their results",
    "pixels": "images' pixels",
    "identities": "identities",
    "orphans": "files that no image knows",
}
_SHORTEST = 8
"""Digits of an id that pages show (``web.film_view.study_title``)."""
Name = Annotated[str, typer.Argument(help="The user's name.")]


def _password() -> str:
    """A password from standard input; at a terminal it is asked for twice and not shown."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    while (first := getpass.getpass("Password: ")) != getpass.getpass("Again: "):
        print("The two differ.", file=sys.stderr)
    return first


@users.command("list")
def list_users(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Show all users."""
    from pneumoscope_clinic.store import accounts

    with clinic_store(config, data_dir) as store:
        for user in accounts.list_users(store):
            print(f"{user.name}: {user.role}{', disabled' if user.disabled else ''}")


@users.command("add")
def add_user(
    name: Name,
    role: Annotated[str, typer.Option(help="reader, reviewer or admin.")] = "reader",
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Add a user; the password is read from standard input."""
    from pneumoscope_clinic.store import accounts

    with clinic_store(config, data_dir) as store:
        accounts.create_user(store, name, _password(), role, terminal_actor())
    print(f"{name} may log in as {role}.")


@users.command("password")
def new_password(name: Name, config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Give a user a new password, read from standard input; their sessions end."""
    from pneumoscope_clinic.store import accounts

    with clinic_store(config, data_dir) as store:
        accounts.set_password(store, name, _password(), terminal_actor())
    print(f"{name} has a new password.")


@users.command("change")
def change_user(
    name: Name,
    role: Annotated[str | None, typer.Option(help="reader, reviewer or admin.")] = None,
    disabled: Annotated[bool | None, typer.Option("--disable/--enable", help="Shut out, let in.")] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Change a user's role, shut them out or let them in; their sessions end."""
    from pneumoscope_clinic.store import accounts

    with clinic_store(config, data_dir) as store:
        accounts.change_user(store, name, terminal_actor(), role=role, disabled=disabled)
    print(f"{name} is changed.")


@tokens.command("add")
def add_token(
    name: Annotated[str, typer.Argument(help="What the token is for.")],
    user: Annotated[str, typer.Option(help="Whose it is.")] = "admin",
    scope: Annotated[list[str] | None, typer.Option(help="examine, read, feedback, admin.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Until it is over; for ever.")] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Make an API token and show it, once."""
    from pneumoscope_clinic.store import viewers

    with clinic_store(config, data_dir) as store:
        print(viewers.create_token(store, _viewer(store, user), name, scope or ["examine", "read"], days))


@tokens.command("list")
def list_tokens(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Show all tokens, not their secrets."""
    from pneumoscope_clinic.store import viewers

    with clinic_store(config, data_dir) as store:
        for row in viewers.list_tokens(store, _viewer(store, None)):
            until = f", until {row.expires_at:%Y-%m-%d}" if row.expires_at else ""
            print(f"{row.id}: {row.name}, of {row.user.name}, {' '.join(row.scopes)}{until}")


@tokens.command("revoke")
def revoke_token(
    number: Annotated[int, typer.Argument(help="As the list has it.")],
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """End a token."""
    from pneumoscope_clinic.store import viewers

    with clinic_store(config, data_dir) as store:
        viewers.revoke_token(store, _viewer(store, None), number)
    print(f"Token {number} is revoked.")


@bundles.command("list")
def list_bundles(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Show which bundles examined images here, the newest first."""
    from pneumoscope_clinic.store.bundles import activations, active_bundle

    with clinic_store(config, data_dir) as store:
        active_bundle(store)
        for number, row in enumerate(activations(store)):
            print(f"{row.at:%Y-%m-%d %H:%M} {row.bundle_id} by {row.by}{', in force' if number == 0 else ''}")


@bundles.command("activate")
def activate_bundle(
    bundle: Annotated[str, typer.Argument(help="A shipped bundle's name, or a directory.")],
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Let a bundle examine images from now on; nothing needs a restart."""
    from pneumoscope_clinic.store.bundles import activate

    with clinic_store(config, data_dir) as store:
        print(f"{activate(store, bundle, terminal_actor()).bundle_id} is in force.")


@bundles.command("rollback")
def rollback_bundle(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Go back to the bundle that was in force before; nothing needs a restart."""
    from pneumoscope_clinic.store.bundles import rollback

    with clinic_store(config, data_dir) as store:
        print(f"{rollback(store, terminal_actor()).bundle_id} is in force.")


@app.command("retry")
def retry_films(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Examine the images again whose examination was given up through no fault of theirs."""
    from pneumoscope_clinic.store.queue import Queue

    with clinic_store(config, data_dir) as store:
        print(f"{Queue(store).revive('examine', terminal_actor())} images are examined again.")


@app.command("settings")
def show_settings(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Print the settings in force as JSON, without secrets."""
    print(json.dumps(clinic_settings(config, data_dir=data_dir).model_dump(mode="json"), indent=2))


@app.command("backup")
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
        print("The key is in it: whoever has the folder can read the images.")
    else:
        print(f"The key is not in it. Keep {key_file} elsewhere: without it nothing opens.")


@app.command("restore")
def restore(folder: Folder, config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Put a backup into an empty data directory, and check that everything is there."""
    from pneumoscope_clinic.store.backup import restore as put_back

    settings = clinic_settings(config, data_dir=data_dir)
    found = put_back(settings, folder, terminal_actor())
    whole = "whole" if not found.audit_problem else found.audit_problem
    print(f"{settings.directory}: {found.films - len(found.missing)} of {found.films} images readable.")
    print(f"Audit log: {found.audit_rows} rows, {whole}.")
    for film in found.missing[:_SHOWN]:
        print(f"missing or damaged: {film}")
    if not found.good:
        raise typer.Exit(1)


@app.command("retention")
def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Delete what the policy says is over (privacy.retain_days, ...); a server does so once a day."""
    with clinic_store(config, data_dir) as store:
        from pneumoscope_clinic.monitoring.watch import retain

        _say(retain(store, dry_run=dry_run), "would be deleted" if dry_run else "deleted")


@app.command("delete-study")
def delete_study(
    study: Annotated[
        str, typer.Argument(metavar="ID", help="The study's id, or its beginning as its page shows it.")
    ],
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Delete a study with its images, results and feedback, for good."""
    with clinic_store(config, data_dir) as store:
        from pneumoscope_clinic.store.retention import delete_study

        _say(delete_study(store, _whole_id(store, study), terminal_actor()), "deleted")


def _whole_id(store: Store, beginning: str) -> str:
    """The id of the one study whose id begins so.

    Raises:
        InputError: the beginning is too short, or it is that of none or several.
    """
    from sqlalchemy import select

    from pneumoscope_clinic.store.tables import Study

    remedy = "give the whole id, which stands in the address of the study's page"
    if len(beginning) < _SHORTEST:
        raise InputError(
            "the id is too short", where=beginning, expected=f"at least {_SHORTEST} digits", remedy=remedy
        )
    wanted = Study.id.startswith(beginning.lower(), autoescape=True)
    with store.read() as session:
        found = session.scalars(select(Study.id).where(wanted).limit(2)).all()
    if len(found) != 1:
        said = "several studies begin so" if found else "there is no such study"
        raise InputError(said, where=beginning, remedy=remedy)
    return found[0]


def _say(deleted: Deleted, verb: str) -> None:
    parts = [f"{count} {_WORDS[name]}" for name, count in asdict(deleted).items() if count]
    print(f"{', '.join(parts)} {verb}." if parts else f"Nothing {verb}.")


def export_feedback(
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="A new folder, or that of an earlier export.")
    ],
    licence: Annotated[
        str, typer.Option(help="Terms under which the images may be used; there is no export without.")
    ] = "",
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only feedback from this day on (UTC).")
    ] = None,
    min_readers: Annotated[int, typer.Option(min=1, help="Readers who gave the same diagnosis.")] = 1,
    diagnosis: Annotated[list[Label] | None, typer.Option(help="Only this one. May be repeated.")] = None,
    name: Annotated[str, typer.Option(help="The data set's name.")] = "clinic",
    config: ConfigFile = None,
    data_dir: DataDir = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Turn confirmed images with consent into a data set: de-identified, text in the picture covered."""
    with clinic_store(config, data_dir) as store:
        from pneumoscope_clinic.export_feedback import Wishes, export_feedback
        from pneumoscope_clinic.store.bundles import active_bundle
        from pneumoscope_clinic.worker.sandbox import Sandbox

        day = None if since is None else since.replace(tzinfo=UTC)
        wishes = Wishes(licence, day, min_readers, tuple(diagnosis or ()), name)
        bundle = active_bundle(store).location
        with (
            Sandbox(bundle, store.settings.limits) as sandbox,
            progress_bar("Exporting images") as progress,
        ):
            done = export_feedback(
                store, output, wishes, sandbox.picture, actor=terminal_actor(), progress=progress
            )
    if json:
        print_json(
            {
                **done.dataset.to_dict(),
                "added": done.added,
                "removed": done.removed,
                "left_out": dict(done.left_out),
            }
        )
        return
    print_dataset(done.dataset)
    console().print(
        f"{done.added} images are new, {done.removed} went, {sum(done.left_out.values())} left out."
    )
    for reason, count in done.left_out.items():
        console().print(f"  {count}: {reason}")
    print_next(f"pneumoscope data audit {output}", f"pneumoscope data split {output}")


def _viewer(store: Store, name: str | None) -> Viewer:
    """A user as who the terminal acts; None: any administrator, since who reads the data directory is one."""
    from pneumoscope_clinic.store.accounts import user_named
    from pneumoscope_clinic.store.viewers import Viewer

    if name is None:
        return Viewer(0, f"terminal {os.getuid()}", "admin")
    with store.read() as session:
        user = user_named(session, name)
    return Viewer(user.id, user.name, user.role)
