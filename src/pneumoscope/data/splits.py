"""Train/validation/test splits and cross-validation folds: by patient, stratified, duplicates together.

Images that share ``Sample.group_id``, and images of one duplicate group, are one *block*; a block is never
parted. Blocks are placed one by one, large ones first, where the class counts then lie nearest to the wanted
ones (chi-square distance); the order of equals comes from the seed and not from the order of the images.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pneumoscope.core.config import Config
from pneumoscope.core.errors import ConfigError, DatasetError
from pneumoscope.core.files import write_text
from pneumoscope.core.records import Label, Progress, Sample
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.duplicates import DuplicateGroup, find_duplicates

ASIDE = "aside"
"""The part of images that a split neither trains on nor tests."""


def assign_parts(
    samples: Sequence[Sample], shares: Mapping[str, float], seed: int, linked: Iterable[Sequence[str]]
) -> dict[str, str]:
    """The part of each image by its path.

    Args:
        samples: images.
        shares: wanted share of each part; a part of share 0 gets no image.
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
            remedy="ask for fewer parts or import more images",
        )
    counts = _class_counts(ordered, blocks)
    chosen = _place(counts, wanted_shares, np.random.default_rng(seed))
    empty = set(range(len(names))) - set(chosen.tolist())
    if empty:
        raise DatasetError(
            f"no patient is left for {', '.join(names[part] for part in sorted(empty))}",
            expected="patients of a similar number of images",
            remedy="ask for fewer parts or import more images",
        )
    return {sample.path: names[chosen[block]] for sample, block in zip(ordered, blocks, strict=True)}


def assign_to_clusters(
    samples: Sequence[Sample], clusters: Mapping[str, int], linked: Iterable[Sequence[str]]
) -> tuple[dict[str, str], int]:
    """A part for each image by its path: ``fold-<cluster>``, or ``aside``; and how many are set aside.

    A block goes to the cluster that holds most of its images, of equal numbers to the lower one. Its images
    of other clusters are set aside: trained on, they would show the network the cluster that it must not
    know; tested, they would not be of the cluster that is tested.

    Args:
        samples: images.
        clusters: number of the cluster by path.
        linked: groups of paths that must stay together besides those of one patient.

    Raises:
        DatasetError: a part would lack pneumonia or normal images, and could not be scored.
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
                f"cluster {cluster} of {counts.shape[1]} does not hold both normal and pneumonia images",
                expected="both in every part, so that each can be scored",
                remedy="ask for fewer folds",
            )
    names = [ASIDE if part < 0 else f"fold-{part}" for part in chosen.tolist()]
    parts = {sample.path: name for sample, name in zip(samples, names, strict=True)}
    return parts, names.count(ASIDE)


def film_blocks(samples: Sequence[Sample], linked: Iterable[Sequence[str]]) -> npt.NDArray[np.int64]:
    """Number of the block of each image, (N,): connected components of shared groups and duplicates."""
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
    """Images by block and label, (blocks, labels)."""
    labels = {label: index for index, label in enumerate(Label)}
    counts = np.zeros((blocks.max() + 1, len(labels)))
    np.add.at(counts, (blocks, np.array([labels[sample.label] for sample in samples])), 1)
    return counts[:, counts.sum(axis=0) > 0]


def _place(
    counts: npt.NDArray[np.float64], shares: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """The part of each block, (blocks,).

    Every block goes where it lowers sum((placed - wanted)^2 / wanted) most; at least one image of each class
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


TRAIN, VALIDATION, TEST = "train", "validation", "test"
_FOLDS = 5
_PUBLISHER_PARTS = {"train": TRAIN, "val": VALIDATION, "test": TEST}

# Below this the publisher's validation part cannot choose a threshold (the Guangzhou set's has 16 images).
_USABLE_VALIDATION = 100


class SplitConfig(Config):
    """How to split.

    ``fractions``: the three shares; ``k-fold``: ``folds`` equal parts; ``publisher``: the parts that the
    publisher gave, with a validation part carved out of train where it has none of use;
    ``leave-cluster-out``: a part for each of ``folds`` clusters of images that were acquired alike,
    or, without a number, for as many clusters as stand apart best.
    """

    method: Literal["fractions", "k-fold", "publisher", "leave-cluster-out"] = "fractions"
    train: float = Field(0.8, gt=0, le=1)
    validation: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.1, ge=0, lt=1)
    folds: int | None = Field(None, ge=2, le=100)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> SplitConfig:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test add up to {total:g}, not to 1")
        return self


@dataclass(frozen=True)
class Split:
    """Which image belongs to which part.

    Attributes:
        name: file name without ending; method, seed: how it was made.
        dataset_hash: of the manifest that was split.
        parts: part by ``Sample.path``: ``train``, ``validation``, ``test``, or ``fold-0`` ... ``fold-4``, or
            ``aside`` for an image of no part.
        notes: what a reader should know, as sentences; config: the whole configuration.
    """

    name: str
    method: str
    seed: int
    dataset_hash: str
    parts: Mapping[str, str]
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The parts that hold images, in the order train, validation, test or fold-0, fold-1, ..., aside."""
        order = {TRAIN: 0, VALIDATION: 1, TEST: 2, ASIDE: 4}
        found = set(self.parts.values())
        return tuple(sorted(found, key=lambda part: (order.get(part, 3), len(part), part)))

    @property
    def folds(self) -> tuple[str, ...]:
        """The parts that are folds of a cross-validation."""
        return tuple(name for name in self.names if name.startswith("fold-"))

    def samples(self, dataset: Dataset, *parts: str) -> tuple[Sample, ...]:
        """The images of ``parts``, in the data set's order.

        Raises:
            DatasetError: the split was made for other images, or has no such part.
        """
        if dataset.hash != self.dataset_hash:
            raise DatasetError(
                "the split was made for other images than the data set now holds",
                where=dataset.directory,
                expected=f"data set {self.dataset_hash[:12]}, found {dataset.hash[:12]}",
                remedy="split again with 'pneumoscope data split'",
            )
        unknown = set(parts) - set(self.names)
        if unknown:
            raise DatasetError(
                f"the split has no part {', '.join(sorted(unknown))}",
                where=self.name,
                expected=f"one of {', '.join(self.names)}",
            )
        return tuple(sample for sample in dataset.samples if self.parts[sample.path] in parts)

    def save(self, file: Path) -> None:
        """Write a CSV ``path,part`` behind one comment line of JSON."""
        header = {
            "name": self.name,
            "method": self.method,
            "seed": self.seed,
            "dataset_hash": self.dataset_hash,
            "notes": self.notes,
            "config": self.config,
        }
        text = io.StringIO(newline="")
        text.write(f"# {json.dumps(header, ensure_ascii=False)}\n")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("path", "part"))
        writer.writerows(sorted(self.parts.items()))
        write_text(file, text.getvalue())

    @classmethod
    def load(cls, file: Path) -> Split:
        """Read what :meth:`save` wrote.

        Raises:
            DatasetError: the file is missing or damaged.
        """
        try:
            text = Path(file).read_text(encoding="utf-8")
            first, _, rest = text.partition("\n")
            header = json.loads(first.removeprefix("# "))
            parts = {row["path"]: row["part"] for row in csv.DictReader(io.StringIO(rest, newline=""))}
            return cls(**{**header, "notes": tuple(header["notes"])}, parts=parts)
        except FileNotFoundError as error:
            raise DatasetError(
                "no such split", where=file, remedy="make one with 'pneumoscope data split'"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"not a split ({error})", where=file, remedy="split again") from error


def split_file(dataset_directory: Path, name: str = "default") -> Path:
    """Where the split ``name`` of a data set lies.

    Raises:
        ConfigError: ``name`` cannot be a file name.
    """
    if not name or Path(name).name != name:
        raise ConfigError(f"'{name}' cannot name a split", expected="a name without slashes")
    return Path(dataset_directory) / "splits" / f"{name}.csv"


def split_dataset(
    dataset: Dataset,
    config: SplitConfig,
    duplicates: Iterable[DuplicateGroup] | None = None,
    *,
    name: str = "default",
    clusters: Mapping[str, int] | None = None,
) -> Split:
    """Split ``dataset``.

    Args:
        dataset: whose images.
        config: method, shares and seed.
        duplicates: groups of images that must stay together, besides those of one patient.
        name: the split's name.
        clusters: number of the acquisition cluster by path, for ``leave-cluster-out``.

    Raises:
        DatasetError: too few patients for the parts, no publisher's split to take over, or a cluster of one
            class.
        ConfigError: ``leave-cluster-out`` without clusters.
    """
    linked = [group.paths for group in duplicates or ()]
    notes: tuple[str, ...] = ()
    if config.method == "publisher":
        parts, notes = _publisher_parts(dataset.samples, config, linked)
    elif config.method == "k-fold":
        folds = config.folds or _FOLDS
        shares = {f"fold-{number}": 1 / folds for number in range(folds)}
        parts = assign_parts(dataset.samples, shares, config.seed, linked)
    elif config.method == "leave-cluster-out":
        parts, notes = _cluster_parts(dataset.samples, clusters, linked)
    else:
        shares = {TRAIN: config.train, VALIDATION: config.validation, TEST: config.test}
        parts = assign_parts(dataset.samples, shares, config.seed, linked)
    return Split(name, config.method, config.seed, dataset.hash, parts, notes, config.model_dump())


def load_or_split(dataset: Dataset, name: str, progress: Progress | None = None) -> Split:
    """The stored split ``name``; the split ``default`` is made with the default settings where it is missing.

    Raises:
        DatasetError: there is no split of that name, or too few patients to make the default one.
    """
    file = split_file(dataset.directory, name)
    if name != "default" or file.exists():
        return Split.load(file)
    split = split_dataset(dataset, SplitConfig(), find_duplicates(dataset, progress=progress), name=name)
    split.save(file)
    return split


def hold_out(
    samples: Sequence[Sample], fraction: float, seed: int, linked: Iterable[Sequence[str]] = ()
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Part ``samples`` into (rest, held) by patient, stratified; ``held`` gets about ``fraction`` of them.

    Args:
        samples: images.
        fraction: wanted share of ``held``, in (0, 1).
        seed: of the order of equals.
        linked: groups of paths that must stay together besides those of one patient.

    Raises:
        DatasetError: too few patients.
    """
    parts = assign_parts(samples, {"rest": 1 - fraction, "held": fraction}, seed, linked)
    return (
        tuple(sample for sample in samples if parts[sample.path] == "rest"),
        tuple(sample for sample in samples if parts[sample.path] == "held"),
    )


def hold_out_images(
    dataset: Dataset, held: Iterable[str], linked: Iterable[Sequence[str]] = (), *, name: str, seed: int
) -> Split:
    """A split whose ``fold-0`` are the images ``held`` and whose ``fold-1`` are those of other patients.

    The other images of their patients, and copies of them, are set aside: neither tested nor trained on.

    Args:
        dataset: whose images.
        held: paths.
        linked: groups of paths that must stay together besides those of one patient.
        name: of the split, and its method.
        seed: how ``held`` was found.
    """
    paths = [sample.path for sample in dataset.samples]
    wanted = frozenset(held)
    chosen = np.array([path in wanted for path in paths], dtype=bool)
    blocks = film_blocks(dataset.samples, linked)
    touched = np.isin(blocks, blocks[chosen])
    names = np.where(chosen, "fold-0", np.where(touched, ASIDE, "fold-1")).tolist()
    notes = (f"{names.count(ASIDE)} images are set aside: others of the patients that are held out",)
    return Split(name, name, seed, dataset.hash, dict(zip(paths, names, strict=True)), notes)


def _cluster_parts(
    samples: Sequence[Sample], clusters: Mapping[str, int] | None, linked: Sequence[Sequence[str]]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """A part for each acquisition cluster."""
    if clusters is None:
        raise ConfigError(
            "no clusters to leave out", remedy="give the clusters that cluster_dataset finds in these images"
        )
    parts, aside = assign_to_clusters(samples, clusters, linked)
    return parts, (
        "each part is a cluster of images that were taken and processed alike; its class shares are its own, "
        "not those of the data set",
        f"{aside} images are set aside, because most images of their patient are in another cluster",
    )


def _publisher_parts(
    samples: Sequence[Sample], config: SplitConfig, linked: Sequence[Sequence[str]]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The publisher's parts, with a validation part of use."""
    unknown = [sample.path for sample in samples if sample.publisher_split not in _PUBLISHER_PARTS]
    if unknown:
        raise DatasetError(
            f"{len(unknown)} images have no publisher's split, the first is {unknown[0]}",
            expected="train, val or test for every image",
            remedy="use --method fractions",
        )
    parts = {sample.path: _PUBLISHER_PARTS[str(sample.publisher_split)] for sample in samples}
    counts = Counter(parts.values())
    if not counts[TRAIN]:
        raise DatasetError("the publisher's split has no train part", remedy="use --method fractions")
    notes = [] if counts[TEST] else ["the publisher's split has no test part here"]
    if counts[VALIDATION] < _USABLE_VALIDATION and config.validation > 0:
        pool = [sample for sample in samples if parts[sample.path] != TEST]
        _, held = hold_out(pool, config.validation, config.seed, linked)
        held_paths = {sample.path for sample in held}
        parts.update((sample.path, VALIDATION if sample.path in held_paths else TRAIN) for sample in pool)
        notes.append(
            f"the publisher's validation part has {counts[VALIDATION]} images, too few to choose a "
            f"threshold: it was folded into train, and {len(held)} images were held out from train by "
            f"patient (seed {config.seed})"
        )
    return parts, tuple(notes)
