"""Where on the film the evidence for pneumonia lies: heat maps, zones, and the training films most alike.

In: the network's features, its head's weights and its answer. Out: an :class:`Explanation`. A map always
shows evidence *for* a kind of pneumonia, also on a film that is called negative.

Strength: 1 is the film's strongest evidence for the likelier kind when the film is positive at its operating
point. On a negative film the whole map is scaled by probability / threshold, so a confident normal stays dark
instead of having its largest speck of noise blown up to full colour. The map of the less likely kind is
scaled by its probability over that of the likelier one.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import Decision, Explanation, FloatArray, ModelInput, Prediction, freeze
from pneumoscope.imaging.preprocessing import to_original
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.lungs import segment_lungs
from pneumoscope.inference.neighbours import nearest_cases
from pneumoscope.inference.prediction import run_network
from pneumoscope.inference.zones import ZoneShares, describe, zone_shares

OCCLUSION_CELLS = 12
"""Positions of the occluding patch along each axis; a patch is two cells wide, so neighbours overlap by half.
A lobe is about a third of the film's height: the patch, a sixth, is small enough to find it."""

_CORNERS = [(row, column) for row in range(OCCLUSION_CELLS - 1) for column in range(OCCLUSION_CELLS - 1)]


def explain(
    bundle: Bundle,
    model_input: ModelInput,
    features: npt.NDArray[np.float32],
    prediction: Prediction,
    mirrored: bool | None = None,
) -> Explanation:
    """The heat maps of one film, the zones that they light, and the training films most like it.

    Finding the lungs, for the zones, costs a pass of a second, small network.

    Args:
        bundle: says which method its network allows.
        model_input: what the network saw.
        features: (C, h, w), the network's last feature map of that film.
        prediction: the answer; gives the target (the likelier pneumonia class) and the strength.
        mirrored: what :func:`~pneumoscope.inference.zones.is_mirrored` says of the file.

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
    if prediction.decision is not Decision.NEGATIVE:  # such a film has no zone to name
        reach = size / len(evidence[0]) / 2
        lungs = segment_lungs(model_input.array)[0]
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
    """How much the log-odds of each pneumonia class against normal fall when a patch of the film is hidden.

    Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2; for
    networks without a linear head on pooled features. The patch is filled with the film's mean.

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
    """The film (1, S, S) with each patch hidden in turn and, last, with nothing hidden: (N + 1, 1, S, S)."""
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
