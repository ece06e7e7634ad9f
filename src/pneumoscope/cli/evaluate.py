"""``pneumoscope evaluate``: score a bundle on images that it has never seen.

Exit code 2 when an image or its patient was in the bundle's training data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumoscope.cli.options import (
    AsJson,
    BundleName,
    ConfigFile,
    DatasetPath,
    OperatingPoint,
    Output,
    SplitName,
    SplitPart,
)
from pneumoscope.cli.terminal import Display, console, notes, print_json

if TYPE_CHECKING:
    from pneumoscope.workflows.evaluation import EvaluationResult


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(name="evaluate")(evaluate)


def evaluate(
    bundle: BundleName,
    dataset: DatasetPath,
    split: SplitPart = None,
    split_name: SplitName = "default",
    operating_point: OperatingPoint = None,
    prevalence: Annotated[
        float | None,
        typer.Option(help="Share with pneumonia, for PPV, NPV and costs. Default: that of the images."),
    ] = None,
    config: ConfigFile = None,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Score leaked images too; marks the result contaminated.")
    ] = False,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Score a bundle: every figure with its count and its 95 % interval."""
    from pneumoscope.workflows.evaluation import evaluate as run_evaluation

    flags: dict[str, Any] = {"costs.prevalence": prevalence}
    with Display() as display:
        result = run_evaluation(
            bundle,
            dataset,
            split=split,
            split_name=split_name,
            operating_point=operating_point,
            allow_leakage=allow_leakage,
            output=output,
            config=config,
            progress=display,
            **flags,
        )
    if as_json:
        print_json(result.document)
    else:
        print_evaluation(result.document, result.dataset_name)
    _remark(result)
    notes().print(f"results: {result.directory / 'evaluation.html'}")


def _remark(result: EvaluationResult) -> None:
    """Print what a reader of the figures must know besides them."""
    scorings = result.document["scorings"]
    if result.leaks:
        notes().print(
            f"CONTAMINATED: the bundle was trained on {result.leaks} of these images or their patients"
        )
    if scorings > 1:
        notes().print(
            f"this bundle has now been scored {scorings} times on these images; "
            "a test set that steers choices is a test set no more"
        )
    if result.problems:
        notes().print(
            f"{result.problems} files of the data set could not be used; its problems.csv names them"
        )


def print_evaluation(document: Mapping[str, Any], dataset_name: str) -> None:
    """Print the content of an ``evaluation.json`` as tables: figures, decisions, subgroups."""
    from rich.table import Table

    from pneumoscope.evaluation.metrics import TITLES

    point, counts = document["operating_point"], document["decisions"]
    console().print(
        f"{document['bundle']} on {dataset_name}: {document['protocol']}; "
        f"{document['n']} images of {document['patients']} patients, "
        f"{document['prevalence']:.1%} with pneumonia; operating point {point['name']} "
        f"(probability of at least {point['threshold']:.3f})",
    )
    table = Table("figure", "value [95 % interval]", "n")
    table.columns[2].justify = "right"
    stated = f"at {document['stated_prevalence']:.1%} prevalence"
    for name, title in TITLES.items():
        title = title.replace("at the stated prevalence", stated)
        if name in document["estimates"]:
            estimate = document["estimates"][name]
            table.add_row(title, _interval(estimate), str(estimate["n"]))
        elif name in document["undefined"]:
            table.add_row(title, f"undefined: {document['undefined'][name]}", "")
    console().print(table)
    console().print(
        f"pneumonia: {counts['tp']} found, {counts['fn']} missed; "
        f"no pneumonia: {counts['tn']} cleared, {counts['fp']} false alarms"
    )
    if document["operating_points"]:
        _print_points(document["operating_points"])
    print_selection(document["selection"])
    if document["by_subgroup"]:
        _print_subgroups(document["by_subgroup"])


def _print_points(points: Sequence[Mapping[str, Any]]) -> None:
    """All operating points on these images, at the first prevalence that is told."""
    from rich.table import Table

    prevalence = points[0]["predictive_values"][0]["prevalence"]
    table = Table("operating point", "from", "sensitivity", "specificity", "PPV", "NPV")
    table.title = f"PPV and NPV at {prevalence:.1%} prevalence"
    for point in points:
        known, values = point["intervals"], point["predictive_values"][0]
        cells = (known["sensitivity"], known["specificity"], values["ppv"], values["npv"])
        table.add_row(point["name"], f"{point['threshold']:.3f}", *map(_interval, cells))
    console().print(table)


def print_selection(selection: Mapping[str, Any] | None) -> None:
    """Print the ``selection`` of an ``evaluation.json``: what abstention buys."""
    from rich.table import Table

    from pneumoscope.reporting.results import selection_rows, selection_sentence

    console().print(selection_sentence(selection))
    if selection is None:
        return
    table = Table("abstention", "value [95 % interval]", "n")
    table.columns[2].justify = "right"
    for title, estimate in selection_rows(selection):
        table.add_row(title, _interval(estimate), str(estimate["n"]))
    console().print(table)


def _print_subgroups(groups: Mapping[str, Mapping[str, Any]]) -> None:
    from rich.table import Table

    table = Table("subgroup", "n", "sensitivity", "specificity", "ROC AUC")
    for name, estimates in groups.items():
        cells = (_interval(estimates.get(key)) for key in ("sensitivity", "specificity", "roc_auc"))
        table.add_row(name, str(estimates["accuracy"]["n"]), *cells)
    console().print(table)


def _interval(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "undefined"
    return f"{estimate['value']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}]"
