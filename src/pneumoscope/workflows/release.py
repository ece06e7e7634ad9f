"""Release check: may a bundle's recipe be released, or does it do harm where images differ from the training?

The recipe and a plain fine-tune are trained on the same images with the same budget, and answer images that
differ: acquisition clusters that were left out, contrary images, changed images, the same radiographs at
another size, other hospitals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pneumoscope.core.errors import BundleError, ConfigError, DatasetError, InputError
from pneumoscope.core.files import sha256_file, write_json, write_table
from pneumoscope.core.records import Label, Sample
from pneumoscope.core.run_manifest import RunManifest, library_versions
from pneumoscope.data.acquisition import ACQUISITION, cluster_dataset, contrary_images, measure_acquisition
from pneumoscope.data.cache import build_cache
from pneumoscope.data.duplicates import find_duplicates
from pneumoscope.data.splits import Split, SplitConfig, hold_out_images, split_dataset, split_file
from pneumoscope.evaluation.predictions import concatenate
from pneumoscope.evaluation.release import (
    SCHEMA_VERSION,
    Pair,
    ReleaseConfig,
    View,
    ViewKind,
    ViewName,
    conclude,
    judge,
    pair,
    share_changed,
    stress_views,
    worst_of,
)
from pneumoscope.evaluation.scoring import film_key, patient_key, predict_films
from pneumoscope.evaluation.stress import Examiner, StressPlan, choose_some, run_stress
from pneumoscope.imaging.stress import STRESSES, StressKind
from pneumoscope.inference.bundle import MODEL
from pneumoscope.learning.config import TrainConfig
from pneumoscope.reporting.release_page import view_rows, write_release_page
from pneumoscope.workflows.runs import (
    Result,
    StageProgress,
    configured,
    of_stage,
    open_bundle,
    open_dataset,
    require,
    result_directory,
)
from pneumoscope.workflows.training import LIBRARIES

if TYPE_CHECKING:
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.inference.bundle import Bundle
    from pneumoscope.learning.cross_validation import Folds
    from pneumoscope.learning.loop import TrainingListener
    from pneumoscope.learning.release_recipes import Recipes, TrainedPair


_LEFT_OUT = "left out with their patients"
_CONTRARY = {
    kind: ViewName(kind.value, title, kind, _LEFT_OUT)
    for kind, title in (
        (ViewKind.CONTRARY, "Contrary by acquisition"),
        (ViewKind.FRAMING, "Contrary by framing"),
    )
}
_LUNGS = TrainConfig(size=96, fit="lungs").preprocessing


@dataclass(frozen=True)
class ReleaseResult(Result):
    """``release.json``: both recipes on every view, and the verdict."""

    @property
    def released(self) -> bool:
        """Whether the candidate is nowhere worse than the plain recipe beyond the interval."""
        return self.document["verdict"] == "released"

    def rows(self) -> list[dict[str, Any]]:
        """One row per view."""
        return view_rows(self.document)


@dataclass(frozen=True, slots=True)
class _Job:
    bundle: Bundle
    dataset: Dataset
    recipes: Recipes
    twins: Dataset | None
    external: tuple[Dataset, ...]
    config: ReleaseConfig
    directory: Path
    listener: TrainingListener | None
    progress: StageProgress | None


def release_check(
    bundle: Bundle | Path | str,
    dataset: Dataset | Path | str,
    *,
    twins: Dataset | Path | str | None = None,
    external: Sequence[Dataset | Path | str] = (),
    output: Path | str | None = None,
    config: ReleaseConfig | Path | None = None,
    listener: TrainingListener | None = None,
    progress: StageProgress | None = None,
    **options: Any,
) -> ReleaseResult:
    """Train a bundle's recipe beside a plain fine-tune, and compare them on shifted views.

    Args:
        bundle: object, directory or name of a shipped one; its training configuration is the recipe.
        dataset: what it was trained on.
        twins: the same radiographs at another size, with the same file names.
        external: labelled images of other hospitals.
        output: folder of the runs and results; None: below ``runs``. A stopped check goes on.
        config, options: keys of :class:`ReleaseConfig`.
        listener: told of stages, steps and epochs of the trainings.
        progress: told of the other stages.

    Returns:
        The content of ``release.json``; the folder also gets a table and a page.

    Raises:
        BundleError: the bundle does not say how it was trained, or was trained on another data set.
        InputError: a data set is missing or cannot serve; nothing was trained yet.
    """
    require("the release check", *LIBRARIES)
    settings = configured(ReleaseConfig, config, options)
    opened, source, recipes = _open(bundle, dataset, settings, progress)
    others = tuple(open_dataset(one, progress) for one in external)
    for one in others:
        _check_external(one, source)
    copies = None if twins is None else open_dataset(twins, progress)
    if copies is not None:
        _twins_of(source.samples, copies)
    directory = result_directory(output, "release-check", source.name)
    job = _Job(opened, source, recipes, copies, others, settings, directory, listener, progress)
    return ReleaseResult(directory, _check(job))


def _check(job: _Job) -> dict[str, Any]:
    """Train, compare and write everything; return the content of ``release.json``."""
    manifest = RunManifest(
        job.directory, "release-check", job.config.model_dump(mode="json"), {"check": job.config.seed}
    )
    inputs = _inputs(job)
    for name, digest in inputs.items():
        manifest.add_input(name, digest)
    manifest.save()
    with manifest.stage("split"):
        parts, missing = _parts(job)
    with manifest.stage("train"):
        trained = _train(job, parts)
    with manifest.stage("score"):
        views, changes = _views(job, trained)
    document = _document(job, inputs, trained, (*views, *missing), changes)
    with manifest.stage("write"):
        write_json(job.directory / "release.json", document)
        write_table(job.directory / "release.csv", view_rows(document))
        write_release_page(document, job.directory)
    manifest.finish(verdict=document["verdict"], worse=document["worse"])
    return document


def _open(
    bundle: Bundle | Path | str,
    dataset: Dataset | Path | str,
    settings: ReleaseConfig,
    progress: StageProgress | None,
) -> tuple[Bundle, Dataset, Recipes]:
    """The bundle, its own data set, and the recipes."""
    from pneumoscope.learning.release_recipes import recipes_of

    if settings.run_folds > settings.folds:
        raise ConfigError(
            f"{settings.run_folds} of {settings.folds} folds", expected="not more than there are"
        )
    opened = open_bundle(bundle)
    recipes = recipes_of(opened, settings)
    source = open_dataset(dataset, progress)
    trained_on = opened.document["training"].get("dataset_hash")
    if trained_on != source.hash:
        raise BundleError(
            "the bundle was trained on another data set",
            where=f"{opened.id}, {source.directory}",
            expected=f"data set {str(trained_on)[:12]}, found {source.hash[:12]}",
            remedy="give the data set that it was trained on",
        )
    return opened, source, recipes


def _check_external(external: Dataset, dataset: Dataset) -> None:
    """Make sure that a set has both classes and nothing of the data set."""
    ill = {sample.label is not Label.NORMAL for sample in external.samples}
    if len(ill) < 2:
        raise DatasetError(
            f"holds only images {'with' if True in ill else 'without'} pneumonia",
            where=external.directory,
            expected="both, so that an AUC is defined",
            remedy="leave this set out",
        )
    films = {film_key(sample.sha256) for sample in dataset.samples}
    patients = {patient_key(sample.patient_id) for sample in dataset.samples}
    shared = [
        s.path for s in external.samples
        if film_key(s.sha256) in films or patient_key(s.patient_id) in patients
    ]  # fmt: skip
    if shared:
        raise DatasetError(
            f"{len(shared)} images or their patients are in the data set too, the first is {shared[0]}",
            where=external.directory,
            expected="images of other patients",
            remedy="where two sources merely use the same patient ids, import one with ids of its own",
        )


def _inputs(job: _Job) -> dict[str, str]:
    """Hashes by name; two external sets of one name are told apart by a number."""
    found = {
        "bundle": sha256_file(job.bundle.directory / MODEL),
        "dataset": job.dataset.hash,
    }
    if job.twins is not None:
        found["twins"] = job.twins.hash
    names = _external_names(job.external)
    return found | {f"external {name}": one.hash for name, one in zip(names, job.external, strict=True)}


def _external_names(external: Sequence[Dataset]) -> list[str]:
    names: list[str] = []
    for one in external:
        names.append(one.name if one.name not in names else f"{one.name} ({len(names) + 1})")
    return names


def _parts(job: _Job) -> tuple[dict[str, Folds], tuple[View, ...]]:
    """The trainings of the check by name, and views that these images do not allow."""
    from pneumoscope.learning.cross_validation import Folds

    config = job.config
    parts = {"fold": Folds(config.folds, tuple(range(config.run_folds)))}
    missing: list[View] = []
    if config.clusters != 0:
        split = _cluster_split(job)
        count = len(split.folds)
        if config.clusters is not None and config.clusters > count:
            raise ConfigError(
                f"{config.clusters} clusters asked for", where=split.name, expected=f"at most {count}"
            )
        parts["clusters"] = Folds(count, tuple(range(config.clusters or count)), split)
    for kind, wanted in ((ViewKind.CONTRARY, config.contrary), (ViewKind.FRAMING, config.framing)):
        if not wanted:
            continue
        held = _contrary_split(job, kind)
        if held is None:
            missing.append(_not_measured(_CONTRARY[kind]))
        else:
            parts[kind.value] = Folds(2, (0,), held)
    return parts, tuple(missing)


def _cluster_split(job: _Job) -> Split:
    """The stored leave-cluster-out split, or a new one of the clusters that stand apart best."""
    name, seed = job.config.clusters_split, job.config.seed
    file = split_file(job.dataset.directory, name)
    if file.is_file():
        split = Split.load(file)
        if split.method != "leave-cluster-out":
            raise ConfigError(f"the split '{name}' is of method {split.method}", expected="leave-cluster-out")
        return split
    found, _ = cluster_dataset(job.dataset, seed=seed, progress=of_stage(job.progress, "measuring images"))
    paths = [sample.path for sample in job.dataset.samples]
    clusters = dict(zip(paths, found.members.tolist(), strict=True))
    config = SplitConfig(method="leave-cluster-out", folds=found.count, seed=seed)
    try:
        split = split_dataset(job.dataset, config, find_duplicates(job.dataset), name=name, clusters=clusters)
    except DatasetError as error:
        raise DatasetError(
            error.problem,
            where=job.dataset.directory,
            expected=error.expected,
            remedy=f"make the split with fewer clusters ('pneumoscope data split --method leave-cluster-out "
            f"--folds 2 --name {name}'), or leave this view out with --clusters 0",
        ) from error
    split.save(file)
    return split


def _contrary_split(job: _Job, kind: ViewKind) -> Split | None:
    """Contrary images against all other patients; None where there are too few of either class to score.

    Args:
        job: whose images.
        kind: CONTRARY: the acquisition contradicts the label; FRAMING: place and size of the lungs do.
    """
    samples, seed = job.dataset.samples, job.config.seed
    reduced = ACQUISITION if kind is ViewKind.CONTRARY else _LUNGS
    cache = build_cache(job.dataset, reduced, progress=of_stage(job.progress, "decoding"))
    if kind is ViewKind.CONTRARY:
        progress = of_stage(job.progress, "measuring images")
        features = measure_acquisition(samples, cache, progress=progress).values
    else:
        features = cache.lung_shapes(samples)
    contrary = contrary_images(samples, features, seed=seed)
    if contrary is None:
        return None
    held = [s for s, is_contrary in zip(samples, contrary, strict=True) if is_contrary]
    task = job.recipes.candidate.task
    scored = [s for s in held if task.target(s.label) is not None]
    by_class = [
        {s.patient_id for s in scored if (s.label is Label.NORMAL) is normal} for normal in (True, False)
    ]
    if min(map(len, by_class)) < 2:
        return None
    linked = [group.paths for group in find_duplicates(job.dataset)]
    return hold_out_images(job.dataset, (s.path for s in held), linked, name=kind.value, seed=seed)


def _not_measured(name: ViewName) -> View:
    nobody = Pair(np.zeros(0, bool), (), np.zeros(0), np.zeros(0))
    return judge(name, nobody, ReleaseConfig())


def _train(job: _Job, parts: Mapping[str, Folds]) -> dict[str, tuple[TrainedPair, ...]]:
    from pneumoscope.learning.release_recipes import Part, train_part

    return {
        name: train_part(job.dataset, job.recipes, job.directory, Part(name, folds), job.listener)
        for name, folds in parts.items()
    }


def _views(
    job: _Job, trained: Mapping[str, tuple[TrainedPair, ...]]
) -> tuple[tuple[View, ...], tuple[View, ...]]:
    """All views, the ordinary fold first, and every change of the stress test."""
    fold = trained["fold"]
    ordinary = pair(concatenate(t.candidate.table for t in fold), concatenate(t.plain.table for t in fold))
    remark = f"{len(fold)} of {job.config.folds} folds by patient"
    views = [judge(ViewName("fold", "Ordinary fold", ViewKind.FOLD, remark), ordinary, job.config)]
    for number, one in enumerate(trained.get("clusters", ())):
        name = ViewName(
            f"cluster-{number}", f"Acquisition cluster {number}", ViewKind.CLUSTER, "left out of training"
        )
        views.append(judge(name, pair(one.candidate.table, one.plain.table), job.config))
    for name in _CONTRARY.values():
        for one in trained.get(name.key, ()):
            views.append(judge(name, pair(one.candidate.table, one.plain.table), job.config))
    changes = _stress(job, fold)
    views.append(worst_of(changes))
    if job.twins is not None:
        views.append(_twins(job, job.twins, fold))
    views += [
        _external(job, one, name, fold[0])
        for one, name in zip(job.external, _external_names(job.external), strict=True)
    ]
    return tuple(views), changes


def _stress(job: _Job, fold: Sequence[TrainedPair]) -> tuple[View, ...]:
    """Both recipes about the ordinary folds' images under every change that keeps the lungs."""
    by_path = {sample.path: sample for sample in job.dataset.samples}
    kept = tuple(stress for stress in STRESSES if stress.kind is not StressKind.PROBE)
    tables = []
    for recipe in ("candidate", "plain"):
        examiners = []
        for one in fold:
            trained = one.candidate if recipe == "candidate" else one.plain
            samples = tuple(by_path[path] for path in sorted(trained.table.paths))
            examiners.append(Examiner(one.name, trained.bundle, samples))
        plan = StressPlan(tuple(examiners), "out of fold", 0)
        if job.config.stress_films:
            plan = choose_some(plan, job.config.stress_films, job.config.seed)
        progress = of_stage(job.progress, f"stressing the {recipe} recipe")
        tables.append(run_stress(plan, job.dataset, seed=job.config.seed, stresses=kept, progress=progress))
    return stress_views(tables[0], tables[1], job.config)


def _twins_of(samples: Sequence[Sample], twins: Dataset) -> dict[str, Sample]:
    """The twin of each image by its path: the one image of ``twins`` with the same file name.

    Raises:
        InputError: no image has a twin, or a name is not unique, or a twin has another label.
    """
    named: dict[str, list[Sample]] = {}
    for twin in twins.samples:
        named.setdefault(Path(twin.path).stem, []).append(twin)
    found: dict[str, Sample] = {}
    stems: set[str] = set()
    for sample in samples:
        stem = Path(sample.path).stem
        if stem not in named:
            continue
        if len(named[stem]) > 1 or stem in stems:
            raise InputError(f"two images are called '{stem}'", where=twins.directory, expected="one")
        stems.add(stem)
        (found[sample.path],) = named[stem]
        if found[sample.path].label is not sample.label:
            raise InputError(
                f"{found[sample.path].path} is {found[sample.path].label}, its twin {sample.label}",
                where=twins.directory,
                expected="the same label",
            )
    if not found:
        raise InputError(
            "no image has a twin here",
            where=twins.directory,
            expected="images with the file names of the data set",
        )
    return found


def _twins(job: _Job, twins: Dataset, fold: Sequence[TrainedPair]) -> View:
    """Both recipes about the twins of the ordinary folds' images, and how many decisions the size changes."""
    from pneumoscope.learning.release_recipes import refuse_leaks

    of_path = _twins_of(job.dataset.samples, twins)
    name = ViewName("twins", "The same radiographs at another size", ViewKind.TWINS, twins.name)
    tables: dict[str, list[Any]] = {"candidate": [], "plain": []}
    changed: dict[str, list[Any]] = {"candidate": [], "plain": []}
    patients: list[str] = []
    for one in fold:
        paths = [path for path in sorted(one.candidate.table.paths) if path in of_path]
        if not paths:
            continue
        samples = [of_path[path] for path in paths]
        patients += [sample.patient_id for sample in samples]
        for recipe, trained in (("candidate", one.candidate), ("plain", one.plain)):
            refuse_leaks(trained.bundle, samples)
            cache = build_cache(twins, trained.bundle.preprocessing)
            table = predict_films(trained.bundle, cache, samples)
            rows = np.array([trained.table.paths.index(path) for path in paths])
            threshold = trained.bundle.default_operating_point.threshold
            before = trained.table.probability[rows] >= threshold
            tables[recipe].append(table)
            changed[recipe].append((table.probability >= threshold) != before)
    if not patients:
        return _not_measured(name)
    view = judge(name, pair(concatenate(tables["candidate"]), concatenate(tables["plain"])), job.config)
    shares = share_changed(
        np.concatenate(changed["candidate"]), np.concatenate(changed["plain"]), patients, job.config
    )
    return replace(view, changed=shares)


def _external(job: _Job, external: Dataset, name: str, one: TrainedPair) -> View:
    """Both recipes about all images of another source, by the networks of the first ordinary fold."""
    from pneumoscope.learning.release_recipes import refuse_leaks

    tables = []
    for trained in (one.candidate, one.plain):
        refuse_leaks(trained.bundle, list(external.samples))
        progress = of_stage(job.progress, f"decoding {name}")
        cache = build_cache(external, trained.bundle.preprocessing, progress=progress)
        tables.append(predict_films(trained.bundle, cache, external.samples))
    view = ViewName(f"external-{name}", f"External: {name}", ViewKind.EXTERNAL, "networks of the first fold")
    return judge(view, pair(*tables), job.config)


def _document(
    job: _Job,
    inputs: Mapping[str, str],
    trained: Mapping[str, tuple[TrainedPair, ...]],
    views: Sequence[View],
    changes: Sequence[View],
) -> dict[str, Any]:
    """The content of ``release.json``."""
    return {
        "schema_version": SCHEMA_VERSION,
        **conclude(views).to_dict(),
        "shortened": job.config.shortened,
        "bundle": job.bundle.id,
        "dataset": job.dataset.name,
        "inputs": dict(inputs),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": library_versions(),
        "config": {**job.config.model_dump(mode="json"), "init": _name_of(job.config.init)},
        "recipes": job.recipes.to_dict(),
        "started_from": job.bundle.document["training"].get("initial_weights"),
        "trainings": [dict(one.facts) for pairs in trained.values() for one in pairs],
        "views": [view.to_dict() for view in views],
        "changes": [view.to_dict() for view in changes],
    }


def _name_of(init: str | None) -> str | None:
    return None if init is None else Path(init).name
