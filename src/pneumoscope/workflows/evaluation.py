"""Evaluation on unseen images, and paired comparison of networks on the same images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pneumoscope.core.errors import InputError
from pneumoscope.core.files import read_json, write_json
from pneumoscope.core.run_manifest import RunManifest
from pneumoscope.data.cache import build_cache
from pneumoscope.evaluation.comparison import SIGNIFICANCE, Contestant, Pair, compare_pairs, ranking
from pneumoscope.evaluation.evaluate import EvaluationConfig, Scoring, evaluation_to_json
from pneumoscope.evaluation.evaluate import evaluate as evaluate_table
from pneumoscope.evaluation.predictions import PredictionTable, read_predictions, write_predictions
from pneumoscope.evaluation.scoring import (
    Films,
    check_leakage,
    choose_films,
    count_scoring,
    leakage_error,
    predict_films,
)
from pneumoscope.reporting import evaluation_page
from pneumoscope.workflows.runs import (
    Result,
    StageProgress,
    Tabular,
    configured,
    estimate_rows,
    of_stage,
    open_bundle,
    open_dataset,
    result_directory,
)

if TYPE_CHECKING:
    from pneumoscope.core.records import OperatingPoint
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.inference.bundle import Bundle

_PREDICTIONS = {
    "evaluate": ("evaluation.json", "predictions.csv"),
    "cross-validate": ("evaluation/cross-validation.json", "predictions/cross-validation.csv"),
}
"""Where a run of each kind keeps its evaluation and its predictions for unseen images."""


@dataclass(frozen=True)
class EvaluationResult(Result):
    """``evaluation.json``: figures with their 95 % intervals, curves, operating points, subgroups.

    Attributes:
        dataset_name: of the images.
        leaks: images that the bundle or whose patient it was trained on, scored all the same.
        problems: files of the data set that could not be used.
    """

    dataset_name: str
    leaks: int = 0
    problems: int = 0

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """The content of ``evaluation.json``."""
        return self.document

    @property
    def estimates(self) -> Mapping[str, Mapping[str, Any]]:
        """Figures by name: value, low, high, n, method."""
        found: Mapping[str, Mapping[str, Any]] = self.document["estimates"]
        return found

    @property
    def predictions(self) -> PredictionTable:
        """One row per image."""
        return read_predictions(self.directory / "predictions.csv")

    def rows(self) -> list[dict[str, Any]]:
        """One row per figure."""
        return estimate_rows(self.estimates)


@dataclass(frozen=True, slots=True)
class _Job:
    bundle: Bundle
    point: OperatingPoint
    dataset: Dataset
    films: Films
    config: EvaluationConfig
    leaks: int
    directory: Path
    progress: StageProgress | None


def evaluate(
    bundle: Bundle | Path | str,
    dataset: Dataset | Path | str,
    *,
    split: str | None = None,
    split_name: str = "default",
    operating_point: str | None = None,
    allow_leakage: bool = False,
    output: Path | str | None = None,
    config: EvaluationConfig | Path | None = None,
    progress: StageProgress | None = None,
    **options: Any,
) -> EvaluationResult:
    """Score a bundle on labelled images that it has never seen.

    Args:
        bundle: object, directory or name of a shipped one.
        dataset: object, directory, or a folder, CSV or npz to import first.
        split: a part of the split, or ``all``; None: test, or all where nothing was ever split.
        split_name: which split of the data set.
        operating_point: one of the bundle's; None: its default.
        allow_leakage: score images of the training too; the result is marked as contaminated.
        output: folder of the results; None: below ``runs``.
        config, options: keys of :class:`EvaluationConfig`, such as ``resamples`` or ``costs``.
        progress: told of stages.

    Raises:
        LeakageError: an image or its patient was in the bundle's training data.
    """
    settings = configured(EvaluationConfig, config, options)
    opened = open_bundle(bundle)
    point = opened.operating_point(operating_point)
    source = open_dataset(dataset, progress)
    films = choose_films(source, split, split_name)
    leaks = check_leakage(opened.document, films.samples)
    if leaks and not allow_leakage:
        raise leakage_error(leaks, len(films.samples))
    directory = result_directory(output, "evaluate", source.name, films.part)
    document = _score(_Job(opened, point, source, films, settings, len(leaks), directory, progress))
    return EvaluationResult(directory, document, source.name, len(leaks), len(source.problems))


def _score(job: _Job) -> dict[str, Any]:
    """Predict, count the scoring, evaluate, write everything; return ``evaluation.json``'s content."""
    asked = {"part": job.films.part, "operating_point": job.point.name, **job.config.model_dump(mode="json")}
    manifest = RunManifest(job.directory, "evaluate", asked, {"bootstrap": job.config.seed})
    manifest.add_input("dataset", job.dataset.hash)
    manifest.add_input("bundle", job.bundle.id)
    with manifest.stage("decode"):
        cache = build_cache(
            job.dataset, job.bundle.preprocessing, progress=of_stage(job.progress, "decoding")
        )
    with manifest.stage("predict"):
        table = predict_films(
            job.bundle, cache, job.films.samples, progress=of_stage(job.progress, "predicting")
        )
        write_predictions(job.directory / "predictions.csv", table)
    with manifest.stage("evaluate"):
        ledger = job.dataset.directory / "scorings.json"
        scorings = count_scoring(ledger, job.bundle.id, table, job.films.protocol)
        document = _document(job, table, scorings)
        write_json(job.directory / "evaluation.json", document)
    with manifest.stage("page"):
        evaluation_page.write_evaluation_page(document, table, job.directory)
    manifest.finish(
        dataset_directory=str(job.dataset.directory),
        protocol=job.films.protocol,
        films=len(table),
        leaked_films=job.leaks,
        unusable_files=len(job.dataset.problems),
        scorings=scorings,
    )
    return document


def _document(job: _Job, table: PredictionTable, scorings: int) -> dict[str, Any]:
    scoring = Scoring(job.dataset.hash, job.films.protocol, contaminated=job.leaks > 0)
    evaluation = evaluate_table(
        table, job.point, samples=job.films.samples, scoring=scoring, config=job.config
    )
    return evaluation_to_json(
        evaluation,
        table,
        costs=job.config.costs,
        bundle_id=job.bundle.id,
        scorings=scorings,
        points=tuple(job.bundle.operating_points.values()),
    )


@dataclass(frozen=True)
class Comparison(Tabular):
    """Paired comparison of networks on the same images.

    Attributes:
        images, patients: how many were compared.
        estimates: figures of each network by its name, as its evaluation has them.
        pairs: DeLong's test of the AUCs and McNemar's of the accuracies; p values corrected after Holm.
        ranking: names by AUC, best first; names in one place are not told apart from the first of them.
        contaminated: networks that were trained on some of these images.
    """

    images: int
    patients: int
    estimates: Mapping[str, Mapping[str, Any]]
    pairs: tuple[Pair, ...]
    ranking: tuple[tuple[str, ...], ...]
    contaminated: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "images": self.images,
            "patients": self.patients,
            "significance": SIGNIFICANCE,
            "estimates": {name: dict(figures) for name, figures in self.estimates.items()},
            "pairs": [asdict(pair) for pair in self.pairs],
            "ranking": [list(place) for place in self.ranking],
            "contaminated": list(self.contaminated),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per pair and figure: the difference (first minus second) with its interval and p values."""
        return [
            {"first": pair.first, "second": pair.second, "figure": figure, **asdict(test)}
            for pair in self.pairs
            for figure, test in (("roc_auc", pair.auc), ("accuracy", pair.accuracy))
        ]


@dataclass(frozen=True, slots=True)
class _Scored:
    """A network's predictions in the order of the images' hashes, and its evaluation."""

    table: PredictionTable
    evaluation: Mapping[str, Any]


def compare(
    subjects: Mapping[str, Any] | Sequence[Any],
    dataset: Dataset | Path | str | None = None,
    **evaluation: Any,
) -> Comparison:
    """Compare networks that were evaluated on the same images, with paired tests.

    Args:
        subjects: at least two, as a list or by name: results of :func:`evaluate` or of a cross-validation,
            their folders, or, with ``dataset``, bundles that are evaluated first.
        dataset: whose images the bundles are evaluated on.
        evaluation: how; keywords of :func:`evaluate`.

    Raises:
        InputError: fewer than two subjects, other images, or fewer than two patients of a class.
    """
    named = subjects if isinstance(subjects, Mapping) else _named(subjects)
    if len(named) < 2:
        raise InputError(f"{len(named)} networks to compare", expected="at least two")
    if dataset is not None:
        source = open_dataset(dataset, evaluation.get("progress"))
        output = Path(evaluation.pop("output", None) or result_directory(None, "compare", source.name))
        named = {
            name: evaluate(one, source, output=output / name, **evaluation) for name, one in named.items()
        }
    scored = {name: _scored(one) for name, one in named.items()}
    first = next(iter(scored.values())).table
    for name, one in scored.items():
        if one.table.sha256 != first.sha256 or one.table.labels != first.labels:
            raise InputError(
                "evaluated on other images than the first",
                where=name,
                expected=f"the same {len(first)} images with the same labels",
                remedy="evaluate all on one part of one data set",
            )
    contestants = [
        Contestant(
            name,
            one.table.probability,
            one.table.probability >= one.evaluation["operating_point"]["threshold"],
        )
        for name, one in scored.items()
    ]
    pairs = compare_pairs(first.positive, contestants, first.patient_ids)
    estimates = {name: one.evaluation["estimates"] for name, one in scored.items()}
    return Comparison(
        images=len(first),
        patients=len(set(first.patient_ids)),
        estimates=estimates,
        pairs=pairs,
        ranking=_places({name: found["roc_auc"]["value"] for name, found in estimates.items()}, pairs),
        contaminated=tuple(name for name, one in scored.items() if one.evaluation["contaminated"]),
    )


def _named(subjects: Iterable[Any]) -> dict[str, Any]:
    """Subjects by the name of their bundle or folder; a number tells equal names apart."""
    named: dict[str, Any] = {}
    for one in subjects:
        if isinstance(one, Result):
            name = str(one.document.get("bundle") or one.directory.name)
        else:
            name = str(getattr(one, "id", None) or Path(one).name)
        named[name if name not in named else f"{name} ({len(named) + 1})"] = one
    return named


def _scored(subject: Any) -> _Scored:
    """The predictions and the evaluation of a result, or of a folder that holds one."""
    folder = subject.directory if isinstance(subject, Result) else Path(subject)
    file = folder / "run.json"
    command = read_json(file).get("command") if file.is_file() else None
    if command not in _PREDICTIONS:
        raise InputError(
            "no evaluation on unseen images",
            where=folder,
            expected="a folder that 'evaluate' or a cross-validation wrote",
            remedy="give a data set, on which the bundles are then evaluated",
        )
    evaluation, predictions = (folder / name for name in _PREDICTIONS[command])
    table = read_predictions(predictions)
    order = sorted(range(len(table)), key=lambda row: (table.sha256[row], table.paths[row]))
    return _Scored(table.select(np.array(order)), read_json(evaluation))


def _places(values: Mapping[str, float], pairs: Sequence[Pair]) -> tuple[tuple[str, ...], ...]:
    """Names by place, best first, told apart by the corrected p values of the AUC."""
    names = list(values)
    different = np.zeros((len(names), len(names)), dtype=bool)
    for pair in pairs:
        i, j = names.index(pair.first), names.index(pair.second)
        different[i, j] = different[j, i] = pair.auc.p_corrected < SIGNIFICANCE
    places = ranking(list(values.values()), different)
    return tuple(tuple(names[number] for number in place) for place in places)
