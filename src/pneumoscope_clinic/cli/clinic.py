"""``pneumoscope clinic``: what an administrator does at the terminal: users, tokens, bundles, settings.

In: the data directory of an installation. Out: changes in its database, each in the audit log.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoscope_clinic.cli.backup import backup, restore
from pneumoscope_clinic.cli.clinic_settings import ConfigFile, DataDir, clinic_settings, clinic_store
from pneumoscope_clinic.cli.retention import delete_study, retention

if TYPE_CHECKING:
    from pneumoscope_clinic.store.database import Store
    from pneumoscope_clinic.store.viewers import Viewer

app = typer.Typer(no_args_is_help=True, help="Users, tokens, bundles, retention of an installation.")
users = typer.Typer(no_args_is_help=True, help="Who may log in.")
tokens = typer.Typer(no_args_is_help=True, help="Tokens of programs.")
bundles = typer.Typer(no_args_is_help=True, help="Which bundle examines films.")
app.add_typer(users, name="users")
app.add_typer(tokens, name="tokens")
app.add_typer(bundles, name="bundles")
app.command("backup")(backup)
app.command("restore")(restore)
app.command("retention")(retention)
app.command("delete-study")(delete_study)

Name = Annotated[str, typer.Argument(help="The user's name.")]


def _actor() -> str:
    """For the audit log: the account at this machine's terminal."""
    return f"terminal:{getpass.getuser()}"


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
        accounts.create_user(store, name, _password(), role, _actor())
    print(f"{name} may log in as {role}.")


@users.command("password")
def new_password(name: Name, config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Give a user a new password, read from standard input; their sessions end."""
    from pneumoscope_clinic.store import accounts

    with clinic_store(config, data_dir) as store:
        accounts.set_password(store, name, _password(), _actor())
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
        accounts.change_user(store, name, _actor(), role=role, disabled=disabled)
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
    """Show which bundles examined films here, the newest first."""
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
    """Let a bundle examine films from now on; nothing needs a restart."""
    from pneumoscope_clinic.store.bundles import activate

    with clinic_store(config, data_dir) as store:
        print(f"{activate(store, bundle, _actor()).bundle_id} is in force.")


@bundles.command("rollback")
def rollback_bundle(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Go back to the bundle that was in force before; nothing needs a restart."""
    from pneumoscope_clinic.store.bundles import rollback

    with clinic_store(config, data_dir) as store:
        print(f"{rollback(store, _actor()).bundle_id} is in force.")


@app.command("retry")
def retry_films(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Examine the films again whose examination was given up through no fault of theirs."""
    from pneumoscope_clinic.store.queue import Queue

    with clinic_store(config, data_dir) as store:
        print(f"{Queue(store).revive('examine', _actor())} films are examined again.")


@app.command("settings")
def show_settings(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Print the settings in force as JSON, without secrets."""
    print(json.dumps(clinic_settings(config, data_dir=data_dir).model_dump(mode="json"), indent=2))


def _viewer(store: Store, name: str | None) -> Viewer:
    """A user as who the terminal acts; None: any administrator, since who reads the data directory is one."""
    from pneumoscope_clinic.store.accounts import user_named
    from pneumoscope_clinic.store.viewers import Viewer

    if name is None:
        return Viewer(0, f"terminal {os.getuid()}", "admin")
    with store.read() as session:
        user = user_named(session, name)
    return Viewer(user.id, user.name, user.role)
