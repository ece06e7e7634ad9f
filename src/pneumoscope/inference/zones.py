"""Lung zones: the share of a heat map's evidence in each, and the findings that say where it lies.

A zone is a third of a lung's height: upper, middle or lower, of the patient's right or left lung. By the
radiological convention the patient's right side is the left half of the picture. Where the lungs cannot be
found, zones are thirds of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from pneumoscope.core.findings import Finding
from pneumoscope.core.records import Decision, Prediction

SIDES = ("right", "left")
HEIGHTS = ("upper", "middle", "lower")

FLOOR = 0.5
"""What exceeds this share of the film's strongest evidence counts. A map is never quite dark: with the haze
below that, which covers two thirds of a positive film, every film would light every zone."""

LIT = 0.2
"""A zone with this share of the evidence is named; spread evenly, each of the six would have a sixth."""

SMALLEST_LUNG = 0.02
"""A lung that covers less of the picture was not found: of 300 Guangzhou films the segmenter's smaller lung
covers 4 % or more in 99 of 100, half of them 8 %."""

MANY = 4
"""So many lit zones, or none, are not listed: the evidence is spread."""

_COUNTS = ("", "one-zone", "two-zones", "three-zones")

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ZoneShares:
    """Shares of the evidence: of each zone, and outside the lungs (None where they were not found)."""

    zones: Mapping[str, float]
    outside: float | None


def is_mirrored(source: Mapping[str, str]) -> bool | None:
    """Whether the patient's left is on the left of the picture, from the source's facts; None: not said.

    Patient Orientation (0020,0020) names the direction in which columns go on; ``L`` is the convention
    (DICOM PS3.3 C.7.6.1.1.1).
    """
    direction = source.get("patient_orientation", "")[:1]
    return {"L": False, "R": True}.get(direction)


def zone_shares(
    evidence: npt.NDArray[np.floating], lungs: Mask | None, reach: float, *, mirrored: bool = False
) -> ZoneShares:
    """Share of the evidence in each zone.

    Args:
        evidence: (S, S); what exceeds :data:`FLOOR` of its largest value counts, if that is above 0.
        lungs: (2, S, S), the lung on the left of the picture first; None where nobody looked for them.
        reach: evidence at most so many pixels beside a lung is counted as that lung's: half a cell of the
            network's feature map, which tells places no better than that.
        mirrored: the patient's left is on the left of the picture.

    Returns:
        Shares that sum to 1 with the one outside, or all 0 where there is no evidence.
    """
    counted = np.maximum(evidence - FLOOR * max(float(evidence.max()), 0.0), 0).astype(np.float64)
    total = counted.sum()
    found = lungs is not None and bool((lungs.mean(axis=(1, 2)) >= SMALLEST_LUNG).all())
    zones = _lung_zones(lungs, reach) if lungs is not None and found else _film_zones(counted.shape)
    share = np.bincount(zones.ravel(), counted.ravel(), minlength=7) / (total or 1.0)
    sides = SIDES[::-1] if mirrored else SIDES
    names = [f"{side} {height}" for side in sides for height in HEIGHTS]
    shares = {name: float(value) for name, value in zip(names, share[1:], strict=True)}
    ordered = {f"{side} {height}": shares[f"{side} {height}"] for side in SIDES for height in HEIGHTS}
    return ZoneShares(MappingProxyType(ordered), float(share[0]) if found else None)


def describe(
    shares: ZoneShares, target: str, prediction: Prediction, mirrored: bool | None = None
) -> tuple[Finding, ...]:
    """Where the evidence lies, as one or more findings.

    Args:
        shares: of the map of ``target``.
        target: the pneumonia class that the map speaks for.
        prediction: an image that is called negative has no zone that stands out.
        mirrored: as :func:`is_mirrored` says.
    """
    if prediction.decision is Decision.NEGATIVE:
        return (Finding.note("no-zone"),)
    kind = "pneumonia" if target == "pneumonia" else f"{target} pneumonia"
    outside = shares.outside
    if not any(shares.zones.values()) and not outside:
        return (Finding.note("evidence-nowhere", kind=kind),)
    if outside is not None and outside > 0.5:
        found = [Finding.warning("evidence-outside", kind=kind, share=outside)]
    else:
        found = [_where(shares.zones, kind)]
        if outside is not None and outside >= LIT:
            found.append(Finding.note("evidence-partly-outside", share=outside))
    if outside is None:
        found.append(Finding.note("lungs-not-found"))
    return (*found, Finding.note("mirrored")) if mirrored else tuple(found)


def _where(zones: Mapping[str, float], kind: str) -> Finding:
    lit = sorted((name for name in zones if zones[name] >= LIT), key=zones.__getitem__, reverse=True)
    if not lit or len(lit) >= MANY:
        sides = {side: sum(zones[f"{side} {height}"] for height in HEIGHTS) for side in SIDES}
        stronger = max(SIDES, key=sides.__getitem__)
        if sides[stronger] >= 2 * min(sides.values()):
            return Finding.note(f"evidence-{stronger}-lung", kind=kind, share=sides[stronger])
        return Finding.note("evidence-both-lungs", kind=kind)
    named: dict[str, str | float] = {}
    for number, name in enumerate(lit, start=1):
        named |= {f"zone{number}": name, f"share{number}": zones[name]}
    return Finding.note(f"evidence-{_COUNTS[len(lit)]}", kind=kind, **named)


def _film_zones(shape: tuple[int, ...]) -> npt.NDArray[np.intp]:
    """(S, S): zones 1 to 3 on the left of the picture from top to bottom, 4 to 6 on the right."""
    rows, columns = (np.arange(side) for side in shape)
    return np.add.outer(1 + 3 * rows // shape[0], 3 * (2 * columns // shape[1]))


def _lung_zones(lungs: Mask, reach: float) -> npt.NDArray[np.intp]:
    """(S, S) as :func:`_film_zones`; 0 outside both lungs."""
    from scipy import ndimage

    distances = np.stack([ndimage.distance_transform_edt(~lung) for lung in lungs])
    nearest = distances.argmin(axis=0)
    zones = np.empty((2, *nearest.shape), np.intp)
    for side, lung in enumerate(lungs):
        inside = np.flatnonzero(lung.any(axis=1))
        top, height = inside[0], inside[-1] + 1 - inside[0]
        third = np.clip(3 * (np.arange(len(lung)) - top) // height, 0, 2)
        zones[side] = (1 + 3 * side + third)[:, None]
    chosen = np.take_along_axis(zones, nearest[None], axis=0)[0]
    return np.where(distances.min(axis=0) <= reach, chosen, 0)
