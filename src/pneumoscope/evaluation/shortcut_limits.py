"""What a network must bear to be released: the limits of a shortcut audit, and which figures hold.

In: the figures of an audit and the limits. Out: a list of checks, and the verdict of the gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from pneumoscope.core.config import Config
from pneumoscope.evaluation.intervals import RESAMPLES
from pneumoscope.evaluation.shortcut_maps import CLASS_ACTIVATION, GRADIENTS, OCCLUSION
from pneumoscope.evaluation.shortcut_probes import LUNGS_BLACK
from pneumoscope.evaluation.stress_scores import FAIL, PASS
from pneumoscope.imaging.stress import StressKind

OPEN = "open"
"""Not measured, or, of the whole audit: its first check was not measured."""

_PAIRS = {
    CLASS_ACTIVATION: f"{CLASS_ACTIVATION} and {OCCLUSION}",
    OCCLUSION: f"{OCCLUSION} and {GRADIENTS}",
}

Figures = Mapping[str, Any]


class ShortcutConfig(Config):
    """How to audit, and what a network must bear; ``docs/configuration.md`` says what each key means."""

    films: int = Field(default=1000, ge=0)
    map_films: int = Field(default=60, ge=1)
    seed: int = Field(default=0, ge=0)
    resamples: int = Field(default=RESAMPLES, ge=100, le=100_000)
    max_auc_without_lungs: float = Field(default=0.75, ge=0.5, le=1)
    max_accuracy_loss: float = Field(default=1.5, ge=0, le=100)
    min_energy_ratio: float = Field(default=1.2, ge=0)
    min_agreement: float = Field(default=0.3, ge=-1, le=1)
    max_random_similarity: float = Field(default=0.5, ge=0, le=1)
    min_fidelity_gain: float = Field(default=0.01, ge=-1, le=1)


def check_limits(
    probes: Sequence[Figures], maps: Figures | None, config: ShortcutConfig
) -> list[dict[str, Any]]:
    """Every figure that has a limit.

    Args:
        probes: the rows of the audit's ``probes``.
        maps: its ``maps``; None where no film with pneumonia was there.
        config: the limits.

    Returns:
        ``name``, ``title``, ``bound`` (at most, at least), ``limit``, ``value``, ``low``, ``high`` and
        ``n`` (None where it was not measured) and ``verdict`` (pass, fail, open), the most important first.
    """
    return [*_probe_checks(probes, config), *_map_checks(maps or {}, config)]


def failed_checks(checks: Sequence[Figures]) -> list[str]:
    """Titles of the checks that failed."""
    return [check["title"] for check in checks if check["verdict"] == FAIL]


def release_verdict(checks: Sequence[Figures]) -> str:
    """Fail when any check fails; open when the AUC without lungs was not measured; else pass."""
    if failed_checks(checks):
        return FAIL
    return OPEN if next(c for c in checks if c["name"] == LUNGS_BLACK)["verdict"] == OPEN else PASS


def _probe_checks(probes: Sequence[Figures], config: ShortcutConfig) -> list[dict[str, Any]]:
    checks = []
    for row in probes:
        estimates, title = row["estimates"], row["title"]
        if row["kind"] == StressKind.PROBE:
            area = _folded(estimates.get("auc_within"))
            checks.append(_check(row["name"], f"AUC: {title}", area, "at most", config.max_auc_without_lungs))
        if row["kind"] == StressKind.LIMITED:
            loss = None if row["unmeasured"] else _negated(estimates["accuracy_change"])
            checks.append(
                _check(
                    row["name"],
                    f"Points of accuracy lost: {title}",
                    loss,
                    "at most",
                    config.max_accuracy_loss,
                )
            )
    return checks


def _map_checks(maps: Figures, config: ShortcutConfig) -> list[dict[str, Any]]:
    # What is shown is held against another method: occlusion, or what occlusion itself can be held against.
    pair = _PAIRS.get(maps.get("method", ""), _PAIRS[CLASS_ACTIVATION])
    agreement = maps.get("agreement", {}).get(pair, {})
    fidelity = maps.get("fidelity", {})
    ratio = maps.get("energy", {}).get("lungs", {}).get("ratio")
    checks = [
        _check("energy", "Heat map in the lungs, over their share of the film", ratio, "at least",
               config.min_energy_ratio),
        _check("agreement", f"Rank correlation of heat maps: {pair}",
               agreement.get("rank_correlation"), "at least", config.min_agreement),
    ]  # fmt: skip
    for level in ("head", "all"):
        alike = maps.get("randomised", {}).get(level, {}).get("rank_correlation")
        title = f"Map like that of random weights ({level})"
        checks.append(_check(f"random-{level}", title, alike, "at most", config.max_random_similarity))
    for curve, title in (
        ("deletion", "Deletion: area below a random order's"),
        ("insertion", "Insertion: area above a random order's"),
    ):
        gain = fidelity.get(curve, {}).get("gain")
        checks.append(_check(curve, title, gain, "at least", config.min_fidelity_gain))
    return checks


def _check(name: str, title: str, estimate: Figures | None, bound: str, limit: float) -> dict[str, Any]:
    figures = {key: estimate[key] if estimate else None for key in ("value", "low", "high", "n")}
    verdict = OPEN
    if estimate:
        value = estimate["value"]
        verdict = PASS if (value <= limit if bound == "at most" else value >= limit) else FAIL
    return {"name": name, "title": title, "bound": bound, "limit": limit, **figures, "verdict": verdict}


def _folded(area: Figures | None) -> Figures | None:
    """An AUC below one half tells the classes apart as well as its mirror image does."""
    if area is None or area["value"] >= 0.5:
        return area
    return {**area, "value": 1 - area["value"], "low": 1 - area["high"], "high": 1 - area["low"]}


def _negated(change: Figures) -> Figures:
    return {**change, "value": 0 - change["value"], "low": 0 - change["high"], "high": 0 - change["low"]}
