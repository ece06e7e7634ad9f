"""Setting a bundle up for a site: recalibration, operating points and a verdict from a few local films.

A network that was good elsewhere is a stranger here. Some tens to hundreds of labelled local films say
whether it may be used, at which thresholds, and what its probabilities mean at the site's prevalence. With so
few films only two numbers are fitted, and no figure comes from films that chose them: patients are parted
into folds, each measured with what the others fitted.

In: what a bundle said of local films, and what the gate said of them. Out: one JSON-able dictionary with
figures, missing films, checks, a verdict, and what the site's version of the bundle says instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from sklearn.model_selection import StratifiedGroupKFold

from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Estimate, Verdict
from pneumoscope.evaluation import weighted_metrics as weighted
from pneumoscope.evaluation.calibration_interval import calibration_interval
from pneumoscope.evaluation.commissioning_checks import (
    GO,
    CommissionConfig,
    compare,
    judge_site,
    missing,
    worst_of,
)
from pneumoscope.evaluation.conformal import SelectionConfig, fit_selection
from pneumoscope.evaluation.costs import CostConfig
from pneumoscope.evaluation.intervals import (
    bootstrap,
    bootstrap_estimate,
    predictive_value_estimates,
    proportion_estimate,
)
from pneumoscope.evaluation.metrics import expected_calibration_error, roc_auc
from pneumoscope.evaluation.operating_points import choose_operating_points, describe_operating_points
from pneumoscope.inference.prediction import log_odds

FOLDS = 5
SLOPE_DEVIATION = 0.5
"""Standard deviation of the slope's prior round 1, a choice: a few films cannot turn the network round."""

ECE_BINS = 5
"""Fewer than for a test set: with a hundred films a bin still holds twenty."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LocalFilms:
    """What is known of N local films.

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
        """The films that the gate does not refuse."""
        rows = np.array([verdict is not Verdict.REFUSE for verdict in self.verdicts])
        return LocalFilms(
            self.probability[rows],
            self.positive[rows],
            tuple(key for key, kept in zip(self.patients, rows, strict=True) if kept),
            tuple(verdict for verdict, kept in zip(self.verdicts, rows, strict=True) if kept),
        )


def fit_local(films: LocalFilms, prevalence: float) -> dict[str, float]:
    """Logistic recalibration for a site and its prevalence.

    The slope is drawn towards 1 (a normal prior), the offset is free; then the offset is moved from the
    films' share of pneumonia to the stated prevalence (Saerens et al., Neural Computation 14, 2002).

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


def commission(films: LocalFilms, document: Mapping[str, Any], config: CommissionConfig) -> dict[str, Any]:
    """Measure a bundle on local films, fit it to them, and judge.

    Args:
        films: local, none of which the bundle was trained on.
        document: of the bundle.
        config: prevalence and limits.

    Returns:
        ``films``, ``patients``, ``ill``, ``refused``, ``warned``, ``local`` (the fitted line), ``changed``
        (the bundle's keys for this site), ``figures``, ``before`` (sensitivity and specificity at today's
        threshold), ``missing``, ``comparison``, ``checks``, ``verdict`` and ``reasons``.

    Raises:
        InputError: fewer than two answered patients of a class.
    """
    answered = films.answered
    _require_both(answered)
    local = fit_local(answered, config.prevalence)
    figures = _measure(answered, document, config)
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
        "changed": _changed(answered, document, local, config),
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
                f"{len(patients)} patients {name} pneumonia among the films that the gate lets through",
                expected="at least 2, and some tens for a verdict",
                remedy="add local films of that class, or look why the gate refuses them",
            )


def _measure(films: LocalFilms, document: Mapping[str, Any], config: CommissionConfig) -> dict[str, Any]:
    """Figures of each film with line and threshold that other patients' films fitted."""
    probability, decided = np.empty(len(films.positive)), np.zeros(len(films.positive), dtype=bool)
    name = document["default_operating_point"]
    for rows, held in _folds(films, config.seed):
        others = _rows(films, rows)
        fitted = _apply(films.probability, fit_local(others, config.prevalence))
        points = choose_operating_points(fitted[rows], others.positive, _costs(config))
        threshold = next(point.threshold for point in points if point.name == name)
        probability[held], decided[held] = fitted[held], fitted[held] >= threshold
    weights = np.where(
        films.positive,
        config.prevalence / films.positive.mean(),
        (1 - config.prevalence) / (~films.positive).mean(),
    )
    counts = _shares(films.positive, decided)
    sensitivity, specificity = ((round(e["value"] * e["n"]), e["n"]) for e in counts.values())
    values = predictive_value_estimates(sensitivity, specificity, config.prevalence)
    return {
        "roc_auc": _area(films, config),
        **counts,
        **{key: asdict(value) for key, value in values.items()},
        "calibration_error": expected_calibration_error(
            films.positive, _at_share(probability, films, config), ECE_BINS
        ),
        "mean_probability": float(np.average(probability, weights=weights)),
    }


def _folds(films: LocalFilms, seed: int) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    smaller = min(
        len({key for key, own in zip(films.patients, rows, strict=True) if own})
        for rows in (films.positive, ~films.positive)
    )
    splitter = StratifiedGroupKFold(min(FOLDS, smaller), shuffle=True, random_state=seed)
    folds = list(splitter.split(films.probability, films.positive, films.patients))
    return [(rows, held) for rows, held in folds if len(held) and 0 < films.positive[rows].mean() < 1]


def _rows(films: LocalFilms, rows: npt.NDArray[np.int64]) -> LocalFilms:
    keep = rows.tolist()
    return LocalFilms(
        films.probability[rows],
        films.positive[rows],
        tuple(films.patients[row] for row in keep),
        tuple(films.verdicts[row] for row in keep),
    )


def _apply(probability: Floats, line: Mapping[str, float]) -> Floats:
    return np.asarray(1 / (1 + np.exp(-(line["slope"] * log_odds(probability) + line["offset"]))))


def _at_share(probability: Floats, films: LocalFilms, config: CommissionConfig) -> Floats:
    """Probabilities at the films' own share of pneumonia, where frequencies can be counted."""
    return _apply(probability, {"slope": 1.0, "offset": -_shift(films, config.prevalence)})


def _shift(films: LocalFilms, prevalence: float) -> float:
    """What moves log-odds from the films' own share of pneumonia to a prevalence."""
    share = float(films.positive.mean())
    return float(np.log(prevalence / (1 - prevalence)) - np.log(share / (1 - share)))


def _interval(probability: Floats, films: LocalFilms, config: CommissionConfig) -> dict[str, Any] | None:
    """The band of the site's calibration: found at the films' share of pneumonia, moved to the stated one."""
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
    assert estimate is not None, "both classes have films"
    return asdict(estimate)


def _area(films: LocalFilms, config: CommissionConfig) -> dict[str, Any]:
    """AUC with its interval; a line does not change it, so that every film counts."""
    area = roc_auc(films.positive, films.probability)
    assert area is not None, "both classes have films"
    draws = bootstrap(
        {"auc": weighted.roc_auc_statistic(films.positive, films.probability)},
        films.patients,
        resamples=config.resamples,
        rng=np.random.default_rng(config.seed),
    )
    patients = np.array(films.patients)
    smaller = min(len(np.unique(patients[rows])) for rows in (films.positive, ~films.positive))
    return _known(bootstrap_estimate(area, draws["auc"], n=len(patients), smaller_class=smaller))


def _changed(
    films: LocalFilms, document: Mapping[str, Any], local: Mapping[str, float], config: CommissionConfig
) -> dict[str, Any]:
    """What the site's version says instead: calibration, operating points and selection, from all films."""
    line = document["calibration"].get("local", {"slope": 1.0, "offset": 0.0})
    together = {
        "slope": local["slope"] * line["slope"],
        "offset": local["slope"] * line["offset"] + local["offset"],
    }
    probability = _apply(films.probability, local)
    points = choose_operating_points(probability, films.positive, _costs(config))
    default = next(point for point in points if point.name == document["default_operating_point"])
    rate = document.get("selection", {}).get("error_rate", SelectionConfig().error_rate)
    calibration = {**document["calibration"], "local": {**together, "prevalence": config.prevalence}}
    calibration["interval"] = _interval(probability, films, config)
    return {
        "calibration": calibration,
        "operating_points": describe_operating_points(points, films.positive, config.prevalence),
        "selection": fit_selection(probability, films.positive, films.patients, rate, default.threshold),
    }


def _default(points: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(point for point in points if point["name"] == document["default_operating_point"])
