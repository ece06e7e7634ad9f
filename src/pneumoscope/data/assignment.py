"""Films into parts of wanted shares, blocks whole and classes even.

In: films, shares, a seed, and groups of films that belong together. Out: a part for every film.

Films that share ``Sample.group_id``, and films in one linked group, are one *block*; a block is never
parted. Blocks are placed one by one, large ones first, where the class counts then lie nearest to the wanted
ones (chi-square distance); the order of equals comes from the seed and not from the order of the films.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.records import Label, Sample

ASIDE = "aside"
"""The part of films that a split neither trains on nor tests."""


def assign_parts(
    samples: Sequence[Sample], shares: Mapping[str, float], seed: int, linked: Iterable[Sequence[str]]
) -> dict[str, str]:
    """The part of each film by its path.

    Args:
        samples: films.
        shares: wanted share of each part; a part of share 0 gets no film.
        seed: of the order of equals.
        linked: groups of paths that must stay together besides those of one patient.

    Raises:
        DatasetError: too few patients for the parts.
    """
    names = [name for name, share in shares.items() if share > 0]
    wanted_shares = np.array([shares[name] for name in names])
    ordered = sorted(samples, key=lambda sample: sample.path)
    blocks = film_blocks(ordered, linked)
    if blocks.max(initial=-1) + 1 < len(names):
        raise DatasetError(
            f"{blocks.max(initial=-1) + 1} patients cannot be split into {len(names)} parts",
            expected="at least one patient a part",
            remedy="ask for fewer parts or import more films",
        )
    counts = _class_counts(ordered, blocks)
    chosen = _place(counts, wanted_shares, np.random.default_rng(seed))
    empty = set(range(len(names))) - set(chosen.tolist())
    if empty:
        raise DatasetError(
            f"no patient is left for {', '.join(names[part] for part in sorted(empty))}",
            expected="patients of a similar number of films",
            remedy="ask for fewer parts or import more films",
        )
    return {sample.path: names[chosen[block]] for sample, block in zip(ordered, blocks, strict=True)}


def assign_to_clusters(
    samples: Sequence[Sample], clusters: Mapping[str, int], linked: Iterable[Sequence[str]]
) -> tuple[dict[str, str], int]:
    """A part for each film by its path: ``fold-<cluster>``, or ``aside``; and how many are set aside.

    A block goes to the cluster that holds most of its films, of equal numbers to the lower one. Its films of
    other clusters are set aside: trained on, they would show the network the cluster that it must not know;
    tested, they would not be of the cluster that is tested.

    Args:
        samples: films.
        clusters: number of the cluster by path.
        linked: groups of paths that must stay together besides those of one patient.

    Raises:
        DatasetError: a part would lack pneumonia or normal films, and could not be scored.
    """
    blocks = film_blocks(samples, linked)
    own = np.array([clusters[sample.path] for sample in samples])
    counts = np.zeros((blocks.max(initial=-1) + 1, own.max(initial=-1) + 1))
    np.add.at(counts, (blocks, own), 1)
    chosen = np.where(counts.argmax(axis=1)[blocks] == own, own, -1)
    normal = np.array([sample.label is Label.NORMAL for sample in samples])
    for cluster in range(counts.shape[1]):
        if len(np.unique(normal[chosen == cluster])) < 2:
            raise DatasetError(
                f"cluster {cluster} of {counts.shape[1]} does not hold both normal and pneumonia films",
                expected="both in every part, so that each can be scored",
                remedy="ask for fewer folds",
            )
    names = [ASIDE if part < 0 else f"fold-{part}" for part in chosen.tolist()]
    parts = {sample.path: name for sample, name in zip(samples, names, strict=True)}
    return parts, names.count(ASIDE)


def film_blocks(samples: Sequence[Sample], linked: Iterable[Sequence[str]]) -> npt.NDArray[np.int64]:
    """Number of the block of each film, (N,): connected components of shared groups and duplicates."""
    row = {sample.path: index for index, sample in enumerate(samples)}
    groups: dict[str, int] = {}
    edges = [(index, groups.setdefault(sample.group_id, index)) for index, sample in enumerate(samples)]
    for paths in linked:
        present = [row[path] for path in paths if path in row]
        edges += [(present[0], other) for other in present[1:]]
    if not edges:
        return np.zeros(0, np.int64)
    ends = np.array(edges).T
    graph = coo_array(
        (np.ones(ends.shape[1], np.int8), (ends[0], ends[1])), shape=(len(samples), len(samples))
    )
    _, component = connected_components(graph, directed=False)
    return np.asarray(component, np.int64)


def _class_counts(samples: Sequence[Sample], blocks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Films by block and label, (blocks, labels)."""
    labels = {label: index for index, label in enumerate(Label)}
    counts = np.zeros((blocks.max() + 1, len(labels)))
    np.add.at(counts, (blocks, np.array([labels[sample.label] for sample in samples])), 1)
    return counts[:, counts.sum(axis=0) > 0]


def _place(
    counts: npt.NDArray[np.float64], shares: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """The part of each block, (blocks,).

    Every block goes where it lowers sum((placed - wanted)^2 / wanted) most; at least one film of each class
    is wanted in every part, so that small sets do not leave a part without a class.
    """
    wanted = np.maximum(shares[:, None] * counts.sum(axis=0), 1.0)
    placed = np.zeros_like(wanted)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    chosen = np.zeros(len(counts), np.int64)
    for block in order:
        change = (counts[block] * (counts[block] + 2 * (placed - wanted)) / wanted).sum(axis=1)
        part = int(np.argmin(change))
        placed[part] += counts[block]
        chosen[block] = part
    return chosen
