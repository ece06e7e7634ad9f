"""``pneumoscope train``: from a data set to a run directory with a bundle, or to k by cross-validation.

In: a data set (or any folder that ``data import`` takes), a TOML file, flags. Out: a run directory;
progress on standard error, a summary on standard output.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from pneumoscope.cli.terminal import console, notes, progress_bar
from pneumoscope.core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from pneumoscope.learning.config import TrainConfig
    from pneumoscope.learning.fitting import EpochReport


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="train")(train)


def train(
    dataset: Annotated[
        Path | None, typer.Argument(help="Data set directory, or a folder, CSV or npz to import first.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file; flags win over it.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run directory.")] = None,
    network: Annotated[str | None, typer.Option(help="mlp, cnn-small, cnn-9, cnn-14, vgg16, mobilenet-v2, "
        "resnet-18, resnet-50, efficientnet-b0, convnext-tiny, or hf:NAME.")] = None,
    task: Annotated[str | None, typer.Option(help="binary or three-class.")] = None,
    init: Annotated[str | None, typer.Option(help="auto, hub, random, or a file or folder.")] = None,
    stage: Annotated[
        str | None, typer.Option(help="full, frozen, fine-tune-last or staged.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the model input in pixels.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Films a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of split, order, augmentation and weights.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the bundle.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other key, as KEY=VALUE in TOML; augmentation.noise=0.02."),
    ] = None,
    split_name: Annotated[
        str, typer.Option(help="Split of the data set; the default one is made when missing.")
    ] = "default",
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validate, by patient or over --split-name.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the stopped run of this directory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:  # fmt: skip
    """Train a network; write a run directory with its bundle."""
    flags = {
        "network": network, "task": task, "init": init, "stage": stage, "epochs": epochs, "size": size,
        "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed, "name": name,
        **parse_options(option or []),
    }  # fmt: skip
    require_training()
    if resume is not None:
        if any(value is not None for value in (dataset, config, output, folds, *flags.values())):
            raise InputError(
                "--resume goes on with a run as it began", remedy="give no data set and no other option"
            )
        summary = _resume(resume)
    elif dataset is None:
        raise InputError("no data set given", expected="pneumoscope train DATASET", remedy="see --help")
    else:
        from pneumoscope.core.config import load_config
        from pneumoscope.learning.config import TrainConfig

        settings = load_config(TrainConfig, config, flags)
        directory = output or _default_directory(settings.network)
        summary = _run(dataset, settings, directory, split_name, folds)
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        _print_summary(summary)


def require_training(*more: str) -> None:
    """Make sure that the libraries of training, and ``more``, are installed.

    Raises:
        MissingExtraError: names those that are not.
    """
    from importlib.util import find_spec

    missing = [name for name in ("torch", "lightning", "transformers", *more) if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"training needs {', '.join(missing)}",
            remedy="pip install 'pneumoscope[train]' -c constraints.txt",
        )


def parse_options(options: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` strings to values; VALUE is TOML, or else a plain string."""
    import tomllib

    values: dict[str, Any] = {}
    for text in options:
        key, sign, value = text.partition("=")
        if not sign or not re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", key):
            raise InputError("not KEY=VALUE", where=f"--set {text}", expected="--set augmentation.noise=0.02")
        try:
            values[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            values[key] = value
    return values


def _default_directory(network: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{stamp}-{re.sub(r'[^A-Za-z0-9.-]+', '-', network)}"


def _run(
    source: Path, config: TrainConfig, directory: Path, split_name: str, folds: int | None
) -> dict[str, Any]:
    from pneumoscope.data.importers import open_or_import
    from pneumoscope.learning.cross_validation import cross_validate, split_folds
    from pneumoscope.learning.training import train as train_network
    from pneumoscope.learning.training import training_set

    with progress_bar("reading films") as progress:
        dataset = open_or_import(source, progress=progress)
    with TrainingDisplay() as display:
        if folds:
            chosen = split_folds(dataset, folds, split_name)
            evaluation = cross_validate(dataset, config, directory, chosen, display)
            return {"run": str(directory), "evaluation": evaluation}
        films = training_set(dataset, split_name, config.seed)
        bundle = train_network(films, config, directory, display)
    return {"run": str(directory), "bundle": bundle.id, "validation": dict(bundle.document["validation"])}


def _resume(directory: Path) -> dict[str, Any]:
    from pneumoscope.core.files import read_json
    from pneumoscope.learning.config import TrainConfig

    file = directory / "run.json"
    if not file.exists():
        raise InputError("not a run directory", where=directory, expected="a folder with run.json")
    run = read_json(file)
    if run["command"] not in ("train", "cross-validate"):
        raise InputError(f"a run of '{run['command']}' cannot be resumed", where=directory)
    results = run["results"]
    config = TrainConfig(**run["config"])
    return _run(
        Path(results["dataset_directory"]), config, directory, results.get("split_name", "default"),
        results.get("folds"),
    )  # fmt: skip


class TrainingDisplay:
    """Draws a run's stages, its progress bar with films/s and time left, and a line for each epoch."""

    def __init__(self) -> None:
        self.bar: Bar | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def stage(self, message: str) -> None:
        """Say what happens now."""
        self._stop()
        notes().print(message)

    def step(self, done: int, total: int, images_per_second: float) -> None:
        """Move the bar."""
        if self.bar is None:
            self._start()
        assert self.bar is not None
        assert self.task is not None
        self.bar.update(self.task, completed=done, total=total, rate=f"{images_per_second:.0f} films/s")

    def epoch(self, report: EpochReport, epochs: int) -> None:
        """Print the epoch's figures."""
        notes().print(
            f"epoch {report.epoch + 1}/{epochs}  train loss {report.train_loss:.4f}  validation: loss "
            f"{report.validation_loss:.4f}, AUC {report.validation_auc:.4f}, accuracy "
            f"{report.validation_accuracy:.4f}  {report.images_per_second:.0f} films/s "
            f"({report.waiting_share:.1%} waiting for data)"
        )

    def _start(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps  {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=notes(),
        )
        self.bar.start()
        self.task = self.bar.add_task("training", total=None, rate="")

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
        self.bar = self.task = None


def _print_summary(summary: dict[str, Any]) -> None:
    from rich.table import Table

    run = summary["run"]
    estimates = summary.get("validation") or summary["evaluation"]["estimates"]
    table = Table("figure", "value", "95 % interval", "n", title="cross-validation" if "evaluation" in summary
                  else "validation films (thresholds and calibration come from them)")  # fmt: skip
    for metric, estimate in estimates.items():
        table.add_row(
            metric, f"{estimate['value']:.4f}", f"{estimate['low']:.4f} to {estimate['high']:.4f}",
            str(estimate["n"]),
        )  # fmt: skip
    console().print(table)
    if "evaluation" in summary:
        from pneumoscope.cli.evaluate_output import print_selection

        print_selection(summary["evaluation"].get("selection"))
    console().print(f"run: {run}")
    if "bundle" in summary:
        console().print(f"bundle: {run}/bundle ({summary['bundle']})")
    console().print(f"next: pneumoscope report {run}")
