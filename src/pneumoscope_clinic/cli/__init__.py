"""Commands of the clinic; the entry point group ``pneumoscope.commands`` adds them to ``pneumoscope``."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the commands of the clinic to the command line ``app``."""
    from pneumoscope.cli.data import app as data
    from pneumoscope_clinic.cli import audit, clinic, monitor, pacs, serve

    app.add_typer(pacs.app, name="pacs", help="A DICOM node that examines images; pull, echo, deliveries.")
    app.add_typer(monitor.app, name="monitor", help="Drift, agreement with readers, alarms.")
    app.add_typer(audit.app, name="audit", help="The audit log of an installation: verify it, show it.")
    app.add_typer(clinic.app, name="clinic", help="Users, tokens, bundles, retention of an installation.")
    serve.register(app)
    data.command("export-feedback")(clinic.export_feedback)
