"""Adaptation of a bundle to a site: prior shift, recalibration, or a new linear head on frozen features.

Every step is judged by nested cross-validation over the site's patients: within the patients that are not
held out, an inner cross-validation chooses the candidate; the held-out ones say what the choice is worth. A
step is taken only where the paired interval of what it gains keeps above 0, so a choice is never worse than
no choice as far as the site's images can tell. It takes seconds, and no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit

from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Estimate
from pneumoscope.evaluation.commissioning import Adapted, LocalFilms, Scores, fit_local, patient_folds
from pneumoscope.evaluation.intervals import LEVEL, RESAMPLES, bootstrap
from pneumoscope.evaluation.metrics import Statistic, folded_auc_statistic, roc_auc_statistic
from pneumoscope.inference.prediction import log_odds

UNCHANGED, PRIOR_SHIFT, RECALIBRATION, HEAD = "unchanged", "prior-shift", "recalibration", "new-head"
ORDER_KEEPING = (UNCHANGED, PRIOR_SHIFT, RECALIBRATION)
"""Candidates that leave the order of images, so the AUC, as it is; from the simplest to the most flexible."""

COMPONENTS = 40
"""Principal components of the standardised features that a head may use."""

RIDGES = (0.3, 1.0, 3.0, 10.0)
"""Penalties, for features scaled so that an image's squared length is 1 on average (:func:`fit_heads`)."""

LEAST_PATIENTS = 5
"""Of each class: as many as there are folds."""

CURVE_SIZES, DRAWS = (25, 50, 100), 20
"""Labelled images of the learning curve, and random draws of patients at each size."""

_RESAMPLES_A_DRAW = 50
_MOST_TRIES = 200  # draws of patients until both classes are there twice
_NEGLIGIBLE = 1e-10  # of the largest variance: components that are rounding alone
_NEWTON_STEPS, _CONVERGED = 100, 1e-10

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SiteImages:
    """What an adaptation knows of N labelled images of a site.

    Attributes:
        films: probability as the bundle gives it today, reference, patients, verdicts.
        features: (N, C), the network's last feature map averaged over rows and columns.
        prior: share of pneumonia that the bundle's probabilities are of; None where it does not say.
        unlabelled: (M,) probabilities of further images of the site; they only help the prior shift.
    """

    films: LocalFilms
    features: Floats
    prior: float | None = None
    unlabelled: Floats = field(default_factory=lambda: np.empty(0))

    def take(self, rows: Ints) -> SiteImages:
        """Only the images ``rows``."""
        return SiteImages(self.films.take(rows), self.features[rows], self.prior, self.unlabelled)


@dataclass(frozen=True)
class Fit:
    """A fitted candidate: log-odds = ``slope`` x those of today + ``features`` @ ``weight`` + ``offset``."""

    slope: float = 1.0
    offset: float = 0.0
    weight: Floats | None = None

    def probability(self, site: SiteImages) -> Floats:
        """(N,) of pneumonia."""
        if self.weight is not None:
            return np.asarray(expit(site.features @ self.weight + self.offset))
        if (self.slope, self.offset) == (1.0, 0.0):
            return site.films.probability
        return np.asarray(expit(self.slope * log_odds(site.films.probability) + self.offset))


def estimate_prevalence(probability: Floats, prior: float) -> float:
    """Share of pneumonia among unlabelled images: where expectation maximisation ends.

    Saerens, Latinne & Decaestecker, Neural Computation 14, 2002, section 2.2: the images differ from those
    that calibrated the probabilities in the share of pneumonia alone. The fixed point of their iteration is
    the share of highest likelihood, which is concave in it; its slope's zero is found directly, as the
    iteration takes thousands of steps where images hardly differ. Where images of either class look different
    here, too, the estimate is wrong.

    Args:
        probability: (N,) calibrated for a share of pneumonia of ``prior``.
        prior: in (0, 1).
    """
    excess = np.expm1(log_odds(probability) - _logit(prior))  # likelihood ratio - 1

    def slope(share: float) -> float:
        return float((excess / (1 + share * excess)).mean())

    edge = 1 / (2 * len(probability))
    if slope(edge) <= 0 or slope(1 - edge) >= 0:
        return edge if slope(edge) <= 0 else 1 - edge
    return float(brentq(slope, edge, 1 - edge))


def bundle_prior(document: Mapping[str, Any]) -> float | None:
    """The share of pneumonia that a bundle's probabilities are of: its site's, or that of validation."""
    local = document["calibration"].get("local", {})
    if "prevalence" in local:
        return float(local["prevalence"])
    intervals = document["operating_points"][0].get("intervals", {})
    if not {"sensitivity", "specificity"} <= set(intervals):
        return None
    ill, well = intervals["sensitivity"]["n"], intervals["specificity"]["n"]
    return float(ill / (ill + well))


def fit_heads(features: Floats, positive: Bools, ridges: Sequence[float] = RIDGES) -> dict[float, Fit]:
    """A linear head for each penalty: standardise, principal components, ridge logistic regression.

    The three steps are linear, so each head is folded into one weight a feature and one offset. The penalty
    is that of the features divided by the root of their number C, whatever the network.

    Args:
        features: (N, C).
        positive: (N,) reference; both classes.
        ridges: factors of half the squared length of the weights.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation == 0] = 1.0
    standardised = (features - mean) / deviation
    variances, vectors = np.linalg.eigh(
        standardised @ standardised.T
    )  # (N, N): far fewer images than features
    kept = np.flatnonzero(variances > variances[-1] * _NEGLIGIBLE)[-COMPONENTS:]
    components = standardised.T @ vectors[:, kept] / np.sqrt(variances[kept])
    heads = {}
    for ridge in ridges:
        *slopes, intercept = _ridge_logistic(standardised @ components, positive, ridge * features.shape[1])
        weight = components @ slopes / deviation
        heads[ridge] = Fit(slope=0.0, offset=float(intercept - weight @ mean), weight=weight)
    return heads


def _ridge_logistic(x: Floats, positive: Bools, ridge: float) -> Floats:
    """(D + 1,) weights and free intercept of least log loss + ``ridge`` / 2 x squared length of the weights.

    Newton's method, with shorter steps where the loss would rise; x is (N, D).
    """
    design = np.column_stack([x, np.ones(len(x))])
    penalty = np.append(np.full(x.shape[1], ridge), 0.0)
    sign = np.where(positive, -1.0, 1.0)

    def loss(parameters: Floats) -> float:
        return float(np.logaddexp(0, sign * (design @ parameters)).sum() + penalty @ parameters**2 / 2)

    found = np.append(np.zeros(x.shape[1]), _logit(float(positive.mean())))
    least, size = loss(found), 1.0
    for _ in range(_NEWTON_STEPS):
        p = expit(design @ found)
        curvature = (design.T * (p * (1 - p))) @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, design.T @ (p - positive) + penalty * found)
        tried = found - size * step
        if (here := loss(tried)) <= least:
            found, least, size = tried, here, min(1.0, 2 * size)
        else:
            size /= 4
        if np.abs(size * step).max() < _CONVERGED:
            break
    return found


def fit_candidates(site: SiteImages) -> dict[str, Fit]:
    """Every candidate, fitted to all images of ``site``; heads are called ``new-head`` with their penalty."""
    films = site.films
    found = {UNCHANGED: Fit()}
    if site.prior is not None:
        everything = np.concatenate([films.probability, site.unlabelled])
        here = estimate_prevalence(everything, site.prior)
        found[PRIOR_SHIFT] = Fit(offset=_logit(here) - _logit(site.prior))
    line = fit_local(films, float(films.positive.mean()))
    found[RECALIBRATION] = Fit(line["slope"], line["offset"])
    heads = fit_heads(site.features, films.positive)
    return found | {f"{HEAD} {ridge:g}": head for ridge, head in heads.items()}


def cross_fit(site: SiteImages, seed: int) -> dict[str, Floats]:
    """(N,) probabilities by every candidate, each image by what other patients' images fitted."""
    found: dict[str, Floats] = {}
    for rows, held in patient_folds(site.films, seed):
        own = site.take(held)
        for name, fit in fit_candidates(site.take(rows)).items():
            found.setdefault(name, site.films.probability.copy())[held] = fit.probability(own)
    return found or {UNCHANGED: site.films.probability}


def losses(probability: Floats, positive: Bools) -> Floats:
    """(N,) log loss of each image; probabilities are kept from 0 and 1 by a millionth."""
    x = log_odds(probability)
    return np.asarray(np.logaddexp(0, np.where(positive, -x, x)))


def choose(found: Mapping[str, Floats], positive: Bools, heads: bool) -> str:
    """The candidate of the least mean log loss; the simplest of equals.

    Args:
        found: of :func:`cross_fit`.
        positive: (N,) reference.
        heads: whether new heads are candidates.
    """
    allowed = [name for name in found if heads or name in ORDER_KEEPING]
    return min(allowed, key=lambda name: float(losses(found[name], positive).mean()))


@dataclass(frozen=True)
class Fold:
    """One outer fold: what patients outside of it chose and fitted.

    Attributes:
        held: rows that are held out; rows: the others.
        inner: of :func:`cross_fit` over ``rows``.
        outer: candidate -> (len(held),) probabilities by what ``rows`` fitted.
    """

    rows: Ints
    held: Ints
    inner: Mapping[str, Floats]
    outer: Mapping[str, Floats]


class Nested:
    """The nested cross-validation of N images: what each way of choosing answers about held-out patients."""

    def __init__(self, site: SiteImages, seed: int) -> None:
        self.site, self.seed = site, seed

    @cached_property
    def folds(self) -> tuple[Fold, ...]:
        """The outer folds, by patient."""
        return tuple(self._folds())

    def _folds(self) -> Iterator[Fold]:
        for rows, held in patient_folds(self.site.films, self.seed):
            others, own = self.site.take(rows), self.site.take(held)
            outer = {name: fit.probability(own) for name, fit in fit_candidates(others).items()}
            yield Fold(rows, held, cross_fit(others, self.seed), outer)

    @property
    def fold_of(self) -> Ints:
        """(N,) the fold that holds each image out."""
        index = np.empty(len(self.site.features), dtype=np.int64)
        for number, fold in enumerate(self.folds):
            index[fold.held] = number
        return index

    def chosen(self, heads: bool | None) -> list[str]:
        """The candidate of each fold; ``heads`` None: no choice, the bundle unchanged."""
        if heads is None:
            return [UNCHANGED] * len(self.folds)
        positive = self.site.films.positive
        return [choose(fold.inner, positive[fold.rows], heads) for fold in self.folds]

    def answers(self, heads: bool | None) -> Floats:
        """(N,) probabilities of held-out images by what their fold chose."""
        found = np.empty(len(self.site.features))
        for fold, name in zip(self.folds, self.chosen(heads), strict=True):
            found[fold.held] = fold.outer[name]
        return found

    def scores(self, heads: bool | None) -> Scores:
        """What :func:`~pneumoscope.evaluation.commissioning.commission` measures a choice with."""
        probability = np.tile(self.site.films.probability, (len(self.folds), 1))
        lines = []
        for number, (fold, name) in enumerate(zip(self.folds, self.chosen(heads), strict=True)):
            if name not in ORDER_KEEPING:
                probability[number, fold.rows] = fold.inner[name]
                probability[number, fold.held] = fold.outer[name]
            lines.append(_line_kind(name))
        return Scores(self.fold_of, probability, tuple(lines), self.site.prior)


def _line_kind(name: str) -> str:
    """How the line to the stated prevalence is found: by a fit, by shifting the prior, or not at all."""
    return {UNCHANGED: "none", PRIOR_SHIFT: "shift"}.get(name, "fit")


@dataclass(frozen=True)
class Adaptation:
    """What was chosen for a site, and why.

    Attributes:
        candidate: name; ``unchanged`` where nothing was taken.
        fit: of all images.
        probability: (N,) cross-fitted, where the candidate is a head; that of today otherwise.
        scores: of the nested cross-validation.
        document: ``candidates``, ``steps``, ``folds`` and ``estimates``, as plain values.
    """

    candidate: str
    fit: Fit
    probability: Floats
    scores: Scores
    document: dict[str, Any]

    @property
    def taken(self) -> bool:
        """Whether the bundle changes."""
        return self.candidate != UNCHANGED

    @property
    def head(self) -> bool:
        """Whether a new head was chosen."""
        return self.candidate not in ORDER_KEEPING

    def placed(self, films: LocalFilms, rows: Ints) -> Adapted:
        """The same for ``films``, whose ``rows`` are the images adapted to; the gate refuses the rest."""
        count = len(films.positive)
        fold, probability = np.full(count, -1), films.probability.copy()
        fold[rows], probability[rows] = self.scores.fold, self.probability
        folds = np.tile(films.probability, (len(self.scores.probability), 1))
        folds[:, rows] = self.scores.probability
        scores = Scores(fold, folds, self.scores.lines, self.scores.prior)
        return Adapted(scores, probability, _line_kind(self.candidate), self.head)


def adapt(site: SiteImages, *, resamples: int = RESAMPLES, seed: int = 0) -> Adaptation:
    """Choose between leaving a bundle as it is, a prior shift, recalibration and a new head.

    Two steps: a line is taken where the nested choice among candidates that keep the order has a lower log
    loss than the bundle unchanged, and a head where the choice among all has a lower one than what the first
    step left, and no lower AUC. Lower means: the whole 95 % interval of the paired difference, by drawing
    patients, is above 0.

    Args:
        site: labelled images that the bundle was not trained on.
        resamples: of the bootstrap over patients.
        seed: of folds, draws and bootstrap.

    Raises:
        InputError: fewer than :data:`LEAST_PATIENTS` patients of a class.
    """
    check_enough(site.films)
    nested, positive = Nested(site, seed), site.films.positive
    steps: list[dict[str, Any]] = []
    heads: bool | None = None
    for step, allowed in (("line", False), ("head", True)):
        gains = _gains(nested, allowed, heads, resamples)
        better = gains["log_loss"]["low"] > 0 and gains["roc_auc"]["value"] >= 0
        steps.append({"step": step, "taken": better, **gains})
        heads = allowed if better else heads
    found = cross_fit(site, seed)
    candidate = UNCHANGED if heads is None else choose(found, positive, heads)
    document = {
        "candidate": candidate,
        "films": len(positive),
        "patients": len(set(site.films.patients)),
        "ill": int(positive.sum()),
        "candidates": [{"name": name, **_figures(nested.site, p)} for name, p in found.items()],
        "steps": steps,
        "folds": nested.chosen(heads),
        "estimates": _estimates(nested, heads, resamples),
    }
    fit = fit_candidates(site)[candidate]
    probability = site.films.probability if candidate in ORDER_KEEPING else found[candidate]
    return Adaptation(candidate, fit, probability, nested.scores(heads), document)


def check_enough(films: LocalFilms) -> None:
    """Refuse images of too few patients.

    Raises:
        InputError: fewer than :data:`LEAST_PATIENTS` patients of a class.
    """
    keys = np.array(films.patients)
    for name, rows in (("with", films.positive), ("without", ~films.positive)):
        count = len(np.unique(keys[rows]))
        if count < LEAST_PATIENTS:
            raise InputError(
                f"{count} patients {name} pneumonia are too few to adapt a bundle to",
                expected=f"at least {LEAST_PATIENTS} of each class, and some tens for a gain",
                remedy="add labelled images of that class, or leave --adapt out",
            )


def _figures(site: SiteImages, probability: Floats) -> dict[str, float]:
    """Log loss and AUC of cross-fitted probabilities."""
    positive = site.films.positive
    once = np.ones((1, len(positive)))
    return {
        "log_loss": float(losses(probability, positive).mean()),
        "roc_auc": float(roc_auc_statistic(positive, probability)(once)[0]),
    }


def _mean(values: Floats) -> Statistic:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))


def _summarise(
    films: LocalFilms, statistics: Mapping[str, Statistic], resamples: int, seed: int
) -> dict[str, Any]:
    """Values with percentile intervals over draws of patients, which all statistics share."""
    rng = np.random.default_rng(seed)
    draws = bootstrap(statistics, films.patients, resamples=resamples, rng=rng)
    once = np.ones((1, len(films.positive)))
    found: dict[str, Any] = {}
    for name, statistic in statistics.items():
        defined = draws[name][np.isfinite(draws[name])]
        low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
        method = f"bootstrap over patients, percentile, {len(defined)} resamples"
        found[name] = asdict(Estimate(float(statistic(once)[0]), low, high, len(films.positive), method))
    return found


def _estimates(nested: Nested, heads: bool | None, resamples: int) -> dict[str, Any]:
    """``before`` and ``after``: AUC and log loss of held-out patients, the bundle's and the choice's.

    With heads, which differ from fold to fold, both areas are over pairs of images of one fold.
    """
    films, found = nested.site.films, {}
    fold = nested.fold_of if heads else np.zeros(len(films.positive), dtype=np.int64)
    for name, which in (("before", None), ("after", heads)):
        answers = nested.answers(which)
        score = answers if heads else films.probability
        statistics = {
            "roc_auc": folded_auc_statistic(films.positive, score, fold),
            "log_loss": _mean(losses(answers, films.positive)),
        }
        found[name] = _summarise(films, statistics, resamples, nested.seed)
    return found


def _gains(nested: Nested, heads: bool, before: bool | None, resamples: int) -> dict[str, Any]:
    """What one way of choosing gains on another: positive is better. Both see the same draws of patients."""
    films, fold = nested.site.films, nested.fold_of
    new, old = nested.answers(heads), nested.answers(before)
    areas = [folded_auc_statistic(films.positive, score, fold) for score in (new, old)]
    statistics = {
        "roc_auc": lambda weights: areas[0](weights) - areas[1](weights),
        "log_loss": _mean(losses(old, films.positive) - losses(new, films.positive)),
    }
    return _summarise(films, statistics, resamples, nested.seed)


def learning_curve(site: SiteImages, *, resamples: int = RESAMPLES, seed: int = 0) -> list[dict[str, Any]]:
    """AUC of a new head against the number of labelled images that it is fitted to.

    At each size patients are drawn at random, :data:`DRAWS` times, until they have so many images; the
    penalty is chosen by cross-validation among them, and the images of all other patients are scored. The
    interval is over draws, and over a bootstrap of the scored patients in each. The first row is the bundle
    as it is; the last, where every image is used, a cross-validation.

    Returns:
        Rows with ``images``, ``roc_auc`` (an estimate) and ``unchanged``, the AUC of the bundle as it is on
        the same scored images. A size is left out where fewer than half as many images would be left
        to score.
    """
    films = site.films
    count = len(films.positive)
    everything, together = np.arange(count), np.zeros(count, dtype=np.int64)
    rows = [_curve_row(0, [_Scored(everything, films.probability, together)], films, resamples, seed)]
    for size in CURVE_SIZES:
        if count - size < size / 2:
            continue
        rng = np.random.default_rng([seed, size])
        drawn = [_draw(films, size, rng) for _ in range(DRAWS)]
        scored = [_score_rest(site, own, seed) for own in drawn if own is not None]
        if len(scored) == DRAWS:
            rows.append(_curve_row(size, scored, films, _RESAMPLES_A_DRAW, seed))
    rows.append(_curve_row(count, [_cross_validated_head(site, seed)], films, resamples, seed))
    return rows


@dataclass(frozen=True)
class _Scored:
    """Images ``rows`` with probabilities; only those of one ``fold`` are compared with each other."""

    rows: Ints
    probability: Floats
    fold: Ints


def _draw(films: LocalFilms, size: int, rng: np.random.Generator) -> Ints | None:
    """Rows of random patients that have ``size`` images together, both classes in two of them or more."""
    names, patient = np.unique(films.patients, return_inverse=True)
    images = np.bincount(patient)
    for _ in range(_MOST_TRIES):
        order = rng.permutation(len(names))
        count = int(np.searchsorted(np.cumsum(images[order]), size)) + 1
        rows = np.flatnonzero(np.isin(patient, order[:count]))
        own, rest = films.take(rows), films.take(np.setdiff1d(np.arange(len(patient)), rows))
        if own.least_patients >= 2 and rest.least_patients >= 2:
            return rows
    return None


def _score_rest(site: SiteImages, rows: Ints, seed: int) -> _Scored:
    rest = np.setdiff1d(np.arange(len(site.features)), rows)
    head = _best_head(site.take(rows), seed)
    return _Scored(rest, head.probability(site.take(rest)), np.zeros(len(rest), dtype=np.int64))


def _cross_validated_head(site: SiteImages, seed: int) -> _Scored:
    count = len(site.features)
    probability, fold = np.empty(count), np.full(count, -1)
    for number, (fitted, held) in enumerate(patient_folds(site.films, seed)):
        probability[held] = _best_head(site.take(fitted), seed).probability(site.take(held))
        fold[held] = number
    rows = np.flatnonzero(fold >= 0)
    return _Scored(rows, probability[rows], fold[rows])


def _best_head(site: SiteImages, seed: int) -> Fit:
    """The head whose penalty has the least log loss in a cross-validation over patients."""
    positive = site.films.positive
    loss = dict.fromkeys(RIDGES, 0.0)
    for rows, held in patient_folds(site.films, seed):
        heads = fit_heads(site.features[rows], positive[rows])
        for ridge, head in heads.items():
            loss[ridge] += float(losses(head.probability(site.take(held)), positive[held]).sum())
    best = min(loss, key=loss.__getitem__)
    return fit_heads(site.features, positive, (best,))[best]


def _curve_row(
    images: int, scored: Sequence[_Scored], films: LocalFilms, resamples: int, seed: int
) -> dict[str, Any]:
    """Mean AUC over ``scored``, with the interval over them and over draws of their patients."""
    values, before, draws = [], [], []
    rng = np.random.default_rng([seed, images])
    for one in scored:
        own = films.take(one.rows)
        once = np.ones((1, len(one.rows)))
        areas = [folded_auc_statistic(own.positive, p, one.fold) for p in (one.probability, own.probability)]
        values.append(float(areas[0](once)[0]))
        before.append(float(areas[1](once)[0]))
        draws.append(bootstrap({"auc": areas[0]}, own.patients, resamples=resamples, rng=rng)["auc"])
    everything = np.concatenate(draws)
    low, high = np.nanquantile(everything, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    count = round(float(np.mean([len(one.rows) for one in scored])))
    method = f"percentile over {len(scored)} draws of patients and {resamples} bootstrap resamples in each"
    estimate = Estimate(float(np.mean(values)), low, high, count, method)
    return {"images": images, "roc_auc": asdict(estimate), "unchanged": float(np.mean(before))}


def _logit(share: float) -> float:
    return float(np.log(share / (1 - share)))
