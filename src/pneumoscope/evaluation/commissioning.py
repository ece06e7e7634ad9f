"""Commissioning (site acceptance test): recalibration, operating points and a verdict from local images.

Some tens to hundreds of labelled local images say whether a bundle may be used at a site, at which
thresholds, and what its probabilities mean at the site's prevalence. With so few images only two numbers are
fitted, and no figure comes from images that chose them: patients are split into folds, each measured with
what the others fitted. Every change is kept in the bundle's history and can be rolled back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.model_selection import StratifiedGroupKFold

from pneumoscope.core.config import Config
from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Estimate, Verdict
from pneumoscope.evaluation import metrics
from pneumoscope.evaluation.calibration import calibration_interval
from pneumoscope.evaluation.intervals import (
    RESAMPLES,
    bootstrap,
    bootstrap_estimate,
    predictive_value_estimates,
    proportion_estimate,
    wilson,
)
from pneumoscope.evaluation.metrics import expected_calibration_error
from pneumoscope.evaluation.operating_points import (
    CostConfig,
    choose_operating_points,
    describe_operating_points,
)
from pneumoscope.evaluation.selective import SelectionConfig, fit_selection
from pneumoscope.inference.prediction import log_odds

FOLDS = 5
SLOPE_DEVIATION = 0.5
"""Standard deviation of the slope's prior round 1, a choice: a few images cannot turn the network round."""

ECE_BINS = 5
"""Fewer than for a test set: with a hundred images a bin still holds twenty."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LocalFilms:
    """What is known of N local images.

    Attributes:
        probability: (N,) of pneumonia, as the bundle gives it today.
        positive: (N,) reference.
        patients: N keys.
        verdicts: N of the gate.
    """

    probability: Floats
    positive: Bools
    patients: tuple[str, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def answered(self) -> LocalFilms:
        """The images that the gate does not refuse."""
        return self.take(self.answered_rows)

    @property
    def answered_rows(self) -> npt.NDArray[np.int64]:
        """Where the images lie that the gate does not refuse."""
        return np.flatnonzero([verdict is not Verdict.REFUSE for verdict in self.verdicts])

    @property
    def least_patients(self) -> int:
        """Patients of the rarer class."""
        keys = np.array(self.patients)
        return min(len(np.unique(keys[rows])) for rows in (self.positive, ~self.positive))

    def take(self, rows: npt.NDArray[np.int64]) -> LocalFilms:
        """Only the images ``rows``."""
        keep = rows.tolist()
        return LocalFilms(
            self.probability[rows],
            self.positive[rows],
            tuple(self.patients[row] for row in keep),
            tuple(self.verdicts[row] for row in keep),
        )


@dataclass(frozen=True)
class Scores:
    """How each fold of a nested cross-validation answers N images before a line moves them.

    Attributes:
        fold: (N,) the fold that holds each image out.
        probability: (F, N) a row a fold: its own images by what the others fitted, the others cross-fitted.
        lines: F of ``fit``, ``shift`` (only the prior is moved) and ``none`` (nor is any threshold).
        prior: share of pneumonia that the bundle's probabilities are of; needed by ``shift``.
    """

    fold: npt.NDArray[np.int64]
    probability: Floats
    lines: tuple[str, ...]
    prior: float | None

    def take(self, rows: npt.NDArray[np.int64]) -> Scores:
        """Only the images ``rows``."""
        return Scores(self.fold[rows], self.probability[:, rows], self.lines, self.prior)


@dataclass(frozen=True)
class Adapted:
    """How an adaptation answers N images.

    Attributes:
        scores: of its nested cross-validation.
        probability: (N,) by what was chosen for all of them, cross-fitted; before the line.
        line: kind of the line of all images, as in :class:`Scores`.
        head: whether a new head made ``probability``.
    """

    scores: Scores
    probability: Floats
    line: str
    head: bool = False

    def take(self, rows: npt.NDArray[np.int64]) -> Adapted:
        """Only the images ``rows``."""
        return replace(self, scores=self.scores.take(rows), probability=self.probability[rows])


def fit_local(films: LocalFilms, prevalence: float) -> dict[str, float]:
    """Logistic recalibration for a site and its prevalence.

    The slope is drawn towards 1 (a normal prior), the offset is free; then the offset is moved from the
    images' share of pneumonia to the stated prevalence (Saerens et al., Neural Computation 14, 2002).

    Returns:
        ``slope`` above 0 and ``offset``, for the log-odds of the bundle's own probability.
    """
    x, y = log_odds(films.probability), films.positive

    def loss(parameters: Floats) -> float:
        value = np.exp(parameters[0]) * x + parameters[1]
        prior = (np.exp(parameters[0]) - 1) ** 2 / (2 * SLOPE_DEVIATION**2)
        return float(np.logaddexp(0, np.where(y, -value, value)).sum() + prior)

    found = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[(-4, 4), (-20, 20)]).x
    return {"slope": float(np.exp(found[0])), "offset": float(found[1] + _shift(films, prevalence))}


def commission(
    films: LocalFilms, document: Mapping[str, Any], config: CommissionConfig, adapted: Adapted | None = None
) -> dict[str, Any]:
    """Measure a bundle on local images, fit it to them, and judge.

    Args:
        films: local, none of which the bundle was trained on.
        document: of the bundle.
        config: prevalence and limits.
        adapted: how an adaptation answers them; None: as the bundle does today, with a line that is fitted.

    Returns:
        ``films``, ``patients``, ``ill``, ``refused``, ``warned``, ``local`` (the fitted line), ``changed``
        (the bundle's keys for this site), ``figures``, ``before`` (sensitivity and specificity at today's
        threshold), ``missing``, ``comparison``, ``checks``, ``verdict`` and ``reasons``.

    Raises:
        InputError: fewer than two answered patients of a class.
    """
    answered = films.answered
    _require_both(answered)
    adapted = plain(answered, config.seed) if adapted is None else adapted.take(films.answered_rows)
    final = replace(answered, probability=adapted.probability)
    local = _line(final, adapted.line, config.prevalence, adapted.scores.prior)
    figures = _measure(answered, document, config, adapted.scores)
    threshold = _default(document["operating_points"], document)["threshold"]
    before = _shares(answered.positive, answered.probability >= threshold)
    count = len(films.positive)
    gate = {
        name: _known(proportion_estimate(sum(v is verdict for v in films.verdicts), count))
        for name, verdict in (("refused", Verdict.REFUSE), ("warned", Verdict.WARN))
    }
    result: dict[str, Any] = {
        "films": count,
        "patients": len(set(films.patients)),
        "ill": int(films.positive.sum()),
        "answered": len(answered.positive),
        "answered_ill": int(answered.positive.sum()),
        "limits": config.model_dump(mode="json"),
        **gate,
        "local": local,
        "changed": _changed(final, document, local, adapted, config),
        "figures": figures,
        "before": before,
        "missing": missing(figures, int(answered.positive.sum()), int((~answered.positive).sum()), config),
        "comparison": compare(figures["roc_auc"], document["validation"]),
    }
    result["checks"] = judge_site(result, config)
    result["verdict"] = worst_of(result["checks"])
    result["reasons"] = [check["reason"] for check in result["checks"] if check["verdict"] != GO]
    return result


def _require_both(films: LocalFilms) -> None:
    for name, rows in (("with", films.positive), ("without", ~films.positive)):
        patients = {key for key, own in zip(films.patients, rows, strict=True) if own}
        if len(patients) < 2:
            raise InputError(
                f"{len(patients)} patients {name} pneumonia among the images that the gate lets through",
                expected="at least 2, and some tens for a verdict",
                remedy="add local images of that class, or look why the gate refuses them",
            )


def _measure(
    films: LocalFilms, document: Mapping[str, Any], config: CommissionConfig, scores: Scores
) -> dict[str, Any]:
    """Figures of each image with what other patients fitted: head, line and threshold."""
    probability, shared = films.probability.copy(), films.probability.copy()
    decided = np.zeros(len(films.positive), dtype=bool)
    for number, kind in enumerate(scores.lines):
        held, rows = np.flatnonzero(scores.fold == number), np.flatnonzero(scores.fold != number)
        if not len(held):
            continue
        own = replace(films, probability=scores.probability[number])
        others = own.take(rows)
        fitted = _apply(own.probability, _line(others, kind, config.prevalence, scores.prior))
        threshold = _threshold(fitted[rows], others.positive, kind, document, config)
        probability[held], decided[held] = fitted[held], fitted[held] >= threshold
        shared[held] = (fitted if kind == "none" else _at_share(fitted, films, config))[held]
    weights = np.where(
        films.positive,
        config.prevalence / films.positive.mean(),
        (1 - config.prevalence) / (~films.positive).mean(),
    )
    counts = _shares(films.positive, decided)
    sensitivity, specificity = ((round(e["value"] * e["n"]), e["n"]) for e in counts.values())
    values = predictive_value_estimates(sensitivity, specificity, config.prevalence)
    return {
        "roc_auc": _area(films, scores, config),
        **counts,
        **{key: asdict(value) for key, value in values.items()},
        "calibration_error": expected_calibration_error(films.positive, shared, ECE_BINS),
        "mean_probability": float(np.average(probability, weights=weights)),
    }


def _line(films: LocalFilms, kind: str, prevalence: float, prior: float | None) -> dict[str, float]:
    """The line from the images' log-odds to the stated prevalence, by one of the ways of :class:`Scores`."""
    if kind == "fit":
        return fit_local(films, prevalence)
    if kind == "none":
        return {"slope": 1.0, "offset": 0.0}
    assert prior is not None, "only then is a shift of the prior a candidate"
    return {"slope": 1.0, "offset": _logit(prevalence) - _logit(prior)}


def _threshold(
    probability: Floats,
    positive: Bools,
    kind: str,
    document: Mapping[str, Any],
    config: CommissionConfig,
) -> float:
    """Of the default operating point: chosen on these images, or the bundle's own where nothing is fitted."""
    if kind == "none":
        return float(_default(document["operating_points"], document)["threshold"])
    name = document["default_operating_point"]
    points = choose_operating_points(probability, positive, _costs(config))
    return next(point.threshold for point in points if point.name == name)


def plain(films: LocalFilms, seed: int, line: str = "fit") -> Adapted:
    """No head: every fold answers as the bundle does today, and then by a line of one kind."""
    fold = np.full(len(films.positive), -1)
    folds = patient_folds(films, seed)
    for number, (_, held) in enumerate(folds):
        fold[held] = number
    probability = np.tile(films.probability, (len(folds), 1))
    return Adapted(Scores(fold, probability, (line,) * len(folds), None), films.probability, line)


def patient_folds(films: LocalFilms, seed: int) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(fitted, held out) rows: no patient on both sides, both classes among the fitted."""
    splitter = StratifiedGroupKFold(min(FOLDS, films.least_patients), shuffle=True, random_state=seed)
    folds = list(splitter.split(films.probability, films.positive, films.patients))
    return [(rows, held) for rows, held in folds if len(held) and 0 < films.positive[rows].mean() < 1]


def _apply(probability: Floats, line: Mapping[str, float]) -> Floats:
    return np.asarray(1 / (1 + np.exp(-(line["slope"] * log_odds(probability) + line["offset"]))))


def _at_share(probability: Floats, films: LocalFilms, config: CommissionConfig) -> Floats:
    """Probabilities at the images' own share of pneumonia, where frequencies can be counted."""
    return _apply(probability, {"slope": 1.0, "offset": -_shift(films, config.prevalence)})


def _shift(films: LocalFilms, prevalence: float) -> float:
    """What moves log-odds from the images' own share of pneumonia to a prevalence."""
    return _logit(prevalence) - _logit(float(films.positive.mean()))


def _logit(share: float) -> float:
    return float(np.log(share / (1 - share)))


def _interval(probability: Floats, films: LocalFilms, config: CommissionConfig) -> dict[str, Any] | None:
    """The site's calibration band, found at the images' share of pneumonia and moved to the stated one."""
    band = calibration_interval(
        _at_share(probability, films, config),
        films.positive,
        films.patients,
        resamples=config.resamples,
        seed=config.seed,
    )
    if band is None:
        return None
    shift = _shift(films, config.prevalence)
    return band | {key: (np.array(band[key]) + shift).tolist() for key in ("log_odds", "low", "high")}


def _costs(config: CommissionConfig) -> CostConfig:
    return CostConfig(prevalence=config.prevalence)


def _shares(positive: Bools, decided: Bools) -> dict[str, Any]:
    """Sensitivity and specificity with Wilson intervals."""
    return {
        "sensitivity": _known(proportion_estimate(int((decided & positive).sum()), int(positive.sum()))),
        "specificity": _known(proportion_estimate(int((~decided & ~positive).sum()), int((~positive).sum()))),
    }


def _known(estimate: Estimate | None) -> dict[str, Any]:
    assert estimate is not None, "both classes have images"
    return asdict(estimate)


def _area(films: LocalFilms, scores: Scores, config: CommissionConfig) -> dict[str, Any]:
    """AUC with its interval; a line does not change it, so that every image counts.

    With heads, each fold has its own, and only images of one fold are compared with each other.
    """
    held = scores.probability[np.maximum(scores.fold, 0), np.arange(len(films.positive))]
    if np.array_equal(held, films.probability):
        statistic = metrics.roc_auc_statistic(films.positive, held)
    else:
        statistic = metrics.folded_auc_statistic(films.positive, held, scores.fold)
    rng = np.random.default_rng(config.seed)
    draws = bootstrap({"auc": statistic}, films.patients, resamples=config.resamples, rng=rng)["auc"]
    area = float(statistic(np.ones((1, len(films.positive))))[0])
    n, smaller = len(films.positive), films.least_patients
    return _known(bootstrap_estimate(area, draws, n=n, smaller_class=smaller))


def _changed(
    films: LocalFilms,
    document: Mapping[str, Any],
    local: Mapping[str, float],
    adapted: Adapted,
    config: CommissionConfig,
) -> dict[str, Any]:
    """What the site's version says instead: calibration, operating points and selection, from all images."""
    if adapted.line == "none":
        return {key: document[key] for key in SET_BY_LINE if key in document}
    general = HEAD_CALIBRATION if adapted.head else document["calibration"]
    line = general.get("local", {"slope": 1.0, "offset": 0.0})
    together = {
        "slope": local["slope"] * line["slope"],
        "offset": local["slope"] * line["offset"] + local["offset"],
    }
    probability = _apply(films.probability, local)
    points = choose_operating_points(probability, films.positive, _costs(config))
    default = next(point for point in points if point.name == document["default_operating_point"])
    rate = document.get("selection", {}).get("error_rate", SelectionConfig().error_rate)
    calibration = {**general, "local": {**together, "prevalence": config.prevalence}}
    calibration["interval"] = _interval(probability, films, config)
    return {
        "calibration": calibration,
        "operating_points": describe_operating_points(points, films.positive, config.prevalence),
        "selection": fit_selection(probability, films.positive, films.patients, rate, default.threshold),
    }


def _default(points: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(point for point in points if point["name"] == document["default_operating_point"])


GO, CAUTION, NO_GO = "GO", "CAUTION", "NO-GO"

MOST_FILMS = 20_000
"""Where the count of missing images ends: no site will read more."""


class CommissionConfig(Config):
    """What a site asks for.

    ``prevalence``: of pneumonia among those who will be examined. ``interval_width``: of the 95 % intervals
    of sensitivity and specificity. Limits of GO: ``auc``, ``sensitivity`` and ``specificity`` at the default
    operating point, ``refused`` (largest share that the gate refuses), ``calibration_error``, ``class_films``
    (fewest images of a class). ``adapt``: also try a shift of the prior, and a new head on the features.
    """

    prevalence: float = Field(gt=0, lt=1)
    adapt: bool = False
    interval_width: float = Field(default=0.1, gt=0, lt=1)
    auc: float = Field(default=0.9, ge=0.5, le=1)
    sensitivity: float = Field(default=0.9, ge=0, le=1)
    specificity: float = Field(default=0.8, ge=0, le=1)
    refused: float = Field(default=0.1, ge=0, le=1)
    calibration_error: float = Field(default=0.1, ge=0, le=1)
    class_films: int = Field(default=30, ge=1)
    resamples: int = Field(default=RESAMPLES, ge=100, le=100_000)
    seed: int = Field(default=0, ge=0)


def missing_films(share: float, have: int, width: float) -> int:
    """How many more images of a class make the Wilson interval of ``share`` at most ``width`` wide."""
    for films in range(max(have, 1), MOST_FILMS):
        low, high = wilson(round(share * films), films)
        if high - low <= width:
            return films - have
    return MOST_FILMS


def worst_of(checks: Sequence[Mapping[str, Any]]) -> str:
    """The verdict of all checks."""
    verdicts = [check["verdict"] for check in checks]
    return next((verdict for verdict in (NO_GO, CAUTION) if verdict in verdicts), GO)


def missing(figures: Mapping[str, Any], ill: int, well: int, config: CommissionConfig) -> dict[str, int]:
    """Images of each class that are missing for intervals of the wanted width."""
    width = config.interval_width
    return {
        "with pneumonia": missing_films(figures["sensitivity"]["value"], ill, width),
        "without pneumonia": missing_films(figures["specificity"]["value"], well, width),
    }


def compare(local: Mapping[str, Any], validation: Mapping[str, Any]) -> dict[str, Any] | None:
    """The AUC here against that of the bundle's card: two independent samples, normal approximation."""
    card = validation.get("roc_auc")
    if card is None:
        return None
    errors = [(item["high"] - item["low"]) / (2 * norm.ppf(0.975)) for item in (local, card)]
    error = max(float(np.hypot(*errors)), 1e-9)
    difference = local["value"] - card["value"]
    return {
        "card": dict(card),
        "difference": difference,
        "p_value": float(2 * norm.sf(abs(difference) / error)),
        "method": "z test of two independent areas, standard errors from their 95 % intervals",
    }


def judge_site(result: Mapping[str, Any], config: CommissionConfig) -> list[dict[str, Any]]:
    """Every limit, what was found, GO, CAUTION or NO-GO, and why."""
    figures = result["figures"]
    checks = [
        _check("AUC", figures["roc_auc"], config.auc),
        _check("Sensitivity", figures["sensitivity"], config.sensitivity),
        _check("Specificity", figures["specificity"], config.specificity),
        _check("Share refused by the gate", result["refused"], config.refused, least=False),
    ]
    error = figures["calibration_error"]
    fine = error <= config.calibration_error
    checks.append(
        {
            "title": "Calibration error",
            "limit": config.calibration_error,
            "value": error,
            "verdict": GO if fine else CAUTION,
            "reason": f"the calibration error is {error:.3f}, {'within' if fine else 'above'} the limit of "
            f"{config.calibration_error:g}",
        }
    )
    fewest = min(result["answered_ill"], result["answered"] - result["answered_ill"])
    enough = fewest >= config.class_films
    checks.append(
        {
            "title": "Images of the rarer class",
            "limit": config.class_films,
            "value": fewest,
            "verdict": GO if enough else CAUTION,
            "reason": f"the rarer class has {fewest} images; {config.class_films} are wanted",
        }
    )
    return checks


def _check(title: str, figure: Mapping[str, Any], limit: float, *, least: bool = True) -> dict[str, Any]:
    """GO when the whole interval keeps to the limit, NO-GO when none of it does, else CAUTION."""
    low, high = figure["low"], figure["high"]
    kept, broken = (low >= limit, high < limit) if least else (high <= limit, low > limit)
    verdict = GO if kept else NO_GO if broken else CAUTION
    words = {GO: "keeps to", NO_GO: "misses", CAUTION: "may or may not keep to"}[verdict]
    return {
        "title": title,
        "limit": limit,
        "value": figure["value"],
        "verdict": verdict,
        "reason": f"{title} {figure['value']:.3f} ({low:.3f} to {high:.3f}) {words} the limit of "
        f"{'at least' if least else 'at most'} {limit:g}",
    }


SET_BY_LINE = ("calibration", "operating_points", "selection")
"""Keys of the bundle's document that every commissioning sets, if it changes the bundle at all."""

HEAD_CALIBRATION: Mapping[str, Any] = {"method": "temperature", "temperature": 1.0}
"""Of a new head, whose logits are log-odds already; the site's line follows."""

FIRST_KEPT = ("calibration", "operating_points", "default_operating_point", "selection")
"""What a rollback of an entry without ``replaced`` restores: one of a release that could not adapt."""

KEPT = (
    *FIRST_KEPT, "adaptation", "etiology", "gate", "population", "validation",
    "validation_protocol", "intended_use", "limitations",
)  # fmt: skip
"""Keys of the bundle's document that a site changes, and that a rollback restores."""


def commissioned_document(
    document: Mapping[str, Any],
    result: Mapping[str, Any],
    dataset: Mapping[str, str],
    replaced: Sequence[str] = (),
) -> dict[str, Any]:
    """The bundle's document for the site: its version is one higher, its history says why and what was.

    Args:
        document: of the bundle as it is.
        result: of :func:`commission`.
        dataset: ``name`` and ``hash`` of the local images.
        replaced: names of the arrays that are new (:func:`commissioned_arrays`).
    """
    entry = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "what": "commissioned",
        "dataset": dict(dataset),
        **{key: result[key] for key in ("films", "patients", "ill", "verdict", "reasons")},
        "prevalence": result["limits"]["prevalence"],
        "figures": result["figures"],
        **({"adaptation": result["adaptation"]["candidate"]} if "adaptation" in result else {}),
        "replaced": list(replaced),
        "before": {"id": document["id"], **{key: document[key] for key in KEPT if key in document}},
    }
    history = [*document.get("history", []), entry]
    new = {**document, **result["changed"], "history": history, "version": len(history) + 1}
    if "validation" in result["changed"]:
        new.pop("validation_protocol", None)
    del new["created"]
    return new


def commissioned_arrays(
    arrays: Mapping[str, npt.NDArray[Any]], new: Mapping[str, npt.NDArray[Any]], version: int
) -> dict[str, npt.NDArray[Any]]:
    """The bundle's arrays with the ``new`` ones; those that they replace stay as ``version<N>_<name>``.

    Args:
        arrays: of the bundle as it is, in its ``version``.
        new: of the site.
    """
    earlier = {f"version{version}_{name}": arrays[name] for name in new if name in arrays}
    return {**arrays, **new, **earlier}


def rolled_back_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document as it was before the last change, which leaves the history.

    Raises:
        InputError: the bundle is in its first version.
    """
    if not document.get("history"):
        raise InputError(
            "the bundle is in its first version", where=str(document["id"]), expected="a commissioned bundle"
        )
    *history, last = document["history"]
    restored = KEPT if "replaced" in last else FIRST_KEPT
    kept = {
        key: value
        for key, value in document.items()
        if key not in (*restored, "history", "version", "created")
    }
    earlier = {key: value for key, value in last["before"].items() if key != "id"}
    return {**kept, **earlier} | ({"history": history, "version": len(history) + 1} if history else {})


def rolled_back_arrays(
    arrays: Mapping[str, npt.NDArray[Any]], document: Mapping[str, Any]
) -> dict[str, npt.NDArray[Any]]:
    """The arrays as they were before the last change in the ``document``'s history."""
    names = document["history"][-1].get("replaced", [])
    earlier = {name: f"version{len(document['history'])}_{name}" for name in names}
    kept = {name: value for name, value in arrays.items() if name not in {*names, *earlier.values()}}
    return kept | {name: arrays[stored] for name, stored in earlier.items() if stored in arrays}
