"""The two recipes of a release check, and their networks: a candidate, and a plain fine-tune beside it.

Each part of the check is a cross-validation, or some folds of one, run once a recipe in a folder of its own.
A stopped check goes on in the same folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pneumoscope.core.errors import BundleError, InputError
from pneumoscope.core.files import sha256_file
from pneumoscope.core.records import Sample
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.predictions import PredictionTable, read_predictions
from pneumoscope.evaluation.release import ReleaseConfig
from pneumoscope.evaluation.scoring import check_leakage, leakage_error
from pneumoscope.inference.bundle import Bundle, load_bundle
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.cross_validation import Folds, cross_validate
from pneumoscope.learning.loop import TrainingListener

SHARED = (
    "network", "dense_layers", "task", "init", "size", "epochs", "patience", "batch_size", "optimiser",
    "learning_rate", "schedule", "warmup", "seed", "deterministic", "accelerator", "devices", "strategy",
    "precision", "threads", "default_operating_point", "costs",
)  # fmt: skip
"""What the plain recipe takes over: network, weights, input, budget, machine. All else is at its default."""

_KNOWN_INITS = ("auto", "hub", "random")


@dataclass(frozen=True, slots=True)
class Recipes:
    """What is compared: the recipe of a bundle, and the plain one of the same budget."""

    candidate: TrainConfig
    plain: TrainConfig

    @property
    def named(self) -> Mapping[str, TrainConfig]:
        """Both by the name of their folder."""
        return {"candidate": self.candidate, "plain": self.plain}

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Both as plain values; weights by their name, not by their place on one machine."""
        return {
            name: {**config.model_dump(mode="json"), "init": Path(config.init).name}
            for name, config in self.named.items()
        }


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the check: the folder's name below each recipe's, and what is tested."""

    name: str
    folds: Folds


@dataclass(frozen=True)
class Trained:
    """A network of one recipe, and its answers about the images that it was not trained on."""

    bundle: Bundle
    table: PredictionTable


@dataclass(frozen=True)
class TrainedPair:
    """Both recipes, trained on the same images and tested on the same others.

    Attributes:
        name: ``<part>/fold-<number>``, the folder below each recipe's; facts: what both share.
    """

    name: str
    candidate: Trained
    plain: Trained
    facts: Mapping[str, Any]


def recipes_of(bundle: Bundle, config: ReleaseConfig) -> Recipes:
    """The recipe that ``bundle`` says it was trained by, and the plain one beside it.

    Raises:
        BundleError: it does not say, says it in keys that this version does not know, or names weights that
            lie elsewhere.
    """
    values = bundle.document["training"].get("config")
    if not isinstance(values, Mapping) or not values:
        raise BundleError(
            "does not say how it was trained",
            where=bundle.id,
            expected="'training.config' in bundle.json",
            remedy="train it again, or give a bundle that 'pneumoscope train' wrote",
        )
    given = config.model_dump(include={"init", "accelerator", "threads"}, exclude_none=True)
    try:
        candidate = TrainConfig(**{**values, **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"its training configuration cannot be used: '{key}': {first['msg']}",
            where=bundle.id,
            remedy="use the release of pneumoscope that trained the bundle",
        ) from error
    if candidate.init not in _KNOWN_INITS and not Path(candidate.init).exists():
        raise BundleError(
            f"it was trained from the weights '{candidate.init}', which are not here",
            where=bundle.id,
            expected="the file or folder of these weights",
            remedy="name it with --init",
        )
    return Recipes(candidate, plain_recipe(candidate))


def plain_recipe(candidate: TrainConfig) -> TrainConfig:
    """A plain fine-tune: network, weights and budget of ``candidate``, and nothing that is special."""
    shared = {key: value for key, value in candidate.model_dump().items() if key in SHARED}
    return TrainConfig(**shared, name="plain")


def train_part(
    dataset: Dataset,
    recipes: Recipes,
    directory: Path,
    part: Part,
    listener: TrainingListener | None = None,
) -> tuple[TrainedPair, ...]:
    """Train and test both recipes on the folds of ``part``, or read what was trained before.

    Args:
        dataset: all images.
        recipes: what is compared.
        directory: of the check; the runs lie in ``<recipe>/<part>/fold-<number>``.
        part: which images are tested.
        listener: told of stages, steps and epochs.

    Raises:
        ConfigError: a folder holds another run.
        InputError: the two did not learn from the same images, or did not start from the same weights.
        LeakageError: a network knew a tested image or its patient.
    """
    for name, config in recipes.named.items():
        if listener:
            listener.stage(f"{part.name}: the {name} recipe")
        cross_validate(dataset, config, directory / name / part.name, part.folds, listener)
    samples = {sample.path: sample for sample in dataset.samples}
    return tuple(
        _read_pair(directory, f"{part.name}/fold-{number}", samples) for number in part.folds.numbers
    )


def _read_pair(directory: Path, name: str, samples: Mapping[str, Sample]) -> TrainedPair:
    runs = [directory / recipe / name for recipe in ("candidate", "plain")]
    first, second = (
        Trained(load_bundle(run / "bundle"), read_predictions(run / "predictions" / "test.csv"))
        for run in runs
    )
    for run, one in zip(runs, (first, second), strict=True):
        refuse_leaks(one.bundle, [samples[path] for path in one.table.paths])
        _refuse_other(run, one.bundle, first.bundle)
    hashes = [sha256_file(run / "split.csv") for run in runs]
    if hashes[0] != hashes[1]:
        raise InputError(
            "the two recipes were trained on other images",
            where=runs[1],
            expected=f"the images of {runs[0] / 'split.csv'}",
            remedy="start the check in a new folder",
        )
    training = first.bundle.document["training"]
    facts = {
        "name": name,
        "counts": dict(training["counts"]),
        "tested": len(first.table),
        "images": hashes[0],
        "initial_weights": training["initial_weights"],
    }
    return TrainedPair(name, first, second, facts)


def refuse_leaks(bundle: Bundle, samples: list[Sample]) -> None:
    """Make sure that ``bundle`` has not learnt from ``samples`` or their patients.

    Raises:
        LeakageError: it has.
    """
    if leaks := check_leakage(bundle.document, samples):
        raise leakage_error(leaks, len(samples))


def _refuse_other(run: Path, bundle: Bundle, first: Bundle) -> None:
    """Make sure that two networks saw the same images and started from the same weights."""
    mine, others = bundle.document["training"], first.document["training"]
    for key, what in (("films", "were trained on other images"), ("initial_weights", "start differently")):
        if mine[key] != others[key]:
            raise InputError(
                f"the two recipes {what}",
                where=run,
                expected="the same for both",
                remedy="start the check in a new folder",
            )
