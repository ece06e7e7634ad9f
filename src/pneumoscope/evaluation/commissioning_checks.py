"""Whether a site may use a bundle: limits, films that are missing, and the bundle's own card.

In: the figures of :mod:`~pneumoscope.evaluation.commissioning`. Out: checks with a reason each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field
from scipy.stats import norm

from pneumoscope.core.config import Config
from pneumoscope.evaluation.intervals import RESAMPLES, wilson

GO, CAUTION, NO_GO = "GO", "CAUTION", "NO-GO"

MOST_FILMS = 20_000
"""Where the count of missing films ends: no site will read more."""


class CommissionConfig(Config):
    """What a site asks for.

    ``prevalence``: of pneumonia among those who will be examined. ``interval_width``: of the 95 % intervals
    of sensitivity and specificity. Limits of GO: ``auc``, ``sensitivity`` and ``specificity`` at the default
    operating point, ``refused`` (largest share that the gate refuses), ``calibration_error``, ``class_films``
    (fewest films of a class).
    """

    prevalence: float = Field(gt=0, lt=1)
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
    """How many more films of a class make the Wilson interval of ``share`` at most ``width`` wide."""
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
    """Films of each class that are missing for intervals of the wanted width."""
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
            "title": "Films of the rarer class",
            "limit": config.class_films,
            "value": fewest,
            "verdict": GO if enough else CAUTION,
            "reason": f"the rarer class has {fewest} films; {config.class_films} are wanted",
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
