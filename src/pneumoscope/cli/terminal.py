"""What people see: one console, one progress bar, one way to print an error.

In: messages and progress calls. Out: text on the terminal; results go to standard output, everything else
to standard error, so that ``--json`` can be piped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.records import Progress

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console() -> Console:
    """The console of results (standard output)."""
    from rich.console import Console

    return Console(highlight=False, markup=False, soft_wrap=True)


@cache
def notes() -> Console:
    """The console of everything else (standard error)."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def print_error(error: PneumoscopeError) -> None:
    """Say what was wrong, where, what was expected and what to do."""
    lines = [f"error: {error.problem}"]
    lines += [f"  {name}: {value}" for name, value in (
        ("where", error.where), ("expected", error.expected), ("remedy", error.remedy)) if value]  # fmt: skip
    print("\n".join(lines), file=sys.stderr)


@contextmanager
def progress_bar(title: str, unit: str = "films") -> Iterator[Progress]:
    """A bar on standard error with count, rate and time left; yields ``progress(done, total)``.

    The bar appears with the first call: work that finds nothing to do shows none.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=notes()) as bar:
        tasks: list[TaskID] = []

        def report(done: int, total: int) -> None:
            if not tasks:
                tasks.append(bar.add_task(title, total=total))
            bar.update(tasks[0], completed=done, total=total)

        yield report
