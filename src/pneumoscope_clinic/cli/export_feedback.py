"""``pneumoscope data export-feedback``: what readers confirmed and gave free, as a data set to train on.

In: an installation. Out: a data set on disk, and what was left out of it with reasons.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pneumoscope.cli.data_summaries import print_dataset, print_json, print_next
from pneumoscope.cli.terminal import console, progress_bar
from pneumoscope.core.records import Label
from pneumoscope_clinic.cli.clinic_settings import ConfigFile, DataDir, clinic_store, terminal_actor


def export_feedback(
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="A new folder, or that of an earlier export.")
    ],
    licence: Annotated[
        str, typer.Option(help="Terms under which the films may be used; there is no export without.")
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
    """Turn confirmed films with consent into a data set: de-identified, text in the picture covered."""
    with clinic_store(config, data_dir) as store:
        from pneumoscope_clinic.export_feedback import Wishes, export_feedback
        from pneumoscope_clinic.store.bundles import active_bundle
        from pneumoscope_clinic.worker.sandbox import Sandbox

        day = None if since is None else since.replace(tzinfo=UTC)
        wishes = Wishes(licence, day, min_readers, tuple(diagnosis or ()), name)
        bundle = active_bundle(store).location
        with (
            Sandbox(bundle, store.settings.limits) as sandbox,
            progress_bar("Exporting films") as progress,
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
        f"{done.added} films are new, {done.removed} went, {sum(done.left_out.values())} left out."
    )
    for reason, count in done.left_out.items():
        console().print(f"  {count}: {reason}")
    print_next(f"pneumoscope data audit {output}", f"pneumoscope data split {output}")
