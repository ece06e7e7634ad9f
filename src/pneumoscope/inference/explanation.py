"""Where on the film the evidence for pneumonia lies: a heat map on the film's own pixel grid.

In: the network's features, its head's weights and its answer. Out: an :class:`Explanation`. The map always
shows evidence *for* pneumonia (of the likelier etiology), also on a film that is called negative.

Strength: 1 is the film's strongest evidence when the film is positive at its operating point. On a negative
film the whole map is scaled by probability / threshold, so a confident normal stays dark instead of having
its largest speck of noise blown up to full colour.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import Explanation, FloatArray, ModelInput, Prediction, freeze
from pneumoscope.imaging.preprocessing import to_original
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.overlay import overlay
from pneumoscope.inference.prediction import run_network

__all__ = ["class_activation", "explain", "occlusion", "overlay"]

OCCLUSION_CELLS = 12
"""Positions of the occluding patch along each axis; a patch is two cells wide, so neighbours overlap by half.
A lobe is about a third of the film's height: the patch, a sixth, is small enough to find it."""


def explain(
    bundle: Bundle, model_input: ModelInput, features: npt.NDArray[np.float32], prediction: Prediction
) -> Explanation:
    """The heat map of one film.

    Args:
        bundle: says which method its network allows.
        model_input: what the network saw.
        features: (C, h, w), the network's last feature map of that film.
        prediction: the answer; gives the target (the likelier pneumonia class) and the strength.

    Returns:
        Heat map (H, W) float32 in [0, 1] on the original pixel grid.
    """
    classes = bundle.task.classes
    target = max(classes[1:], key=prediction.probabilities.__getitem__)
    index = classes.index(target)
    method = str(bundle.document["explanation"]["method"])
    if method == "class-activation":
        evidence = class_activation(features, bundle.arrays["head_weight"], index)
    else:
        evidence = occlusion(bundle, model_input.array, index)
    size = bundle.preprocessing.size
    on_film = to_original(model_input.geometry, _enlarge(evidence, size))
    return Explanation(freeze(normalise(on_film, prediction)), method, target)


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


def occlusion(bundle: Bundle, image: npt.NDArray[np.float32], target: int) -> FloatArray:
    """How much the log-odds of ``target`` against normal fall when a patch of the film is hidden.

    Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2; for
    networks without a linear head on pooled features. The patch is filled with the film's mean.

    Args:
        bundle: whose network.
        image: (1, S, S), the model input.
        target: class index; 0 is normal.

    Returns:
        (cells, cells) float32 in logits; each cell is the mean over the patches that cover it.
    """
    edges = np.linspace(0, image.shape[-1], OCCLUSION_CELLS + 1).round().astype(int)
    corners = [(row, column) for row in range(OCCLUSION_CELLS - 1) for column in range(OCCLUSION_CELLS - 1)]
    hidden = np.repeat(image[None], len(corners) + 1, axis=0)
    for film, (row, column) in zip(hidden, corners, strict=False):
        film[0, edges[row] : edges[row + 2], edges[column] : edges[column + 2]] = image.mean()
    logits, _ = run_network(bundle, hidden)  # the last film has nothing hidden
    log_odds = logits[:, target] - logits[:, 0]
    total, count = (np.zeros((OCCLUSION_CELLS, OCCLUSION_CELLS), np.float32) for _ in range(2))
    for drop, (row, column) in zip(log_odds[-1] - log_odds[:-1], corners, strict=True):
        total[row : row + 2, column : column + 2] += drop
        count[row : row + 2, column : column + 2] += 1
    return total / count


def normalise(evidence: npt.NDArray[np.float32], prediction: Prediction) -> FloatArray:
    """Positive evidence from 0 to the film's strength, ``min(1, probability / threshold)``."""
    positive = np.maximum(evidence, 0)
    peak = float(positive.max())
    if peak <= 0:
        return np.zeros_like(positive)
    threshold = prediction.operating_point.threshold
    strength = min(1.0, prediction.probability / threshold) if threshold > 0 else 1.0
    return np.asarray(positive / np.float32(peak) * np.float32(strength))


def _enlarge(evidence: FloatArray, size: int) -> FloatArray:
    """Bilinear, with cell centres where the network has them."""
    from PIL import Image

    return np.asarray(Image.fromarray(evidence).resize((size, size), Image.Resampling.BILINEAR))
