"""Terminal tables and JSON of ``pneumoscope data``: data sets, splits, audits, acquisition clusters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pneumoscope.cli.terminal import console

if TYPE_CHECKING:
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.data.splits import Split

_SHOWN_REASONS = 5
_SEVERITY_STYLES = {"danger": "bold red", "warning": "yellow"}


def split_summary(dataset: Dataset, split: Split) -> dict[str, Any]:
    """How a split was made and what each part holds."""
    from pneumoscope.data.dataset import describe_samples

    return {
        "dataset": str(dataset.directory),
        "split": split.name,
        "method": split.method,
        "seed": split.seed,
        "dataset_hash": split.dataset_hash,
        "parts": {part: describe_samples(split.samples(dataset, part)) for part in split.names},
        "notes": list(split.notes),
    }


def print_dataset(dataset: Dataset) -> None:
    """Images per class and part, patients, problems, and where things are."""
    out = console()
    parts = dataset.by_publisher_split()
    _print_counts(f"{dataset.name} ({dataset.layout})", "publisher", parts)
    reasons = Counter(problem.reason for problem in dataset.problems).most_common()
    if reasons:
        out.print(
            f"\nFiles not used: {len(dataset.problems)}, listed in {dataset.directory / 'problems.csv'}"
        )
        for reason, count in reasons[:_SHOWN_REASONS]:
            out.print(f"  {count:>6}  {reason}")
        if len(reasons) > _SHOWN_REASONS:
            out.print(f"  and {len(reasons) - _SHOWN_REASONS} other reasons")
    for note in dataset.notes:
        out.print(f"Note: {note}")
    out.print(f"\nData set: {dataset.directory}   images: {dataset.root}")


def print_audit(dataset: Dataset, audit: Mapping[str, Any]) -> None:
    """Images per class and part, and the findings, worst first."""
    from rich.table import Table
    from rich.text import Text

    _print_counts(f"{dataset.name}: audit", "publisher", dataset.by_publisher_split())
    findings = Table.grid(padding=(0, 2))
    for finding in audit["findings"]:
        style = _SEVERITY_STYLES.get(finding["severity"], "")
        findings.add_row(Text(finding["severity"], style), Text(finding["text"]))
    console().print(findings if audit["findings"] else "Nothing to warn of.")


def print_clusters(found: Mapping[str, Any]) -> None:
    """Images and classes per cluster, what sets each apart, and how well acquisition tells the class."""
    from rich.table import Table

    from pneumoscope.data.acquisition import SOURCES

    table = Table("cluster", "images", "classes", "what sets it apart (median here, elsewhere)")
    for item in found["clusters"]:
        classes = ", ".join(
            f"{label} {count:,} ({count / item['films']:.0%})" for label, count in item["classes"].items()
        )
        telling = "; ".join(
            f"{one['title']} {one['here']:.3g}, {one['elsewhere']:.3g}" for one in item["telling"][:3]
        )
        table.add_row(str(item["cluster"]), f"{item['films']:,}", classes, telling)
    console().print(table)
    for name, score in found["auc"].items():
        console().print(
            f"pneumonia told from normal by {SOURCES[name]}: AUC {score['value']:.3f} "
            f"({score['low']:.3f} to {score['high']:.3f})"
        )


def print_split(dataset: Dataset, split: Split) -> None:
    """Images per class and part, and remarks."""
    parts = {part: split.samples(dataset, part) for part in split.names}
    _print_counts(f"Split '{split.name}' ({split.method}, seed {split.seed})", "part", parts)
    for note in split.notes:
        console().print(f"Note: {note}")


def print_next(*commands: str) -> None:
    """Say what can be done next."""
    console().print("\nNext:")
    for command in commands:
        console().print(f"  {command}")


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


def _print_counts(title: str, header: str, parts: dict[str, Any]) -> None:
    """A table with one row a part and a sum."""
    from rich.table import Table

    from pneumoscope.data.dataset import count_labels, describe_samples

    everything = [sample for films in parts.values() for sample in films]
    labels = list(count_labels(everything))
    table = Table(title=title, title_justify="left")
    table.add_column(header)
    for column in (*labels, "images", "patients"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = [*parts.items(), ("all", everything)] if len(parts) > 1 else list(parts.items())
    for part, films in rows:
        counts = describe_samples(films)
        shown = [
            f"{counts['classes'].get(label, 0):,} ({counts['classes'].get(label, 0) / counts['films']:.0%})"
            for label in labels
        ]
        table.add_row(part, *shown, f"{counts['films']:,}", f"{counts['patients']:,}")
    console().print(table)
