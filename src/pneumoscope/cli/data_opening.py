"""What several ``data`` commands begin with: the data set, its duplicates, its clusters, its split.

In: what the command line named. Out: what is stored, or what is found or made now, with a progress bar.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pneumoscope.cli.terminal import notes, progress_bar

if TYPE_CHECKING:
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.data.duplicates import DuplicateGroup
    from pneumoscope.data.splits import Split, SplitConfig


def open_dataset(path: Path) -> Dataset:
    """The data set at ``path``; a folder of films is imported into ``datasets/`` first."""
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.data.importers import open_or_import

    if (path / "dataset.json").is_file():
        return Dataset.open(path)
    with progress_bar("Opening films") as progress:
        dataset = open_or_import(path, progress=progress)
    notes().print(f"Using the data set {dataset.directory}")
    return dataset


def duplicates_of(dataset: Dataset) -> tuple[DuplicateGroup, ...]:
    """Groups of duplicates, stored or found now."""
    from pneumoscope.data.duplicates import find_duplicates, load_duplicates

    stored = load_duplicates(dataset)
    if stored is not None:
        return stored
    with progress_bar("Looking for duplicates") as progress:
        return find_duplicates(dataset, progress=progress)


def clusters_of(dataset: Dataset, config: SplitConfig) -> dict[str, int]:
    """The acquisition cluster of each film by its path."""
    from pneumoscope.data.acquisition import cluster_dataset

    with progress_bar("Measuring films") as progress:
        clusters, _ = cluster_dataset(dataset, config.folds, seed=config.seed, progress=progress)
    paths = (sample.path for sample in dataset.samples)
    return dict(zip(paths, clusters.members.tolist(), strict=True))


def split_of(dataset: Dataset, name: str) -> Split:
    """The split ``name``; the default one is made when it is not there."""
    from pneumoscope.data.splits import Split, SplitConfig, split_dataset, split_file

    file = split_file(dataset.directory, name)
    if name != "default" or file.exists():
        return Split.load(file)
    split = split_dataset(dataset, SplitConfig(), duplicates_of(dataset), name=name)
    split.save(file)
    return split
