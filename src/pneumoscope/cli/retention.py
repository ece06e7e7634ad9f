"""``pneumoscope clinic retention`` and ``delete-study``: deletion by policy and on request.

In: an installation. Out: counts of what was deleted; each deletion is in the audit log.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pneumoscope.cli.clinic_settings import ConfigFile, DataDir, clinic_store, terminal_actor

if TYPE_CHECKING:
    from pneumoscope.clinic.store.retention import Deleted

__all__ = ["delete_study", "retention"]

_WORDS = {
    "studies": "studies",
    "films": "films with their results",
    "pixels": "films' pixels",
    "identities": "identities",
    "orphans": "files that no film knows",
}


def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Delete what the policy says is over (privacy.retain_days, ...); a server does so once a day."""
    with clinic_store(config, data_dir) as store:
        from pneumoscope.clinic.store.retention import apply_retention

        _say(apply_retention(store, dry_run=dry_run), "would be deleted" if dry_run else "deleted")


def delete_study(
    study: Annotated[str, typer.Argument(metavar="ID", help="The study's id, as its page shows it.")],
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Delete a study with its films, results and feedback, for good."""
    with clinic_store(config, data_dir) as store:
        from pneumoscope.clinic.store.retention import delete_study

        _say(delete_study(store, study, terminal_actor()), "deleted")


def _say(deleted: Deleted, verb: str) -> None:
    parts = [f"{count} {_WORDS[name]}" for name, count in asdict(deleted).items() if count]
    print(f"{', '.join(parts)} {verb}." if parts else f"Nothing {verb}.")
