"""The acquisition clusters as files and as a page: which films were taken alike, and what that gives away.

In: clusters with their description, the data set, and the cache that they were measured on. Out: a folder
with ``acquisition.json``, ``clusters.csv`` (path, sha256, cluster) and ``acquisition.html``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pneumoscope.core.files import write_json, write_table, write_text
from pneumoscope.core.records import Label, Sample
from pneumoscope.data.acquisition import SOURCES, Clusters
from pneumoscope.data.cache import PixelCache
from pneumoscope.data.dataset import Dataset
from pneumoscope.reporting.audit_figures import sheet, shortcut_chart
from pneumoscope.reporting.figures import class_balance, svg
from pneumoscope.reporting.pages import render

_COLUMNS = 6  # films of each class in a cluster's sheet


def write_acquisition(
    found: Mapping[str, Any], dataset: Dataset, clusters: Clusters, cache: PixelCache, directory: Path
) -> Path:
    """Write everything into ``directory`` and return the page.

    Args:
        found: what ``describe_clusters`` returned.
        dataset, clusters, cache: what it was found in.
        directory: made when it is missing.
    """
    write_json(directory / "acquisition.json", found)
    members = zip(dataset.samples, clusters.members.tolist(), strict=True)
    rows = [{"path": s.path, "sha256": s.sha256, "cluster": member} for s, member in members]
    write_table(directory / "clusters.csv", rows)
    page = directory / "acquisition.html"
    balance = {f"cluster {item['cluster']}": item["classes"] for item in found["clusters"]}
    chart = [(SOURCES[name], score) for name, score in found["auc"].items()]
    write_text(
        page,
        render(
            "acquisition.html",
            found=found,
            best=found["auc"].get("all"),
            balance=svg(class_balance(balance)),
            chart=svg(shortcut_chart(chart)) if chart else None,
            sheets=[_sheet(dataset.samples, clusters, cache, item["cluster"]) for item in found["clusters"]],
        ),
    )
    return page


def _sheet(
    samples: Sequence[Sample], clusters: Clusters, cache: PixelCache, number: int
) -> tuple[bytes, list[str]]:
    """Films of a cluster drawn at random, a row a class, and the classes in the order of the rows."""
    rng = np.random.default_rng(number)
    inside = [s for s, member in zip(samples, clusters.members, strict=True) if member == number]
    rows, names = [], []
    for label in Label:
        own = [sample for sample in inside if sample.label is label]
        if own:
            chosen = rng.choice(len(own), min(_COLUMNS, len(own)), replace=False)
            films = cache.pixels[cache.rows([own[index] for index in chosen])]
            empty = np.full((_COLUMNS - len(films), *films.shape[1:]), 255, np.uint8)
            rows.append(np.concatenate([films, empty]))
            names.append(label.value)
    return sheet(np.concatenate(rows), _COLUMNS), names
