"""What an error costs: a missed pneumonia against a false alarm.

In: a configured cost of either error and a prevalence; sensitivity and specificity over thresholds. Out: the
expected cost per 1,000 children, the threshold that makes it least, and how both move as the ratio of costs
and the prevalence change. Only the ratio of the costs matters for the threshold; the unit is the user's.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pneumoscope.core.config import Config
from pneumoscope.core.records import OperatingPoint
from pneumoscope.evaluation.thresholds import ThresholdTable

CHILDREN = 1000
COST_RATIOS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
PREVALENCES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
"""From primary care to the wards of the Guangzhou hospital, whose films show pneumonia in about 73 %."""

_CURVE_POINTS = 200

FloatOrArray = TypeVar("FloatOrArray", float, npt.NDArray[np.float64])


class CostConfig(Config):
    """What errors cost, in any one unit, and how common pneumonia is where the model would be used."""

    missed_pneumonia: float = Field(default=10.0, gt=0)
    false_alarm: float = Field(default=1.0, gt=0)
    prevalence: float | None = Field(default=None, gt=0, lt=1)  # None: that of the films

    @property
    def ratio(self) -> float:
        """Cost of a miss in false alarms."""
        return self.missed_pneumonia / self.false_alarm


def expected_cost(
    sensitivity: FloatOrArray, specificity: FloatOrArray, prevalence: float, costs: CostConfig
) -> FloatOrArray:
    """Expected cost per 1,000 children of deciding with this sensitivity and specificity.

    1000 (prevalence (1 - sensitivity) cost of a miss + (1 - prevalence) (1 - specificity) cost of an alarm).
    """
    misses = prevalence * (1 - sensitivity) * costs.missed_pneumonia
    alarms = (1 - prevalence) * (1 - specificity) * costs.false_alarm
    return CHILDREN * (misses + alarms)


def cheapest(table: ThresholdTable, prevalence: float, costs: CostConfig) -> dict[str, float]:
    """The threshold of least expected cost on these films, and what it does to them."""
    cost = expected_cost(table.sensitivity, table.specificity, prevalence, costs)
    best = int(np.argmin(cost))
    return {
        "threshold": float(table.thresholds[best]),
        "sensitivity": float(table.sensitivity[best]),
        "specificity": float(table.specificity[best]),
        "cost_per_1000": float(cost[best]),
    }


def cost_report(
    table: ThresholdTable, achieved: OperatingPoint, costs: CostConfig, prevalence: float
) -> dict[str, Any]:
    """Everything about costs that a report shows, as plain values.

    Args:
        table: of the films that were scored.
        achieved: the operating point, with its sensitivity and specificity on these films.
        prevalence: applies when ``costs`` states none.

    Returns:
        ``costs``, ``prevalence`` and ``children`` as used; a comparison: ``at_operating_point`` and
        ``cheapest`` (threshold, sensitivity, specificity, cost_per_1000), ``treat_all`` and ``treat_none``
        (cost per 1,000); the same comparison in rows ``by_ratio`` (with ``ratio``) and ``by_prevalence``
        (with ``prevalence``); and ``curve``: lists ``threshold`` and ``cost_per_1000``. A threshold that is
        cheapest on the scored films describes them; nothing is decided with it, as it was not chosen on
        validation films.
    """
    used = costs.prevalence if costs.prevalence is not None else prevalence
    ratios = sorted({*COST_RATIOS, costs.ratio})
    prevalences = sorted({*PREVALENCES, used})
    curve = expected_cost(table.sensitivity, table.specificity, used, costs)
    rows = np.unique(np.linspace(0, len(curve) - 1, _CURVE_POINTS).round().astype(int))
    return {
        "costs": costs.model_dump(),
        "prevalence": used,
        "children": CHILDREN,
        **_compare(table, achieved, used, costs),
        "by_ratio": [
            {"ratio": ratio, **_compare(table, achieved, used, _with_ratio(costs, ratio))} for ratio in ratios
        ],
        "by_prevalence": [
            {"prevalence": value, **_compare(table, achieved, value, costs)} for value in prevalences
        ],
        "curve": {"threshold": table.thresholds[rows].tolist(), "cost_per_1000": curve[rows].tolist()},
    }


def _with_ratio(costs: CostConfig, ratio: float) -> CostConfig:
    return costs.model_copy(update={"missed_pneumonia": ratio * costs.false_alarm})


def _compare(
    table: ThresholdTable, achieved: OperatingPoint, prevalence: float, costs: CostConfig
) -> dict[str, Any]:
    sensitivity, specificity = achieved.sensitivity or 0.0, achieved.specificity or 0.0
    return {
        "at_operating_point": {
            **asdict(achieved),
            "cost_per_1000": expected_cost(sensitivity, specificity, prevalence, costs),
        },
        "cheapest": cheapest(table, prevalence, costs),
        "treat_all": expected_cost(1.0, 0.0, prevalence, costs),
        "treat_none": expected_cost(0.0, 1.0, prevalence, costs),
    }
