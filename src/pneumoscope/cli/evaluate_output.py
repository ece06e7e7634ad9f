"""What ``pneumoscope evaluate`` shows people: figures with their intervals, decisions, subgroups.

In: the content of an ``evaluation.json``. Out: tables on standard output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from pneumoscope.cli.terminal import console
from pneumoscope.evaluation.metrics import TITLES

__all__ = ["print_evaluation"]


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
    if document["by_subgroup"]:
        _print_subgroups(document["by_subgroup"])


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
