"""The entry point ``pneumoscope``: gathers the commands and turns errors into exit codes.

0 done, 1 our fault, 2 the input's or the user's fault.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import Annotated, NoReturn

import typer

from pneumoscope import __version__
from pneumoscope.cli import (
    audits,
    calibrate,
    commission,
    data,
    documents,
    evaluate,
    ladder,
    point,
    predict,
    quantise,
    release,
    train,
    tune,
)
from pneumoscope.cli.terminal import print_error
from pneumoscope.core.errors import InputError, PneumoscopeError

app = typer.Typer(
    help="Reads chest radiographs for pneumonia. Research and decision support, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(
    data.app, name="data", help="Import, audit, split, export and download data sets; draw phantoms."
)
for module in (
    train,
    tune,
    ladder,
    evaluate,
    predict,
    documents,
    audits,
    point,
    quantise,
    calibrate,
    release,
    commission,
):
    module.register(app)
for command in entry_points(group="pneumoscope.commands"):  # of packages beside this one
    command.load()(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"pneumoscope {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Run the command line; a :class:`PneumoscopeError` becomes a message and its exit code.

    So does what the system says of a path (it is missing, not a folder, not allowed, the disk is full).
    """
    try:
        app()
    except PneumoscopeError as error:
        _stop(error)
    except OSError as error:
        if error.errno is None or error.filename is None:
            raise
        _stop(
            InputError(
                f"the system refuses this path: {error.strerror}",
                where=str(error.filename),
                remedy="correct the path, its permissions or its disk",
            )
        )


def _stop(error: PneumoscopeError) -> NoReturn:
    print_error(error)
    sys.exit(error.exit_code)
