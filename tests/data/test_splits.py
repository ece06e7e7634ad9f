"""A split parts no patient and no duplicates, keeps the class shares, and says when it cannot."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumoscope.core.config import load_config
from pneumoscope.core.errors import ConfigError, DatasetError
from pneumoscope.core.records import Label, Sample
from pneumoscope.data.duplicates import DuplicateGroup
from pneumoscope.data.splits import (
    Split,
    SplitConfig,
    hold_out,
    hold_out_images,
    split_dataset,
    split_file,
)
from tests.data.films import dataset_of, sample

LABELS = (Label.NORMAL, Label.BACTERIAL, Label.VIRAL)


def patients(count: int, seed: int = 0, most: int = 6) -> tuple[Sample, ...]:
    """``count`` patients with 1 to ``most`` images each; class by patient, mixed pneumonia is possible."""
    rng = np.random.default_rng(seed)
    films = []
    for number in range(count):
        label = LABELS[number % 3]
        for film in range(rng.integers(1, most + 1)):
            other = label is not Label.NORMAL and film and rng.random() < 0.2
            films.append(sample(f"{number}-{film}.png", f"p{number}", Label.VIRAL if other else label))
    return tuple(films)


def shares(samples: tuple[Sample, ...], split: Split) -> dict[tuple[str, str], float]:
    totals = Counter(s.label for s in samples)
    counts = Counter((split.parts[s.path], s.label) for s in samples)
    return {(part, str(label)): count / totals[label] for (part, label), count in counts.items()}


@given(
    count=st.integers(45, 90),
    seed=st.integers(0, 1000),
    method=st.sampled_from(["fractions", "k-fold"]),
    links=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=5),
)
def test_no_group_is_parted_and_every_film_has_one_part(
    count: int, seed: int, method: str, links: list[tuple[int, int]]
) -> None:
    # Ten and more patients of each class are linked with nobody: enough for every part, however it is drawn.
    samples = patients(count, seed, most=3)
    duplicates = [DuplicateGroup("exact", (f"{a}-0.png", f"{b}-0.png")) for a, b in links]
    config = load_config(SplitConfig, overrides={"method": method, "seed": seed, "folds": 4})
    split = split_dataset(dataset_of(samples), config, duplicates)
    assert set(split.parts) == {s.path for s in samples}
    assert len(split.names) == (3 if method == "fractions" else 4)
    by_group: dict[str, set[str]] = {}
    for s in samples:
        by_group.setdefault(s.group_id, set()).add(split.parts[s.path])
    assert all(len(parts) == 1 for parts in by_group.values())
    assert all(len({split.parts[path] for path in group.paths}) == 1 for group in duplicates)


def test_a_part_that_would_get_no_patient_is_an_error() -> None:
    samples = patients(15, 66, most=3)
    linked = [DuplicateGroup("exact", ("0-0.png", "14-0.png"))]
    with pytest.raises(DatasetError, match="no patient is left for test"):
        split_dataset(dataset_of(samples), SplitConfig(method="fractions"), linked)


def test_class_shares_are_near_the_wanted_ones() -> None:
    samples = patients(900)
    split = split_dataset(dataset_of(samples), SplitConfig())
    for (part, _), share in shares(samples, split).items():
        assert share == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}[part], abs=0.01)
    folds = split_dataset(dataset_of(samples), SplitConfig(method="k-fold"))
    assert folds.names == ("fold-0", "fold-1", "fold-2", "fold-3", "fold-4")
    assert all(share == pytest.approx(0.2, abs=0.01) for share in shares(samples, folds).values())


def test_patients_with_many_films_are_spread_over_the_parts() -> None:
    samples = patients(900)
    split = split_dataset(dataset_of(samples), SplitConfig())
    sizes = Counter(s.group_id for s in samples)
    means = {
        part: np.mean([sizes[g] for g in {s.group_id for s in samples if split.parts[s.path] == part}])
        for part in split.names
    }
    assert max(means.values()) - min(means.values()) < 0.5


def test_the_same_seed_gives_the_same_split_whatever_the_order_of_films() -> None:
    samples = patients(60)
    shuffled = list(samples)
    random.Random(1).shuffle(shuffled)
    first = split_dataset(dataset_of(samples), SplitConfig(seed=7))
    assert split_dataset(dataset_of(tuple(shuffled)), SplitConfig(seed=7)).parts == first.parts
    assert split_dataset(dataset_of(samples), SplitConfig(seed=8)).parts != first.parts


def test_a_small_set_has_every_class_in_every_part() -> None:
    samples = tuple(
        sample(f"{label}-{number}.png", f"{label}-{number}", label) for label in LABELS for number in range(3)
    )
    split = split_dataset(dataset_of(samples), SplitConfig())
    assert Counter((split.parts[s.path], s.label) for s in samples) == {
        (part, label): 1 for part in ("train", "validation", "test") for label in LABELS
    }


def test_too_few_patients() -> None:
    samples = (sample("a.png", "p"), sample("b.png", "p"), sample("c.png", "q"))
    with pytest.raises(DatasetError, match="2 patients cannot be split into 3 parts"):
        split_dataset(dataset_of(samples), SplitConfig())
    with pytest.raises(DatasetError, match="0 patients"):
        split_dataset(dataset_of(()), SplitConfig())


def test_a_part_of_no_share_is_left_out() -> None:
    config = SplitConfig(train=0.7, validation=0.3, test=0)
    assert split_dataset(dataset_of(patients(60)), config).names == ("train", "validation")


def test_shares_must_add_up() -> None:
    with pytest.raises(ConfigError, match=r"add up to 0\.9"):
        load_config(SplitConfig, overrides={"train": 0.7})


@given(
    count=st.integers(20, 60),
    seed=st.integers(0, 1000),
    link=st.tuples(st.integers(0, 19), st.integers(0, 19)),
)
def test_a_cluster_is_left_out_whole_and_no_patient_is_parted(
    count: int, seed: int, link: tuple[int, int]
) -> None:
    samples = patients(count, seed, most=4)
    rng = np.random.default_rng(seed)
    # Patients 0 to 17, two of each class a cluster, have all their images in it: a link takes at most one
    # patient out of a cluster, so each keeps normal and pneumonia images.
    number = {s.path: int(s.group_id[1:]) for s in samples}
    clusters = {
        path: n // 3 % 3 if n < 18 or rng.random() < 0.8 else int(rng.integers(3))
        for path, n in number.items()
    }
    duplicates = [DuplicateGroup("exact", tuple(f"{n}-0.png" for n in link))]
    split = split_dataset(
        dataset_of(samples), SplitConfig(method="leave-cluster-out"), duplicates, clusters=clusters
    )
    assert split.folds == ("fold-0", "fold-1", "fold-2")
    by_group: dict[str, set[str]] = {}
    for s in samples:
        part = split.parts[s.path]
        if part != "aside":
            assert part == f"fold-{clusters[s.path]}"
            by_group.setdefault(s.group_id, set()).add(part)
    assert all(len(parts) == 1 for parts in by_group.values())
    assert len({split.parts[path] for path in duplicates[0].paths} - {"aside"}) <= 1
    assert f"{Counter(split.parts.values())['aside']} images are set aside" in split.notes[1]


def test_most_films_of_a_patient_decide_and_a_tie_goes_to_the_lower_cluster() -> None:
    films = [(f"{label}-{cluster}", label, cluster) for label in LABELS for cluster in (0, 1)]
    samples = [sample(f"{name}.png", name, label) for name, label, _ in films]
    clusters = {f"{name}.png": cluster for name, _, cluster in films}
    for path, group, cluster in (
        ("a1", "a", 1),
        ("a2", "a", 1),
        ("a3", "a", 0),
        ("b1", "b", 1),
        ("b2", "b", 0),
    ):
        samples.append(sample(path, group))
        clusters[path] = cluster
    split = split_dataset(
        dataset_of(tuple(samples)), SplitConfig(method="leave-cluster-out"), clusters=clusters, name="c"
    )
    assert {path: split.parts[path] for path in ("a1", "a2", "a3", "b1", "b2")} == {
        "a1": "fold-1", "a2": "fold-1", "a3": "aside", "b1": "aside", "b2": "fold-0",
    }  # fmt: skip
    assert split.names == ("fold-0", "fold-1", "aside")


def test_a_cluster_of_one_class_cannot_be_left_out() -> None:
    samples = patients(12, most=1)
    clusters = {s.path: int(s.label is Label.NORMAL) for s in samples}
    config = SplitConfig(method="leave-cluster-out")
    with pytest.raises(DatasetError, match="cluster 0 of 2 does not hold both"):
        split_dataset(dataset_of(samples), config, clusters=clusters)
    with pytest.raises(ConfigError, match="no clusters"):
        split_dataset(dataset_of(samples), config)


def publisher(train: int, val: int, test: int) -> tuple[Sample, ...]:
    counts = {"train": train, "val": val, "test": test}
    return tuple(
        sample(f"{part}-{number}.png", f"{part}-{number // 2}", LABELS[number // 2 % 3], part)
        for part, count in counts.items()
        for number in range(count)
    )


def test_the_publishers_split_is_taken_over() -> None:
    samples = publisher(400, 120, 60)
    split = split_dataset(dataset_of(samples), SplitConfig(method="publisher"))
    assert Counter(split.parts.values()) == {"train": 400, "validation": 120, "test": 60}
    assert split.notes == ()


def test_a_validation_part_too_small_for_use_is_replaced() -> None:
    samples = publisher(400, 16, 60)
    split = split_dataset(dataset_of(samples), SplitConfig(method="publisher", seed=3))
    assert {path for path, part in split.parts.items() if part == "test"} == {
        s.path for s in samples if s.publisher_split == "test"
    }
    held = [s for s in samples if split.parts[s.path] == "validation"]
    assert len(held) == pytest.approx(41.6, abs=3)
    assert not {s.group_id for s in held} & {s.group_id for s in samples if split.parts[s.path] == "train"}
    assert "has 16 images, too few" in split.notes[0]
    assert "seed 3" in split.notes[0]


def test_no_publishers_split() -> None:
    with pytest.raises(DatasetError, match="no publisher's split"):
        split_dataset(dataset_of(patients(20)), SplitConfig(method="publisher"))
    with pytest.raises(DatasetError, match="no train part"):
        split_dataset(dataset_of(publisher(0, 0, 9)), SplitConfig(method="publisher"))


def test_hold_out_keeps_order_groups_and_links() -> None:
    samples = patients(90)
    rest, held = hold_out(samples, 0.2, 0, [("0-0.png", "1-0.png", "elsewhere.png")])
    assert list(rest) == [s for s in samples if s in set(rest)]
    assert sorted(s.path for s in (*rest, *held)) == sorted(s.path for s in samples)
    assert not {s.group_id for s in rest} & {s.group_id for s in held}
    assert len(held) / len(samples) == pytest.approx(0.2, abs=0.02)
    sides = [any(s.path == path for s in held) for path in ("0-0.png", "1-0.png")]
    assert sides[0] == sides[1]


def test_save_and_load(tmp_path: Path) -> None:
    dataset = dataset_of(publisher(40, 8, 10))
    split = split_dataset(dataset, SplitConfig(method="publisher"), name="theirs")
    file = split_file(tmp_path, "theirs")
    split.save(file)
    assert Split.load(file) == split
    assert file.read_text().splitlines()[1] == "path,part"
    assert [s.path for s in split.samples(dataset, "test")] == [f"test-{n}.png" for n in range(10)]


def test_a_split_of_other_films_or_parts_is_refused() -> None:
    dataset = dataset_of(patients(30))
    split = split_dataset(dataset, SplitConfig())
    with pytest.raises(DatasetError, match="no part fold-0"):
        split.samples(dataset, "train", "fold-0")
    first, *others = dataset.samples
    relabelled = dataset_of((replace(first, label=Label.PNEUMONIA), *others))
    with pytest.raises(DatasetError, match="other images"):
        split.samples(relabelled, "train")


@pytest.mark.parametrize("content", ["", "path,part\na,train\n", "# {}\npath,part\n", "# {not json"])
def test_a_damaged_split(tmp_path: Path, content: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(content)
    with pytest.raises(DatasetError, match="not a split"):
        Split.load(file)
    with pytest.raises(DatasetError, match="no such split"):
        Split.load(tmp_path / "none.csv")


@pytest.mark.parametrize("name", ["", "../x", "a/b"])
def test_a_name_that_is_no_file_name(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a split"):
        split_file(Path("d"), name)


def test_images_are_held_out_with_their_patients_and_copies() -> None:
    samples = tuple(
        sample(f"{patient}-{film}.png", f"p{patient}", Label.NORMAL)
        for patient in range(4)
        for film in range(2)
    )
    dataset = dataset_of(samples)
    found = hold_out_images(dataset, ["0-0.png"], [("0-1.png", "2-0.png")], name="contrary", seed=3)
    parts = {"0-0.png": "fold-0", "0-1.png": "aside", "2-0.png": "aside", "2-1.png": "aside"}
    rest = dict.fromkeys(("1-0.png", "1-1.png", "3-0.png", "3-1.png"), "fold-1")
    assert found.parts == parts | rest
    assert (found.name, found.method, found.seed) == ("contrary", "contrary", 3)
    assert found.folds == ("fold-0", "fold-1")
