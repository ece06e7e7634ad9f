"""``pneumoscope train``: from a data set to a run directory with a bundle, or to k by cross-validation."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoscope.cli.options import AsJson, ConfigFile, TrainSplit
from pneumoscope.cli.terminal import Display, console, print_json
from pneumoscope.core.errors import InputError

if TYPE_CHECKING:
    from pneumoscope.workflows.training import CrossValidationResult, TrainingResult


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="train")(train)


def train(
    dataset: Annotated[
        Path | None, typer.Argument(help="Data set directory, or a folder, CSV or npz to import first.")
    ] = None,
    config: ConfigFile = None,
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
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of split, order, augmentation and weights.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the bundle.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other key, as KEY=VALUE in TOML; augmentation.noise=0.02."),
    ] = None,
    split_name: TrainSplit = "default",
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validate, by patient or over --split-name.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the stopped run of this directory.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train a network; write a run directory with its bundle."""
    from pneumoscope.workflows import training

    flags: dict[str, Any] = {
        "network": network, "task": task, "init": init, "stage": stage, "epochs": epochs, "size": size,
        "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed, "name": name,
        **parse_options(option or []),
    }  # fmt: skip
    result: TrainingResult | CrossValidationResult
    with Display() as display:
        shared: dict[str, Any] = {"listener": display, "progress": display}
        if resume is not None:
            if any(value is not None for value in (dataset, config, output, folds, *flags.values())):
                raise InputError(
                    "--resume goes on with a run as it began", remedy="give no data set and no other option"
                )
            result = training.resume(resume, **shared)
        elif dataset is None:
            raise InputError("no data set given", expected="pneumoscope train DATASET", remedy="see --help")
        else:
            shared |= {"split_name": split_name, "output": output, "config": config, **flags}
            if folds:
                result = training.cross_validate(dataset, folds=folds, **shared)
            else:
                result = training.train(dataset, **shared)
    if as_json:
        print_json(result.to_dict())
    else:
        _print_summary(result)


def parse_options(options: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` strings to values; VALUE is TOML, or else a plain string."""
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


def _print_summary(result: TrainingResult | CrossValidationResult) -> None:
    from rich.table import Table

    summary, run = result.document, result.directory
    crossed = "evaluation" in summary
    table = Table("figure", "value", "95 % interval", "n", title="cross-validation" if crossed
                  else "validation images (thresholds and calibration come from them)")  # fmt: skip
    for row in result.rows():
        interval = f"{row['low']:.4f} to {row['high']:.4f}"
        table.add_row(row["figure"], f"{row['value']:.4f}", interval, str(row["n"]))
    console().print(table)
    if crossed:
        from pneumoscope.cli.evaluate import print_selection

        print_selection(summary["evaluation"].get("selection"))
    console().print(f"run: {run}")
    if not crossed:
        console().print(f"bundle: {run}/bundle ({summary['bundle']})")
    console().print(f"next: pneumoscope report {run}")
