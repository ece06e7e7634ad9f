"""Results of an evaluation in words and rows: goals, natural frequencies, metrics, costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pneumoscope.evaluation.metrics import TITLES
from pneumoscope.evaluation.selective import SELECTIVE_TITLES

GOAL = 0.90
"""What precision, recall and F1 each have to reach: the project's success criterion, set beforehand."""

_GOALS = {"precision": "Precision", "sensitivity": "Recall (sensitivity)", "f1": "F1"}
_MEANING = {
    "precision": "of the alarms, the share that is right",
    "sensitivity": "of the images with pneumonia, the share that is found",
    "f1": "harmonic mean of the two",
}
_GROUPS = {
    "Yes or no: is there pneumonia? (at the operating point)": (
        "sensitivity",
        "specificity",
        "false_negative_rate",
        "precision",
        "f1",
        "accuracy",
        "balanced_accuracy",
        "ppv",
        "npv",
    ),
    "Ranking, whatever the threshold": ("roc_auc", "average_precision"),
    "Can the probabilities be believed? (lower is better)": ("ece", "brier", "log_loss"),
    "Normal, bacterial or viral": (
        "three_class_accuracy",
        "macro_f1",
        "macro_auc",
        "bacterial_vs_viral_auc",
        "precision_normal",
        "recall_normal",
        "precision_bacterial",
        "recall_bacterial",
        "precision_viral",
        "recall_viral",
    ),
}
_SUBGROUP_METRICS = ("sensitivity", "specificity", "roc_auc")

Estimates = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Goal:
    """A success criterion: the estimate, and ``met``, ``open`` (interval reaches below) or ``missed``."""

    name: str
    meaning: str
    goal: float
    estimate: Mapping[str, Any]
    state: str

    @property
    def short(self) -> str:
        """The name inside a sentence."""
        return self.name if self.name == "F1" else self.name.partition(" ")[0].lower()

    @property
    def words(self) -> str:
        """The state for people."""
        return {
            "met": "met",
            "open": "met, but the interval reaches below",
            "missed": "not met",
        }[self.state]


@dataclass(frozen=True, slots=True)
class Frequency:
    """A share as a natural frequency: ``count`` of 100, in ``words``, with its interval in ``range``."""

    count: int
    words: str
    range: str


def goals(estimates: Estimates, goal: float = GOAL) -> tuple[Goal, ...]:
    """Precision, recall and F1 against ``goal``; a metric that is undefined on these images is left out."""
    found = []
    for key, name in _GOALS.items():
        if key in estimates:
            estimate = estimates[key]
            met = estimate["value"] >= goal
            state = ("met" if estimate["low"] >= goal else "open") if met else "missed"
            found.append(Goal(name, _MEANING[key], goal, estimate, state))
    return tuple(found)


def verdict(found: Sequence[Goal]) -> str:
    """One sentence about all goals."""
    if len(found) < len(_GOALS):
        return "Not all goals can be judged, because these images do not show both classes."
    missed = [goal.short for goal in found if goal.state == "missed"]
    still_open = [goal.short for goal in found if goal.state == "open"]
    what = f"precision, recall and F1 of at least {found[0].goal:.2f}"
    if missed:
        return f"The goals ({what}) are not all met: {_listed(missed)} fell short."
    if still_open:
        return f"The goals ({what}) are met, but the uncertainty of {_listed(still_open)} reaches below."
    return f"The goals ({what}) are all met, also at the lower end of their uncertainty."


def frequencies(estimates: Estimates) -> tuple[Frequency, Frequency] | None:
    """Missed pneumonias per 100 ill and false alarms per 100 healthy children; None when undefined."""
    if not {"sensitivity", "specificity"} <= set(estimates):
        return None
    return _frequency(estimates["sensitivity"]), _frequency(estimates["specificity"])


def _frequency(estimate: Mapping[str, Any]) -> Frequency:
    """The complement of ``estimate``, of 100, with the interval rounded outwards."""
    share = 100 * (1 - estimate["value"])
    low = math.floor(round(100 * (1 - estimate["high"]), 6))
    high = math.ceil(round(100 * (1 - estimate["low"]), 6))
    count = math.floor(round(share, 6) + 0.5)
    if share == 0:
        words = "none"
    elif count == 0:
        words = "fewer than 1"
    else:
        words = f"about {count}"
    return Frequency(count, words, f"{low} to {high}")


def metric_groups(estimates: Estimates) -> list[tuple[str, list[tuple[str, Mapping[str, Any]]]]]:
    """The metrics that are defined, grouped for reading: (title, rows of (metric's title, estimate))."""
    grouped = {name for names in _GROUPS.values() for name in names}
    groups = {**_GROUPS, "Further figures": tuple(name for name in estimates if name not in grouped)}
    found = (
        (title, [(TITLES.get(name, name), estimates[name]) for name in names if name in estimates])
        for title, names in groups.items()
    )
    return [(title, rows) for title, rows in found if rows]


def subgroup_rows(
    by_subgroup: Mapping[str, Estimates],
) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """(subgroup, its sensitivity, specificity and AUC; None where undefined), in the order given."""
    return [
        (name, [estimates.get(metric) for metric in _SUBGROUP_METRICS])
        for name, estimates in by_subgroup.items()
    ]


def selection_rows(selection: Mapping[str, Any] | None) -> list[tuple[str, Mapping[str, Any]]]:
    """(title, estimate) of what abstention buys, in reading order; none where nothing abstains."""
    if selection is None:
        return []
    return [(SELECTIVE_TITLES[name], estimate) for name, estimate in selection["estimates"].items()]


def selection_sentence(selection: Mapping[str, Any] | None) -> str:
    """What was answered, at which error rate, in one paragraph."""
    if selection is None:
        return "Every image is answered: nothing here abstains."
    counts = selection["counts"]
    whose = (
        "each network's own default operating point" if selection["own_points"] else "this operating point"
    )
    rates = [
        f"{100 * selection[key]:g} % for {what}"
        for key, what in (("error_rate", "the answer"), ("etiology_error_rate", "the etiology"))
        if selection[key] is not None
    ]
    promised = f"Promised error rate: {' and '.join(rates)}, for each class by itself. " if rates else ""
    return (
        f"{promised}At {whose} {counts['positive']:,} images are positive, {counts['negative']:,} negative "
        f"and {counts['abstained']:,} are not answered, as the image fits both answers or neither."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
