"""``pneumoscope clinic retention`` and ``delete-study``: deletion by policy and on request.

In: an installation. Out: counts of what was deleted; each deletion is in the audit log.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoscope.core.errors import InputError
from pneumoscope_clinic.cli.clinic_settings import ConfigFile, DataDir, clinic_store, terminal_actor

if TYPE_CHECKING:
    from pneumoscope_clinic.store.database import Store
    from pneumoscope_clinic.store.retention import Deleted

_WORDS = {
    "studies": "studies",
    "films": "films with their results",
    "pixels": "films' pixels",
    "identities": "identities",
    "orphans": "files that no film knows",
}
_SHORTEST = 8
"""Digits of an id that pages show (``web.film_view.study_title``)."""


def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Delete what the policy says is over (privacy.retain_days, ...); a server does so once a day."""
    with clinic_store(config, data_dir) as store:
        from pneumoscope_clinic.store.retention import apply_retention

        _say(apply_retention(store, dry_run=dry_run), "would be deleted" if dry_run else "deleted")


def delete_study(
    study: Annotated[
        str, typer.Argument(metavar="ID", help="The study's id, or its beginning as its page shows it.")
    ],
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Delete a study with its films, results and feedback, for good."""
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
