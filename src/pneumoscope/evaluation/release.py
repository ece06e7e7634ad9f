"""Release check: a candidate recipe beside a plain fine-tune of the same images, on shifted views of them.

Both have answered the same images of each view, so that every difference is paired; its interval is a
bootstrap over patients. A view that votes and whose whole interval lies below zero refuses the release. The
ordinary fold and clusters of acquisition are reported without a vote, because a network gains there by
reading how an image was taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pneumoscope.core.config import Config
from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Estimate, Label
from pneumoscope.evaluation import metrics
from pneumoscope.evaluation.intervals import (
    LEVEL,
    RESAMPLES,
    SHARE_DEFINED,
    bootstrap,
    bootstrap_estimate,
    proportion_estimate,
    wilson,
)
from pneumoscope.evaluation.operating_points import SCREENING_SENSITIVITY, threshold_table
from pneumoscope.evaluation.predictions import PredictionTable
from pneumoscope.evaluation.stress import StressTable
from pneumoscope.imaging.stress import STRESSES, StressKind

SCHEMA_VERSION = 1
RELEASED, NOT_RELEASED = "released", "not released"
_FEWEST_PATIENTS = 2  # of a class: one patient has no spread to compare AUCs by
_HALF = 0.5  # the probability at which accuracy is measured

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class ReleaseConfig(Config):
    """How to check a release."""

    clusters: int | None = Field(
        None, ge=0, description="acquisition clusters left out in turn, the largest first; 0: none; none: all"
    )
    clusters_split: str = Field(
        "clusters", description="leave-cluster-out split of the data set; made where it is missing"
    )
    contrary: bool = Field(True, description="leave images whose acquisition contradicts their label out")
    framing: bool = Field(
        True, description="leave images out whose place and size of the lungs contradict their label"
    )
    folds: int = Field(5, ge=2, description="parts of the ordinary split by patient")
    run_folds: int = Field(1, ge=1, description="of these, so many are trained and tested")
    stress_films: int = Field(
        0, ge=0, description="at most so many images of the ordinary fold are stressed; 0: all"
    )
    sensitivity: float = Field(
        SCREENING_SENSITIVITY, gt=0, le=1, description="at which the specificities are compared"
    )
    wide: float = Field(0.1, gt=0, le=2, description="an interval wider than this is called too wide to tell")
    resamples: int = Field(RESAMPLES, ge=100, le=100_000, description="of the patient-level bootstrap")
    seed: int = Field(0, ge=0, description="of clusters, contrary images, stress and bootstrap")
    init: str | None = Field(
        None, description="weights that both start from, where the bundle names a file that lies elsewhere"
    )
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] | None = Field(
        None, description="kind of device for both; none: as the bundle was trained"
    )
    threads: int | None = Field(None, ge=1, description="torch threads for both; none: as the bundle")

    @property
    def shortened(self) -> list[str]:
        """What a full check would have measured too, in words."""
        left_out = {
            "all acquisition clusters": self.clusters is not None,
            "contrary images": not self.contrary,
            "images of contrary framing": not self.framing,
            "all images under stress": self.stress_films > 0,
        }
        return [what for what, is_left_out in left_out.items() if is_left_out]


class ViewKind(StrEnum):
    """What was shifted."""

    FRAMING = "framing"
    STRESS = "stress"
    TWINS = "twins"
    EXTERNAL = "external"
    CLUSTER = "cluster"
    CONTRARY = "contrary"
    FOLD = "fold"

    @property
    def votes(self) -> bool:
        """Whether a release hangs on it.

        A fold pays for shortcuts, and so do images that were left out for their grey levels: place and size
        of the lungs, which tell the class too, are common to all of them (docs/experiments.md).
        """
        return self not in (ViewKind.CLUSTER, ViewKind.CONTRARY, ViewKind.FOLD)


class Vote(StrEnum):
    """What a view says of the candidate."""

    WORSE = "worse"
    NOT_WORSE = "not worse"
    NONE = "no vote"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Pair:
    """Probabilities of pneumonia that both recipes gave to the same N images.

    Attributes:
        positive: (N,) reference; patients: N keys; candidate, plain: (N,) in [0, 1].
    """

    positive: Bools
    patients: tuple[str, ...]
    candidate: Floats
    plain: Floats

    @property
    def fewest(self) -> int:
        """Patients of the smaller class."""
        keys = np.asarray(self.patients, dtype=str)
        return min(len(np.unique(keys[rows])) for rows in (self.positive, ~self.positive))


@dataclass(frozen=True, slots=True)
class ViewName:
    """Key, title for readers, and kind of a view; ``remark``: how its images were chosen."""

    key: str
    title: str
    kind: ViewKind
    remark: str = ""


@dataclass(frozen=True)
class View:
    """One view of the release check.

    Attributes:
        name: which; films, patients, ill: images, patients, and images with pneumonia.
        candidate, plain: estimates by figure (``roc_auc``, ``specificity``, ``accuracy``); one that these
            images do not define is absent.
        difference: of the AUCs, candidate less plain; None where it is not defined.
        vote: what follows; too_few: the interval is too wide to tell.
        changed: of twins, the shares of decisions that change with the size.
    """

    name: ViewName
    films: int
    patients: int
    ill: int
    candidate: Mapping[str, Estimate]
    plain: Mapping[str, Estimate]
    difference: Estimate | None
    vote: Vote
    too_few: bool = False
    changed: Mapping[str, Estimate] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **asdict(self.name),
            "films": self.films,
            "patients": self.patients,
            "ill": self.ill,
            "candidate": {name: asdict(found) for name, found in self.candidate.items()},
            "plain": {name: asdict(found) for name, found in self.plain.items()},
            "difference": None if self.difference is None else asdict(self.difference),
            "vote": self.vote.value,
            "too_few": self.too_few,
            "changed": {name: asdict(found) for name, found in self.changed.items()},
        }


@dataclass(frozen=True, slots=True)
class ReleaseVerdict:
    """Whether the candidate may be released.

    Attributes:
        worse: views on which it is worse than the plain recipe beyond the interval.
        too_few: views that vote, but whose interval is too wide to tell.
        not_measured: views that these images do not allow.
        voted: how many views have voted.
    """

    worse: tuple[str, ...]
    too_few: tuple[str, ...]
    not_measured: tuple[str, ...]
    voted: int

    @property
    def released(self) -> bool:
        """At least one view has voted, and none of them says worse."""
        return self.voted > 0 and not self.worse

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``verdict`` is ``released`` or ``not released``."""
        return {"verdict": RELEASED if self.released else NOT_RELEASED, **asdict(self)}


def pair(candidate: PredictionTable, plain: PredictionTable) -> Pair:
    """The answers of both about the same images, whatever their order.

    Raises:
        InputError: the tables are of other images or other labels.
    """
    first, second = (one.select(np.argsort(np.array(one.paths))) for one in (candidate, plain))
    if (first.paths, first.sha256, first.labels) != (second.paths, second.sha256, second.labels):
        raise InputError(
            "the two recipes have answered other images",
            expected=f"the same {len(first)} images with the same labels",
            remedy="start the check in a new folder",
        )
    return Pair(first.positive, first.patient_ids, first.probability, second.probability)


def judge(name: ViewName, answers: Pair, config: ReleaseConfig) -> View:
    """Figures of both recipes on one view, their paired difference, and the view's vote."""
    difference = None
    figures: list[dict[str, Estimate]] = [{}, {}]
    if answers.fewest >= _FEWEST_PATIENTS:
        scores = {"candidate": answers.candidate, "plain": answers.plain}
        draws = bootstrap(
            {key: metrics.roc_auc_statistic(answers.positive, score) for key, score in scores.items()},
            answers.patients,
            resamples=config.resamples,
            rng=np.random.default_rng(config.seed),
        )
        figures = [_figures(answers, scores[key], draws[key], config) for key in scores]
        difference = _difference(answers, draws["candidate"] - draws["plain"])
    wide = difference is not None and difference.high - difference.low > config.wide
    vote = _vote(name.kind, difference)
    return View(
        name,
        films=len(answers.positive),
        patients=len(set(answers.patients)),
        ill=int(answers.positive.sum()),
        candidate=figures[0],
        plain=figures[1],
        difference=difference,
        vote=vote,
        too_few=wide and vote is not Vote.NONE,
    )


def stress_views(candidate: StressTable, plain: StressTable, config: ReleaseConfig) -> tuple[View, ...]:
    """A view for each change of the image; without the probes, where a high AUC is bad.

    Raises:
        InputError: the tables are of other images or other changes.
    """
    of_both = [(table.names, [s.path for s in table.samples]) for table in (candidate, plain)]
    if of_both[0] != of_both[1]:
        raise InputError("the two recipes were stressed on other images", remedy="start in a new folder")
    positive = np.array([sample.label is not Label.NORMAL for sample in candidate.samples])
    patients = tuple(sample.patient_id for sample in candidate.samples)
    kinds = {stress.name: stress for stress in STRESSES}
    views = []
    for column, name in enumerate(candidate.names):
        if name not in kinds or kinds[name].kind is StressKind.PROBE:
            continue
        answers = Pair(positive, patients, candidate.probabilities[:, column], plain.probabilities[:, column])
        views.append(
            judge(
                ViewName(f"stress-{name}", f"Stress: {kinds[name].title}", ViewKind.STRESS), answers, config
            )
        )
    return tuple(views)


def worst_of(views: Sequence[View]) -> View:
    """The view of the smallest difference, first of those that are worse beyond the interval."""
    measured = [
        ((view.difference.high >= 0, view.difference.value), view)
        for view in views
        if view.difference is not None
    ]
    return min(measured, key=lambda item: item[0])[1] if measured else views[0]


def conclude(views: Sequence[View]) -> ReleaseVerdict:
    """The verdict of all views: one that says worse refuses the release."""
    voters = [view for view in views if view.vote in (Vote.WORSE, Vote.NOT_WORSE)]
    return ReleaseVerdict(
        worse=tuple(view.name.key for view in voters if view.vote is Vote.WORSE),
        too_few=tuple(view.name.key for view in voters if view.too_few),
        not_measured=tuple(view.name.key for view in views if view.vote is Vote.NOT_MEASURED),
        voted=len(voters),
    )


def share_changed(
    candidate: Bools, plain: Bools, patients: Sequence[str], config: ReleaseConfig
) -> dict[str, Estimate]:
    """Shares of decisions that change, ``candidate`` and ``plain`` (N,), and their paired ``difference``."""
    both = {"candidate": candidate, "plain": plain}
    found = {
        name: estimate
        for name, changed in both.items()
        if (estimate := proportion_estimate(int(changed.sum()), len(changed))) is not None
    }
    apart = candidate.astype(np.float64) - plain
    statistics = {"difference": metrics.mean_statistic(apart)}
    rng = np.random.default_rng(config.seed)
    draws = bootstrap(statistics, patients, resamples=config.resamples, rng=rng)["difference"]
    clusters = len(set(patients))
    return found | {"difference": _interval(float(apart.mean()), draws, len(apart), clusters)}


def _vote(kind: ViewKind, difference: Estimate | None) -> Vote:
    if not kind.votes:
        return Vote.NONE
    if difference is None:
        return Vote.NOT_MEASURED
    return Vote.WORSE if difference.high < 0 else Vote.NOT_WORSE


def _figures(answers: Pair, score: Floats, draws: Floats, config: ReleaseConfig) -> dict[str, Estimate]:
    """AUC, specificity at the fixed sensitivity, and accuracy at 0.5; those that are defined."""
    positive, n = answers.positive, len(score)
    area = metrics.roc_auc(positive, score)
    assert area is not None, "both classes"
    right = int(((score >= _HALF) == positive).sum())
    found = {
        "roc_auc": bootstrap_estimate(area, draws, n=n, smaller_class=answers.fewest),
        "specificity": _specificity(positive, score, config.sensitivity),
        "accuracy": proportion_estimate(right, n),
    }
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _specificity(positive: Bools, score: Floats, sensitivity: float) -> Estimate | None:
    """Highest specificity on these images at a sensitivity of at least ``sensitivity``; Wilson interval."""
    table = threshold_table(positive, score)
    best = table.specificity[table.sensitivity >= sensitivity].max()
    return proportion_estimate(round(float(best) * table.negatives), table.negatives)


def _difference(answers: Pair, draws: Floats) -> Estimate | None:
    """The difference of the AUCs with its interval; None when most draws lack a class."""
    defined = draws[np.isfinite(draws)]
    if len(defined) < SHARE_DEFINED * len(draws):
        return None
    areas = [metrics.roc_auc(answers.positive, score) for score in (answers.candidate, answers.plain)]
    assert areas[0] is not None, "both classes"
    assert areas[1] is not None, "both classes"
    return _interval(areas[0] - areas[1], defined, len(answers.positive), answers.fewest)


def _interval(value: float, draws: Floats, n: int, trials: int) -> Estimate:
    """Percentile interval of paired ``draws``.

    Where no draw differs from zero, resampling has nothing to say about the error: the interval is then what
    Wilson's leaves open for a share of none among so many patients, to either side.
    """
    if not draws.any():
        end = wilson(0, trials)[1]
        return Estimate(0.0, -end, end, n, f"Wilson over {trials} patients, as every resample agrees")
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    method = f"paired bootstrap over patients, percentile, {len(draws)} resamples"
    return Estimate(value, low, high, n, method)
