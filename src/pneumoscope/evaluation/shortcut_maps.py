"""Checks of heat maps: evidence inside the lungs, agreement with occlusion, deletion and insertion curves.

All run on the ONNX bundle alone. Every map is of the log-odds of the likelier kind of pneumonia against
normal. Deletion and insertion (Petsiuk, Das & Saenko, RISE, BMVC 2018, section 4.2): pixels are removed from
an image, or put into a blurred one, in the order of the map, strongest first. If the map shows what the
network uses, the probability falls (rises) early: the area under the deletion curve is small and that under
the insertion curve large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from pneumoscope.core.records import FloatArray, ModelInput, Progress, Sample
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.shortcut_probes import LungMasks, Mask, wide_region
from pneumoscope.evaluation.stress import StressPlan
from pneumoscope.imaging.preprocessing import to_model_input, to_original
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.explanation import (
    OCCLUSION_CELLS,
    class_activation,
    enlarge,
    occluded_films,
    occlusion_evidence,
)
from pneumoscope.inference.prediction import calibrated_probabilities, run_network

STEPS = 16
"""Steps of a curve; a class-activation map of 5 x 5 cells has no finer order than that."""

TOP_SHARE = 0.2
"""Share of the cells that is compared as the strongest; chance alone gives maps so much in common."""

ORDERS = 3
"""Random orders a curve."""

CLASS_ACTIVATION, OCCLUSION = "class-activation", "occlusion"
AGREEMENT = f"{CLASS_ACTIVATION} and {OCCLUSION}"

_BLUR = 1 / 16  # standard deviation of the blurred image that insertion starts from, as a share of the side

Floats = npt.NDArray[np.float64]
Map = npt.NDArray[np.floating]
Score = Callable[[FloatArray], Floats]
"""Images (N, 1, S, S) to N scores."""


def deletion(image: FloatArray, maps: Sequence[Map], score: Score) -> Floats:
    """Scores while the pixels of ``image`` (1, S, S) become its mean grey level, strongest of each map first.

    Returns:
        (M, STEPS + 1) for M maps (S, S); the first is the score of the whole image, the last of a plain one.
    """
    return _curves(image, np.full_like(image, image.mean()), maps, score)


def insertion(image: FloatArray, maps: Sequence[Map], score: Score) -> Floats:
    """Scores while a strongly blurred image becomes sharp, strongest pixels first; as :func:`deletion`."""
    blurred = gaussian_filter(image[0], _BLUR * image.shape[-1], mode="nearest")[None]
    return _curves(np.asarray(blurred, np.float32), image, maps, score)


def _curves(start: FloatArray, end: FloatArray, maps: Sequence[Map], score: Score) -> Floats:
    side = start.shape[-1]
    counts = np.linspace(0, side * side, STEPS + 1).round().astype(int)
    images = []
    for item in maps:
        order = np.argsort(-item.ravel(), kind="stable")
        for count in counts:
            image = start.copy()
            image.reshape(-1)[order[:count]] = end.reshape(-1)[order[:count]]
            images.append(image)
    return score(np.stack(images)).reshape(len(maps), STEPS + 1)


def area(curves: Floats) -> Floats:
    """Area under each curve (M, STEPS + 1) over the share of pixels, by the trapezoidal rule: (M,)."""
    return np.asarray(np.trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1))


def shuffled_map(cells: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The cells of a map in random order, as the baseline of a curve.

    As smooth as the map itself: single pixels in random order would be noise, to which a network is more
    sensitive than to a missing region.
    """
    return rng.permutation(cells.ravel()).reshape(cells.shape)


def rank_correlation(one: Map, other: Map) -> float:
    """Spearman's rho of two maps of one shape; 0 when either is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one.ravel(), other.ravel()).statistic)


def top_overlap(one: Map, other: Map, share: float = TOP_SHARE) -> float:
    """Share of the strongest cells of one map that are among the strongest of the other.

    Of equal cells the first in reading order counts as stronger; at least one cell is compared.
    """
    count = max(1, round(share * one.size))
    strongest, others = (np.argsort(-item.ravel(), kind="stable")[:count] for item in (one, other))
    return float(np.isin(strongest, others).mean())


@dataclass(frozen=True, slots=True)
class MapFigures:
    """What was found about the maps of one image.

    Attributes:
        sample: the image.
        examiner: which bundle was asked.
        method: of the map that the bundle shows; energy and curves are of that map.
        energy, wide_energy: share of the positive evidence inside the lungs, and inside their wide region;
            not-a-number where there is no evidence for pneumonia.
        lungs, wide: the share of the image that these cover.
        agreement: rank correlation and overlap of the strongest fifth of class-activation map and occlusion;
            None for a network without a linear head.
        curves: ``deletion`` and ``insertion``, and with ``random`` before them: (STEPS + 1,) each.
    """

    sample: Sample
    examiner: str
    method: str
    energy: float
    lungs: float
    wide_energy: float
    wide: float
    agreement: tuple[float, float] | None
    curves: Mapping[str, Floats] = field(default_factory=dict)


def inspect_maps(
    plan: StressPlan, dataset: Dataset, masks: LungMasks, seed: int, progress: Progress | None = None
) -> tuple[MapFigures, ...]:
    """Check the maps of every image of the plan; some 260 network passes each.

    Args:
        plan: images with pneumonia, and which bundle is asked about them.
        dataset: where they lie.
        masks: their lungs.
        seed: of the random orders.
        progress: called with the number of images done.

    Raises:
        UnreadableFileError: an image cannot be read any more.
    """
    found: list[MapFigures] = []
    for examiner in plan.examiners:
        for sample in examiner.samples:
            radiograph = read_radiograph(dataset.file(sample))
            maps = _Maps(examiner.bundle, to_model_input(radiograph, examiner.bundle.preprocessing))
            found.append(_figures(maps, sample, examiner.name, masks, seed))
            if progress:
                progress(len(found), len(plan.samples))
    return tuple(found)


class _Maps:
    """The maps of one image by one network.

    Attributes:
        by_method: each on its own grid; cells: the one that the bundle shows.
    """

    def __init__(self, bundle: Bundle, model_input: ModelInput) -> None:
        self.bundle, self.model_input = bundle, model_input
        self.method = str(bundle.document["explanation"]["method"])
        logits, features = run_network(bundle, occluded_films(model_input.array))  # the whole image is last
        target = 1 + int(self._probabilities(logits[-1:])[0, 1:].argmax())
        self.by_method = {OCCLUSION: occlusion_evidence(logits[:, target, None] - logits[:, :1])[0]}
        head = bundle.arrays.get("head_weight")
        if head is not None:
            self.by_method[CLASS_ACTIVATION] = class_activation(features[-1], head, target)
        self.cells = self.by_method[self.method]

    def _probabilities(self, logits: FloatArray) -> Floats:
        return calibrated_probabilities(logits, self.bundle.document["calibration"])

    def score(self, images: FloatArray) -> Floats:
        """Calibrated probability of pneumonia of images (N, 1, S, S)."""
        return np.asarray(self._probabilities(run_network(self.bundle, images)[0])[:, 1:].sum(axis=1))

    def enlarged(self, cells: FloatArray) -> FloatArray:
        """``cells`` on the grid of the model input."""
        return enlarge(cells, self.model_input.array.shape[-1])

    def evidence(self, shape: tuple[int, int]) -> FloatArray:
        """The positive evidence as people are shown it, on the square grid of the lungs."""
        geometry = replace(self.model_input.geometry, original_size=shape)
        return np.maximum(to_original(geometry, self.enlarged(self.cells)), 0)

    def agreement(self) -> tuple[float, float] | None:
        """Rank correlation and overlap of class activation and occlusion, on the grid of the latter."""
        if CLASS_ACTIVATION not in self.by_method:
            return None
        picture = Image.fromarray(self.enlarged(self.by_method[CLASS_ACTIVATION]))
        coarse = np.asarray(picture.resize((OCCLUSION_CELLS, OCCLUSION_CELLS), Image.Resampling.BOX))
        occlusion = self.by_method[OCCLUSION]
        return rank_correlation(coarse, occlusion), top_overlap(coarse, occlusion)

    def curves(self, rng: np.random.Generator) -> dict[str, Floats]:
        """Deletion and insertion in the order of the map, and as the mean over random orders."""
        random = [shuffled_map(self.cells, rng) for _ in range(ORDERS)]
        maps = [self.enlarged(cells) for cells in (self.cells, *random)]
        curves = {}
        for name, curve in (("deletion", deletion), ("insertion", insertion)):
            scores = curve(self.model_input.array, maps, self.score)
            curves[name], curves[f"random {name}"] = scores[0], scores[1:].mean(axis=0)
        return curves


def _figures(maps: _Maps, sample: Sample, examiner: str, masks: LungMasks, seed: int) -> MapFigures:
    lungs = masks.each(sample.sha256)
    both, wide = np.asarray(lungs.any(axis=0)), wide_region(lungs)
    evidence = maps.evidence((masks.side, masks.side))
    return MapFigures(
        sample=sample,
        examiner=examiner,
        method=maps.method,
        energy=_share(evidence, both),
        lungs=float(both.mean()),
        wide_energy=_share(evidence, wide),
        wide=float(wide.mean()),
        agreement=maps.agreement(),
        curves=maps.curves(np.random.default_rng([seed, int(sample.sha256[:16], 16)])),
    )


def _share(evidence: FloatArray, region: Mask) -> float:
    total = float(evidence.sum(dtype=np.float64))
    return float(evidence[region].sum(dtype=np.float64)) / total if total > 0 else float("nan")


def areas(figures: Sequence[MapFigures], curve: str) -> Floats:
    """Area under a curve of every image: (N,)."""
    return area(np.stack([one.curves[curve] for one in figures]))
