"""What ``pneumoscope evaluate`` shows people: figures with their intervals, decisions, subgroups.

In: the content of an ``evaluation.json``. Out: tables on standard output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from pneumoscope.cli.terminal import console
from pneumoscope.evaluation.metrics import TITLES
from pneumoscope.reporting.results import selection_rows, selection_sentence


def print_evaluation(document: Mapping[str, Any], dataset_name: str) -> None:
    """Print the content of an ``evaluation.json`` as tables: figures, decisions, subgroups."""
    point, counts = document["operating_point"], document["decisions"]
    console().print(
        f"{document['bundle']} on {dataset_name}: {document['protocol']}; "
        f"{document['n']} films of {document['patients']} patients, "
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
    """All operating points on these films, at the first prevalence that is told."""
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
    console().print(selection_sentence(selection))
    if selection is None:
        return
    table = Table("abstention", "value [95 % interval]", "n")
    table.columns[2].justify = "right"
    for title, estimate in selection_rows(selection):
        table.add_row(title, _interval(estimate), str(estimate["n"]))
    console().print(table)


def _print_subgroups(groups: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table("subgroup", "n", "sensitivity", "specificity", "ROC AUC")
    for name, estimates in groups.items():
        cells = (_interval(estimates.get(key)) for key in ("sensitivity", "specificity", "roc_auc"))
        table.add_row(name, str(estimates["accuracy"]["n"]), *cells)
    console().print(table)


def _interval(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "undefined"
    return f"{estimate['value']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}]"
