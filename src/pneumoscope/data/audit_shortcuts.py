"""How well a property alone tells the label: what a network could learn instead of pneumonia.

In: numbers that describe films without their lungs, labels, and who the patients are. Out: cross-validated
areas under the ROC curve. A property is scored by the share of positives in its quantile bins, so that it
need not rise or fall with the label; several together are scored by gradient boosting. Folds never part a
patient. Intervals come from a bootstrap over patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold

METHOD = "5-fold cross-validation by patient; 95 % interval from 500 bootstrap samples of patients"
_FOLDS = 5
_RESAMPLES = 500
_BINS = 20
# Added to each bin as if seen before, in films: keeps the rate of an almost empty bin near the prevalence.
_PRIOR_FILMS = 2.0

Values = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """A choice between two classes, with its folds.

    Attributes:
        films: indices of the films that take part.
        target: bool, one a film of ``films``.
        folds: (training, held out) positions in ``films``.
        resamples: (500, films) how often each film is in each bootstrap sample of patients.
    """

    films: Indices
    target: npt.NDArray[np.bool_]
    folds: tuple[tuple[Indices, Indices], ...]
    resamples: npt.NDArray[np.int32]
    seed: int


@dataclass(frozen=True)
class ShortcutScore:
    """Area under the ROC curve with its 95 % interval and the number of films."""

    value: float
    low: float
    high: float
    n: int


def ask(
    positive: npt.NDArray[np.bool_], takes_part: npt.NDArray[np.bool_], groups: Indices, seed: int
) -> Question | None:
    """Prepare a question; None when a class has fewer than two patients.

    Args:
        positive, takes_part: (N,) of all films.
        groups: (N,) patient number.
        seed: of folds and bootstrap.
    """
    films = np.flatnonzero(takes_part)
    target, own = positive[films], groups[films]
    fewest = min(len(np.unique(own[target])), len(np.unique(own[~target])))
    if fewest < 2:
        return None
    splitter = StratifiedGroupKFold(min(_FOLDS, fewest), shuffle=True, random_state=seed)
    folds = tuple(splitter.split(films, target, own))
    if any(len(np.unique(target[part])) < 2 for fold in folds for part in fold):
        return None
    return Question(films, target, folds, _resample_patients(own, seed), seed)


def _resample_patients(groups: Indices, seed: int) -> npt.NDArray[np.int32]:
    patients, member = np.unique(groups, return_inverse=True)
    share = np.full(len(patients), 1 / len(patients))
    drawn = np.random.default_rng(seed).multinomial(len(patients), share, size=_RESAMPLES)
    return drawn.astype(np.int32)[:, member]


def score_property(values: Values, question: Question) -> ShortcutScore:
    """How well one property (N,) answers ``question``; a missing value is a bin of its own."""
    own = values[question.films]
    scores = np.empty(len(own))
    for train, held_out in question.folds:
        scores[held_out] = _bin_rates(own[train], question.target[train], own[held_out])
    return _score(scores, question)


def score_jointly(values: Values, question: Question) -> ShortcutScore:
    """How well several properties (N, P) together answer ``question``."""
    return _score(predict_jointly(values, question), question)


def predict_jointly(values: Values, question: Question) -> Values:
    """Probability of the target of every film of ``question``, from properties (N, P), out of fold."""
    own = values[question.films]
    scores = np.empty(len(own))
    for train, held_out in question.folds:
        model = HistGradientBoostingClassifier(
            max_iter=60,
            max_leaf_nodes=15,
            learning_rate=0.15,
            early_stopping=False,
            random_state=question.seed,
        )
        model.fit(own[train], question.target[train])
        scores[held_out] = model.predict_proba(own[held_out])[:, 1]
    return scores


def _bin_rates(train: Values, target: npt.NDArray[np.bool_], held_out: Values) -> Values:
    """Share of positives among the training films of each held-out film's bin."""
    known = train[np.isfinite(train)]
    unique = np.unique(known)
    edges = unique[1:] if len(unique) <= _BINS else np.unique(np.quantile(known, np.arange(1, _BINS) / _BINS))
    bins = [
        np.where(np.isfinite(v), np.searchsorted(edges, v, side="right") + 1, 0) for v in (train, held_out)
    ]
    count = np.bincount(bins[0], minlength=len(edges) + 2)
    positive = np.bincount(bins[0], weights=target, minlength=len(edges) + 2)
    return ((positive + _PRIOR_FILMS * target.mean()) / (count + _PRIOR_FILMS))[bins[1]]


def _score(scores: Values, question: Question) -> ShortcutScore:
    resampled = _weighted_auc(scores, question.target, question.resamples)
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    value = _weighted_auc(scores, question.target, np.ones((1, len(scores)), dtype=np.int32))[0]
    return ShortcutScore(float(value), float(low), float(high), len(scores))


def _weighted_auc(scores: Values, target: npt.NDArray[np.bool_], weights: npt.NDArray[np.int32]) -> Values:
    """Area under the ROC curve for each row of weights (B, N); ties count one half."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(scores[order]) > 0]))
    ordered = weights[:, order]
    positive = np.add.reduceat(ordered * target[order], starts, axis=1)
    negative = np.add.reduceat(ordered * ~target[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1, dtype=np.int64) * negative.sum(axis=1, dtype=np.int64)
    won = (positive * (below + 0.5 * negative)).sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
