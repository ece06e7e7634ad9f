"""Explanation: heat maps, the lung zones that they light, and the most similar training images.

A map always shows evidence *for* a kind of pneumonia, also on an image that is called negative. Strength: 1
is the image's strongest evidence for the likelier kind when the image is positive at its operating point. On
a negative image the whole map is scaled by probability / threshold, so a confident normal stays dark instead
of having its largest speck of noise blown up to full colour. The map of the less likely kind is scaled by its
probability over that of the likelier one.

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
from pneumoscope.core.records import Decision, Explanation, FloatArray, ModelInput, Prediction, freeze
from pneumoscope.imaging.lungs import lung_masks, segment_lungs
from pneumoscope.imaging.preprocessing import to_original
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.neighbours import nearest_cases
from pneumoscope.inference.prediction import run_network

SIDES = ("right", "left")
HEIGHTS = ("upper", "middle", "lower")

FLOOR = 0.5
"""What exceeds this share of the image's strongest evidence counts. A map is never quite dark: with the haze
below that, which covers two thirds of a positive image, every image would light every zone."""

LIT = 0.2
"""A zone with this share of the evidence is named; spread evenly, each of the six would have a sixth."""

SMALLEST_LUNG = 0.02
"""A lung that covers less of the picture was not found: of 300 Guangzhou images the segmenter's smaller lung
covers 4 % or more in 99 of 100, half of them 8 %."""

MANY = 4
"""So many lit zones, or none, are not listed: the evidence is spread."""

_COUNTS = ("", "one-zone", "two-zones", "three-zones")

Mask = npt.NDArray[np.bool_]

OCCLUSION_CELLS = 12
"""Positions of the occluding patch along each axis; a patch is two cells wide, so neighbours overlap by half.
A lobe is about a third of the image's height: the patch, a sixth, is small enough to find it."""

_CORNERS = [(row, column) for row in range(OCCLUSION_CELLS - 1) for column in range(OCCLUSION_CELLS - 1)]


def explain(
    bundle: Bundle,
    model_input: ModelInput,
    features: npt.NDArray[np.float32],
    prediction: Prediction,
    mirrored: bool | None = None,
) -> Explanation:
    """The heat maps of one image, the zones that they light, and the training images most like it.

    Finding the lungs, for the zones, costs a pass of a second, small network.

    Args:
        bundle: says which method its network allows.
        model_input: what the network saw.
        features: (C, h, w), the network's last feature map of that image.
        prediction: the answer; gives the target (the likelier pneumonia class) and the strength.
        mirrored: what :func:`~pneumoscope.inference.explanation.is_mirrored` says of the file.

    Returns:
        Heat maps (H, W) float32 in [0, 1] on the original pixel grid.
    """
    classes = bundle.task.classes
    target = max(classes[1:], key=prediction.probabilities.__getitem__)
    method = str(bundle.document["explanation"]["method"])
    if method == "class-activation":
        evidence = [
            class_activation(features, bundle.arrays["head_weight"], i) for i in range(1, len(classes))
        ]
    else:
        evidence = list(occlusion_maps(bundle, model_input.array))
    size = bundle.preprocessing.size
    large = {name: enlarge(one, size) for name, one in zip(classes[1:], evidence, strict=True)}
    maps = {
        name: freeze(normalise(to_original(model_input.geometry, one), _strength(prediction, name, target)))
        for name, one in large.items()
    }
    shares = ZoneShares(MappingProxyType({}), None)
    if prediction.decision is not Decision.NEGATIVE:  # such an image has no zone to name
        reach = size / len(evidence[0]) / 2
        field = model_input.lungs
        lungs = lung_masks(field, model_input.geometry) if field else segment_lungs(model_input.array)[0]
        shares = zone_shares(large[target], lungs, reach, mirrored=bool(mirrored))
    return Explanation(
        heat_map=maps[target],
        method=method,
        target=target,
        heat_maps=MappingProxyType(maps),
        zones=shares.zones,
        outside_lungs=shares.outside,
        findings=describe(shares, target, prediction, mirrored),
        nearest=nearest_cases(bundle, features.mean(axis=(1, 2))),
        mirrored=mirrored,
    )


def class_activation(
    features: npt.NDArray[np.float32], head_weight: npt.NDArray[np.float32], target: int
) -> FloatArray:
    """Class-activation map of the log-odds of ``target`` against normal.

    Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, equation 2, with the
    difference of two rows of the head in place of one. The mean of the map plus the difference of the biases
    is the difference of the two logits: every cell shows what it adds.

    Args:
        features: (C, h, w).
        head_weight: (K, C), of a linear head on the features' mean.
        target: class index; 0 is normal.

    Returns:
        (h, w) float32 in logits; positive cells speak for the target.
    """
    weight = head_weight[target] - head_weight[0]
    return np.tensordot(weight, features, axes=1).astype(np.float32)


def occlusion_maps(bundle: Bundle, image: npt.NDArray[np.float32]) -> FloatArray:
    """How much the log-odds of each pneumonia class against normal fall when a patch of the image is hidden.

    Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2; for
    networks without a linear head on pooled features. The patch is filled with the image's mean.

    Args:
        bundle: whose network.
        image: (1, S, S), the model input.

    Returns:
        (K - 1, cells, cells) float32 in logits, without normal; each cell is the mean over the patches that
        cover it.
    """
    logits, _ = run_network(bundle, occluded_films(image))
    return occlusion_evidence(logits[:, 1:] - logits[:, :1])


def occluded_films(image: npt.NDArray[np.float32]) -> FloatArray:
    """The image (1, S, S) with each patch hidden in turn and, last, with nothing hidden: (N + 1, 1, S, S)."""
    edges = np.linspace(0, image.shape[-1], OCCLUSION_CELLS + 1).round().astype(int)
    hidden = np.repeat(image[None], len(_CORNERS) + 1, axis=0)
    for film, (row, column) in zip(hidden, _CORNERS, strict=False):
        film[0, edges[row] : edges[row + 2], edges[column] : edges[column + 2]] = image.mean()
    return hidden


def occlusion_evidence(log_odds: npt.NDArray[np.float32]) -> FloatArray:
    """The maps (K, cells, cells) of log-odds (N + 1, K) of :func:`occluded_films`."""
    total = np.zeros((log_odds.shape[1], OCCLUSION_CELLS, OCCLUSION_CELLS), np.float32)
    count = np.zeros((OCCLUSION_CELLS, OCCLUSION_CELLS), np.float32)
    for drop, (row, column) in zip(log_odds[-1] - log_odds[:-1], _CORNERS, strict=True):
        total[:, row : row + 2, column : column + 2] += drop[:, None, None]
        count[row : row + 2, column : column + 2] += 1
    return total / count


def normalise(evidence: npt.NDArray[np.float32], strength: float) -> FloatArray:
    """Positive evidence from 0 to ``strength``; 0 where there is none."""
    positive = np.maximum(evidence, 0)
    peak = float(positive.max())
    if peak <= 0:
        return np.zeros_like(positive)
    return np.asarray(positive * np.float32(strength / peak))


def enlarge(evidence: FloatArray, size: int) -> FloatArray:
    """(h, w) to (size, size), bicubic, with cell centres where the network has them."""
    from PIL import Image

    return np.asarray(Image.fromarray(evidence).resize((size, size), Image.Resampling.BICUBIC))


def _strength(prediction: Prediction, name: str, target: str) -> float:
    """Peak of the map of ``name``: probability over threshold, at most 1, times its odds to the target."""
    threshold = prediction.operating_point.threshold
    strength = min(1.0, prediction.probability / threshold) if threshold > 0 else 1.0
    likelier = prediction.probabilities[target]
    return strength * prediction.probabilities[name] / likelier if likelier > 0 else strength


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
