"""Operating points: decision thresholds chosen on validation images, and the expected cost of errors.

Four points are chosen: ``screening`` misses few, ``rule-in`` has few false alarms, ``balanced`` weighs
sensitivity and specificity alike, ``cost`` minimises the expected cost. The best threshold of a finite sample
is itself noise, so a threshold is the middle, in log-odds, of all neighbouring thresholds within one standard
error of the best (the one-standard-error rule of Breiman et al., Classification and Regression Trees, 1984,
3.4.3). In simulations with 150 to 500 validation images this lowers the cost on new images against the plain
optimum, by up to a sixth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.special import expit, logit

from pneumoscope.core.config import Config
from pneumoscope.core.errors import InputError
from pneumoscope.core.records import OperatingPoint
from pneumoscope.evaluation.intervals import predictive_value_estimates, proportion_estimate

_CLIP = 1e-12  # keeps the logits of probabilities 0 and 1 finite

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ThresholdTable:
    """What each threshold does to the images; an image is positive when its probability >= threshold.

    Attributes:
        thresholds: (M,) rising, each strictly between two neighbouring probabilities, or beyond all.
        sensitivity, specificity: (M,) in [0, 1].
        positives, negatives: images behind them.
    """

    thresholds: Floats
    sensitivity: Floats
    specificity: Floats
    positives: int
    negatives: int

    @property
    def logits(self) -> Floats:
        """(M,) log-odds of the thresholds, finite."""
        return np.asarray(logit(np.clip(self.thresholds, _CLIP, 1 - _CLIP)))


def threshold_table(positive: npt.NDArray[np.bool_], probability: Floats) -> ThresholdTable:
    """The table of images with reference ``positive`` (N,) and ``probability`` (N,) in [0, 1].

    Raises:
        InputError: the images are all with or all without pneumonia.
    """
    ill, well = np.sort(probability[positive]), np.sort(probability[~positive])
    if not len(ill) or not len(well):
        raise InputError(
            f"thresholds need both classes; {len(ill)} images with pneumonia, {len(well)} without",
            remedy="choose images that hold both",
        )
    thresholds = _between(np.unique(probability))
    return ThresholdTable(
        thresholds=thresholds,
        sensitivity=1 - np.searchsorted(ill, thresholds) / len(ill),
        specificity=np.searchsorted(well, thresholds) / len(well),
        positives=len(ill),
        negatives=len(well),
    )


def _between(observed: Floats) -> Floats:
    """Midpoints, in log-odds, of neighbours among rising ``observed``; halfway to 0 and to 1 beyond the ends.

    None equals an observed probability, so that no decision hangs on the last bit; two neighbours that
    float64 cannot part have no threshold between them.
    """
    below, above = observed[:-1], observed[1:]
    odds = logit(np.clip(observed, _CLIP, 1 - _CLIP))
    middle = expit((odds[:-1] + odds[1:]) / 2)
    middle = np.where((middle > below) & (middle < above), middle, (below + above) / 2)
    candidates = np.concatenate([[observed[0] / 2], middle, [(1 + observed[-1]) / 2]])
    return candidates[~np.isin(candidates, observed)]


CHILDREN = 1000
COST_RATIOS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
PREVALENCES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
"""From primary care to the wards of the Guangzhou hospital, whose images show pneumonia in about 73 %."""

_CURVE_POINTS = 200

FloatOrArray = TypeVar("FloatOrArray", float, npt.NDArray[np.float64])


class CostConfig(Config):
    """What errors cost, in any one unit, and how common pneumonia is where the model would be used."""

    missed_pneumonia: float = Field(default=10.0, gt=0)
    false_alarm: float = Field(default=1.0, gt=0)
    prevalence: float | None = Field(default=None, gt=0, lt=1)  # None: that of the images

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
    """The threshold of least expected cost on these images, and what it does to them."""
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
        table: of the images that were scored.
        achieved: the operating point, with its sensitivity and specificity on these images.
        prevalence: applies when ``costs`` states none.

    Returns:
        ``costs``, ``prevalence`` and ``children`` as used; a comparison: ``at_operating_point`` and
        ``cheapest`` (threshold, sensitivity, specificity, cost_per_1000), ``treat_all`` and ``treat_none``
        (cost per 1,000); the same comparison in rows ``by_ratio`` (with ``ratio``) and ``by_prevalence``
        (with ``prevalence``); and ``curve``: lists ``threshold`` and ``cost_per_1000``. A threshold that is
        cheapest on the scored images describes them; nothing is decided with it, as it was not chosen on
        validation images.
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


SCREENING_SENSITIVITY = 0.98
RULE_IN_SPECIFICITY = 0.98
"""Our choice of two misses, or two false alarms, in a hundred: no standard fixes either."""

EXAMPLE_PREVALENCES = (0.05, 0.2, 0.5)
"""From children with cough in primary care to a ward: where a predictive value is told besides."""

Bools = npt.NDArray[np.bool_]


def choose_operating_points(
    probability: npt.NDArray[np.floating], positive: Bools, costs: CostConfig | None = None
) -> tuple[OperatingPoint, ...]:
    """The operating points ``screening``, ``balanced``, ``rule-in`` and ``cost``, in this order.

    Args:
        probability: (N,) calibrated probability of pneumonia of validation images, in [0, 1].
        positive: (N,) reference.
        costs: of the errors; prevalence None means that of the images.

    Returns:
        Each with sensitivity, specificity and n on these images; an image is positive when its probability
        is at least the threshold, and no image lies on one. The thresholds of screening, balanced and
        rule-in rise.

    Raises:
        InputError: the images are all with or all without pneumonia.
    """
    costs = costs or CostConfig()
    positive = np.asarray(positive, dtype=bool)
    table = threshold_table(positive, np.asarray(probability, dtype=np.float64))
    prevalence = costs.prevalence if costs.prevalence is not None else float(positive.mean())
    balanced = _near_best(table, 0.5, 0.5)
    screening = _middle(table, _constrained(table.sensitivity, SCREENING_SENSITIVITY, table.specificity))
    rule_in = _middle(table, _constrained(table.specificity, RULE_IN_SPECIFICITY, table.sensitivity))
    # Where the images allow both demands at once, the names would otherwise be in no order.
    rows = {
        "screening": min(screening, balanced),
        "balanced": balanced,
        "rule-in": max(rule_in, balanced),
        "cost": _near_best(
            table,
            expected_cost(0.0, 1.0, prevalence, costs),
            expected_cost(1.0, 0.0, prevalence, costs),
        ),
    }
    return tuple(_point(name, table, row) for name, row in rows.items())


def describe_operating_points(
    points: Sequence[OperatingPoint], positive: Bools, stated: float | None = None
) -> list[dict[str, Any]]:
    """The ``operating_points`` of a bundle: what validation showed at each, with intervals.

    Args:
        points: as chosen on the images.
        positive: (N,) reference of the images.
        stated: a prevalence of the user's; None is that of the images.

    Returns:
        The values of each point, and ``intervals`` (sensitivity, specificity) and ``predictive_values``: rows
        with ``prevalence``, ``what`` it is, and ``ppv`` and ``npv``, None where nothing is called that way.
    """
    ill, well = int(positive.sum()), int((~positive).sum())
    own = float(positive.mean())
    prevalences = {stated or own: "stated" if stated else "that of the images"}
    prevalences |= {value: "example" for value in EXAMPLE_PREVALENCES if value not in prevalences}
    found = []
    for point in points:
        assert point.sensitivity is not None, "chosen on images"
        assert point.specificity is not None, "chosen on images"
        hits, cleared = round(point.sensitivity * ill), round(point.specificity * well)
        sensitivity, specificity = (hits, ill), (cleared, well)
        rows = []
        for prevalence, what in prevalences.items():
            values = predictive_value_estimates(sensitivity, specificity, prevalence)
            shown = {name: asdict(values[name]) if name in values else None for name in ("ppv", "npv")}
            rows.append({"prevalence": prevalence, "what": what, **shown})
        shares = {"sensitivity": sensitivity, "specificity": specificity}
        intervals = {name: proportion_estimate(*share) for name, share in shares.items()}
        found.append(
            {
                **asdict(point),
                "intervals": {name: asdict(one) for name, one in intervals.items() if one is not None},
                "predictive_values": rows,
            }
        )
    return found


def _point(name: str, table: ThresholdTable, row: int) -> OperatingPoint:
    return OperatingPoint(
        name=name,
        threshold=float(table.thresholds[row]),
        sensitivity=float(table.sensitivity[row]),
        specificity=float(table.specificity[row]),
        n=table.positives + table.negatives,
    )


def _constrained(kept: Floats, floor: float, best: Floats) -> Bools:
    """Rows where ``best`` is highest while ``kept`` is at the floor, or as near to it as images allow."""
    allowed: Bools = kept >= min(floor, float(kept.max()))
    return np.asarray(allowed & (best == best[allowed].max()))


def _near_best(table: ThresholdTable, ill_weight: float, well_weight: float) -> int:
    """Middle row round the best weighted sum of sensitivity and specificity, within one standard error."""
    gain = ill_weight * table.sensitivity + well_weight * table.specificity
    best = int(np.argmax(gain))
    error = np.hypot(
        ill_weight * _standard_error(float(table.sensitivity[best]), table.positives),
        well_weight * _standard_error(float(table.specificity[best]), table.negatives),
    )
    poor = np.flatnonzero(gain < gain[best] - error)
    first = poor[poor < best].max(initial=-1) + 1
    last = poor[poor > best].min(initial=len(gain)) - 1
    rows = np.arange(len(gain))
    return _middle(table, (rows >= first) & (rows <= last))


def _standard_error(share: float, n: int) -> float:
    """Of a proportion; never 0, as two successes and two failures are added (Agresti & Coull, 1998)."""
    adjusted = (share * n + 2) / (n + 4)
    return float(np.sqrt(adjusted * (1 - adjusted) / (n + 4)))


def _middle(table: ThresholdTable, eligible: Bools) -> int:
    """The eligible row nearest to the middle, in log-odds, between the first and the last eligible row."""
    rows = np.flatnonzero(eligible)
    logits = table.logits[rows]
    return int(rows[np.argmin(np.abs(logits - (logits[0] + logits[-1]) / 2))])
