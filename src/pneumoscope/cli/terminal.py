"""Terminal output: results on standard output, messages, progress and errors on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Self

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.records import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar


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


class Display:
    """Progress on standard error: messages, a line per epoch, and one bar at a time.

    It is a progress callback of workflows (``display(stage, done, total)``) and a listener of training runs.
    A bar appears with its first report: work that finds nothing to do shows none.
    """

    def __init__(self) -> None:
        self.title = ""
        self.bar: Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __call__(self, stage: str, done: int, total: int, rate: str = "") -> None:
        """Move the bar of ``stage``, the only one that is shown."""
        if self.bar is None or self.title != stage:
            self.stop()
            self.title, self.bar = stage, _bar()
            self.bar.start()
            self.bar.add_task(stage, total=total, rate=rate)
        self.bar.update(self.bar.task_ids[0], completed=done, total=total, rate=rate)

    def stage(self, message: str) -> None:
        """Say what happens now."""
        self.stop()
        notes().print(message)

    def step(self, done: int, total: int, images_per_second: float) -> None:
        """Move the bar of a training run."""
        self("training steps", done, total, f"{images_per_second:.0f} images/s")

    def epoch(self, report: Any, epochs: int) -> None:
        """Print the epoch's figures (an ``EpochReport`` of the training loop)."""
        notes().print(
            f"epoch {report.epoch + 1}/{epochs}  train loss {report.train_loss:.4f}  validation: loss "
            f"{report.validation_loss:.4f}, AUC {report.validation_auc:.4f}, accuracy "
            f"{report.validation_accuracy:.4f}  {report.images_per_second:.0f} images/s "
            f"({report.waiting_share:.1%} waiting for data)"
        )

    def stop(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.stop()
        self.bar = None


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on standard error with count, rate and time left; yields ``progress(done, total)``."""
    with Display() as display:
        yield partial(display, title)


def _bar() -> Bar:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=notes(),
    )


def print_json(document: object) -> None:
    """Print ``document`` alone on standard output."""
    print(json.dumps(document, indent=2, ensure_ascii=False))
