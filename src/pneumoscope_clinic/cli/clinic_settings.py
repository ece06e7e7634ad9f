"""What the commands of the clinic share: options, settings, the open store, waiting for a signal."""

from __future__ import annotations

import getpass
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoscope.core.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from pneumoscope_clinic.settings import ClinicSettings
    from pneumoscope_clinic.store.database import Store

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings (TOML); also by PNEUMOSCOPE_CONFIG.")
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Database, images and key; ~/.local/share/pneumoscope.")
]


def clinic_settings(config: Path | None, **flags: Any) -> ClinicSettings:
    """Settings of an installation; a flag's name is its key, with ``__`` for the dot.

    Raises:
        MissingExtraError: the extra ``clinic`` is not installed.
        ConfigError: the file or a flag is wrong.
    """
    from pneumoscope_clinic.settings import load_settings

    try:
        import alembic
        import sqlalchemy  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "this needs the clinic's libraries", remedy="pip install 'pneumoscope[clinic]'"
        ) from error
    del alembic
    overrides: Mapping[str, Any] = {key.replace("__", "."): value for key, value in flags.items()}
    return load_settings(config, overrides)


@contextmanager
def clinic_store(config: Path | None, data_dir: Path | None, **flags: Any) -> Iterator[Store]:
    """The open store of an installation that is there; ``serve`` and ``pacs`` alone make a new one.

    Raises:
        ConfigError: there is no installation, so that a mistyped path is not taken for an empty one.
    """
    settings = clinic_settings(config, data_dir=data_dir, **flags)
    _require_installation(settings)
    from pneumoscope_clinic.store.database import open_store

    store = open_store(settings)
    try:
        yield store
    finally:
        store.close()


def _require_installation(settings: ClinicSettings) -> None:
    """Its database (of PostgreSQL: the data directory) and its key, which may lie elsewhere, are there."""
    from sqlalchemy import make_url

    url = make_url(settings.database_url)
    is_file = url.get_backend_name() == "sqlite" and url.database is not None
    database = Path(str(url.database)) if is_file else settings.directory
    for needed in (database, settings.key_file):
        if not needed.exists():
            raise ConfigError(
                "there is no installation here",
                where=needed,
                expected="the database and the key of an installation",
                remedy="correct --data-dir, data_dir or privacy.key_file; "
                "`pneumoscope serve` or `pneumoscope pacs` makes a new installation",
            )


def terminal_actor() -> str:
    """For the audit log: the account at this machine's terminal."""
    return f"terminal:{getpass.getuser()}"


def first_secret(store: Store) -> None:
    """Say the secret of a new installation's administrator, once."""
    from pneumoscope_clinic.store.accounts import first_admin

    secret = first_admin(store)
    if secret is not None:
        print("A new installation. Log in as: admin")
        print(f"Password, and API token, shown only now: {secret}")


def wait_for_signal() -> None:
    """Return when SIGINT or SIGTERM comes."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    sys.stdout.flush()
    over.wait()
