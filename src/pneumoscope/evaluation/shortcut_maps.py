"""Checks of heat maps: evidence inside the lungs, agreement with occlusion, deletion and insertion curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from pneumoscope.core.records import FloatArray, ModelInput, Progress, Sample
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.shortcut_probes import LungMasks, wide_region
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

_BLUR = 1 / 16  # standard deviation of the blurred film that insertion starts from, as a share of the side

Floats = npt.NDArray[np.float64]
Score = Callable[[FloatArray], Floats]
"""Films (N, 1, S, S) to N scores."""


def deletion(image: FloatArray, maps: Sequence[npt.NDArray[np.floating]], score: Score) -> Floats:
    """Scores while the film's pixels become its mean grey level, strongest first.

    Args:
        image: (1, S, S).
        maps: M maps (S, S).
        score: of films.

    Returns:
        (M, STEPS + 1); the first is the whole film's, the last that of a plain one.
    """
    return _walk(image, np.full_like(image, image.mean()), maps, score)


def insertion(image: FloatArray, maps: Sequence[npt.NDArray[np.floating]], score: Score) -> Floats:
    """Scores while a strongly blurred film becomes sharp, strongest pixels first; as :func:`deletion`."""
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(image[0], _BLUR * image.shape[-1], mode="nearest")[None]
    return _walk(np.asarray(blurred, np.float32), image, maps, score)


def area(curves: Floats) -> Floats:
    """Area under each curve (M, STEPS + 1) over the share of pixels, by the trapezoidal rule: (M,)."""
    return np.asarray(np.trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1))


def shuffled_map(cells: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A map of the same cells in random order: as smooth as the map, and pointing nowhere.

    Single pixels in random order would be noise, which a network fears more than a missing region.
    """
    return rng.permutation(cells.ravel()).reshape(cells.shape)


def _walk(
    start: FloatArray, end: FloatArray, maps: Sequence[npt.NDArray[np.floating]], score: Score
) -> Floats:
    side = start.shape[-1]
    counts = np.linspace(0, side * side, STEPS + 1).round().astype(int)
    films = []
    for item in maps:
        order = np.argsort(-item.ravel(), kind="stable")
        for count in counts:
            film = start.copy()
            film.reshape(-1)[order[:count]] = end.reshape(-1)[order[:count]]
            films.append(film)
    return score(np.stack(films)).reshape(len(maps), STEPS + 1)


TOP_SHARE = 0.2
"""Share of the cells that is compared as the strongest; chance alone gives maps so much in common."""

# Wang, Bovik, Sheikh & Simoncelli, Image Quality Assessment, IEEE TIP 2004, section III-B: standard deviation
# of the window, its reach in standard deviations (11 x 11 pixels) and the constants of a range of 1.
_SIGMA, _REACH = 1.5, 5 / 1.5
_C1, _C2 = 0.01**2, 0.03**2

Map = npt.NDArray[np.floating]


def rank_correlation(one: Map, other: Map) -> float:
    """Spearman's rho of two maps of one shape; 0 when either is constant and so says nothing.

    Raises:
        ValueError: the shapes differ.
    """
    from scipy.stats import rankdata

    _check(one, other)
    ranks = [rankdata(item) - (item.size + 1) / 2 for item in (one.ravel(), other.ravel())]
    scale = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / scale if scale > 0 else 0.0


def top_overlap(one: Map, other: Map, share: float = TOP_SHARE) -> float:
    """Share of the strongest cells of one map that are among the strongest of the other.

    Args:
        one, other: maps of one shape; of equal cells the first in reading order counts as stronger.
        share: of the cells that count as strongest; at least one cell does.

    Raises:
        ValueError: the shapes differ.
    """
    _check(one, other)
    count = max(1, round(share * one.size))
    chosen = [set(np.argsort(-item.ravel(), kind="stable")[:count].tolist()) for item in (one, other)]
    return len(chosen[0] & chosen[1]) / count


def structural_similarity(one: Map, other: Map) -> float:
    """Mean SSIM of two maps, each first brought to the range 0 to 1; a constant map is all 0.

    Wang et al., IEEE TIP 2004, equation 13, with a Gaussian window; as Adebayo et al. (2018) compare maps.

    Raises:
        ValueError: the shapes differ.
    """
    from scipy.ndimage import gaussian_filter

    _check(one, other)
    x, y = _unit(one), _unit(other)

    def blur(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(gaussian_filter(values, _SIGMA, mode="mirror", truncate=_REACH))

    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    alike = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return float((alike / ((mean_x**2 + mean_y**2 + _C1) * (variances + _C2))).mean())


def _unit(item: Map) -> npt.NDArray[np.float64]:
    values = np.asarray(item, np.float64)
    reach = float(np.ptp(values))
    return (values - values.min()) / reach if reach > 0 else np.zeros_like(values)


def _check(one: Map, other: Map) -> None:
    if one.shape != other.shape:
        raise ValueError(f"maps of shapes {one.shape} and {other.shape}")


LEVELS: Mapping[str, float] = {"head": 0.0, "last third": 1 / 3, "last two thirds": 2 / 3, "all": 1.0}
"""What is made random, from the answer towards the film, and which share of the layers before the head."""

CLASS_ACTIVATION, OCCLUSION, GRADIENTS = "class-activation", "occlusion", "integrated gradients"

DRAWS: Mapping[str, int] = {CLASS_ACTIVATION: 3, OCCLUSION: 1}
"""Random networks a level, by the map that is shown; an occlusion map costs 122 passes of each."""

ORDERS = 3
"""Random orders a curve."""


class OpenNetwork(Protocol):
    """A bundle's network with its insides within reach."""

    def integrated_gradients(self, image: FloatArray, target: int) -> FloatArray:
        """What each pixel of (1, S, S) adds to the log-odds of ``target`` against normal: (S, S)."""

    def randomised_features(self, images: FloatArray, share: float, seed: int) -> FloatArray:
        """(N, C, h, w) of films (N, 1, S, S) with the last ``share`` of the layers before the head random."""


Opener = Callable[[Bundle], OpenNetwork]


@dataclass(frozen=True, slots=True)
class MapFigures:
    """What was found about the maps of one film; what could not be measured is absent.

    Attributes:
        sample: the film.
        examiner: who was asked.
        method: of the map that the bundle shows; energy, fidelity and randomisation are of that map.
        energy, wide_energy: share of the positive evidence inside the lungs, and inside their wide region;
            not-a-number where there is no evidence for pneumonia.
        lungs, wide: the share of the film that these cover.
        agreement: by pair of methods, rank correlation and overlap of the strongest fifth.
        randomised: by level, mean over draws of the size of the rank correlation, and of the SSIM.
        curves: ``deletion`` and ``insertion``, and with ``random`` before them: (STEPS + 1,) each.
    """

    sample: Sample
    examiner: str
    method: str
    energy: float
    lungs: float
    wide_energy: float
    wide: float
    agreement: Mapping[str, tuple[float, float]]
    randomised: Mapping[str, tuple[float, float]]
    curves: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MapJob:
    """Which films are looked at, and with what.

    Attributes:
        plan: films with pneumonia, and who is asked about them.
        dataset: where they lie.
        masks: their lungs.
        opener: opens a bundle's network for gradients; None where that is impossible.
        seed: of random weights and orders.
    """

    plan: StressPlan
    dataset: Dataset
    masks: LungMasks
    opener: Opener | None
    seed: int


def inspect_maps(job: MapJob, progress: Progress | None = None) -> tuple[MapFigures, ...]:
    """Look at the maps of every film of the plan.

    A film costs some 260 network passes, and twice as many where occlusion maps are shown.

    Raises:
        UnreadableFileError: a film cannot be read any more.
    """
    found: list[MapFigures] = []
    for examiner in job.plan.examiners:
        network = job.opener(examiner.bundle) if job.opener else None
        for sample in examiner.samples:
            model_input = to_model_input(
                read_radiograph(job.dataset.file(sample)), examiner.bundle.preprocessing
            )
            looked = _Look(examiner.bundle, model_input, network)
            found.append(_figures(looked, sample, examiner.name, job))
            if progress:
                progress(len(found), len(job.plan.samples))
    return tuple(found)


class _Look:
    """One film before one network: its answer, and its maps by method on their own grids.

    Attributes:
        hidden: the film with its patches occluded, and as it is; features: (N + 1, C, h, w) of these.
        head: (K, C) weights of a linear head; None: the network has no class-activation map.
        maps: by method; cells: the one that the bundle shows.
    """

    def __init__(self, bundle: Bundle, model_input: ModelInput, network: OpenNetwork | None) -> None:
        self.bundle, self.model_input, self.network = bundle, model_input, network
        self.image = model_input.array
        self.hidden = occluded_films(self.image)
        logits, self.features = run_network(bundle, self.hidden)
        probabilities = calibrated_probabilities(logits[-1:], bundle.document["calibration"])[0]
        self.target = 1 + int(probabilities[1:].argmax())
        self.head = bundle.arrays.get("head_weight")
        self.method = str(bundle.document["explanation"]["method"])
        self.maps = {OCCLUSION: occlusion_evidence(logits[:, self.target, None] - logits[:, :1])[0]}
        if self.head is not None:
            activation = class_activation(self.features[-1], self.head, self.target)
            self.maps = {CLASS_ACTIVATION: activation, **self.maps}
        self.cells = self.maps[self.method]

    @property
    def side(self) -> int:
        return self.image.shape[-1]

    def score(self, films: FloatArray) -> npt.NDArray[np.float64]:
        """Calibrated probability of pneumonia of films (N, 1, S, S)."""
        logits, _ = run_network(self.bundle, films)
        probabilities = calibrated_probabilities(logits, self.bundle.document["calibration"])
        return np.asarray(probabilities[:, 1:].sum(axis=1))


def _figures(look: _Look, sample: Sample, examiner: str, job: MapJob) -> MapFigures:
    lungs = job.masks.each(sample.sha256)
    both, wide = np.asarray(lungs.any(axis=0)), wide_region(lungs)
    evidence = _on_film(look, both.shape)
    rng = np.random.default_rng([job.seed, int(sample.sha256[:16], 16)])
    return MapFigures(
        sample=sample,
        examiner=examiner,
        method=look.method,
        energy=_share(evidence, both),
        lungs=float(both.mean()),
        wide_energy=_share(evidence, wide),
        wide=float(wide.mean()),
        agreement=_agreement(look),
        randomised=_randomised(look, job.seed),
        curves=_curves(look, rng),
    )


def _on_film(look: _Look, shape: tuple[int, ...]) -> FloatArray:
    """The positive evidence as people are shown it, on the square grid of the lungs."""
    rows, columns = shape
    geometry = replace(look.model_input.geometry, original_size=(rows, columns))
    return np.maximum(to_original(geometry, enlarge(look.cells, look.side)), 0)


def _share(evidence: FloatArray, region: npt.NDArray[np.bool_]) -> float:
    total = float(evidence.sum(dtype=np.float64))
    return float(evidence[region].sum(dtype=np.float64)) / total if total > 0 else float("nan")


def _agreement(look: _Look) -> dict[str, tuple[float, float]]:
    """Rank correlation and overlap of each pair of methods, on the grid of the occlusion map."""
    maps = {name: _coarse(enlarge(cells, look.side)) for name, cells in look.maps.items()}
    maps[OCCLUSION] = look.maps[OCCLUSION]
    if look.network is not None:
        maps[GRADIENTS] = _coarse(look.network.integrated_gradients(look.image, look.target))
    names = list(maps)
    return {
        f"{one} and {other}": (rank_correlation(maps[one], maps[other]), top_overlap(maps[one], maps[other]))
        for number, one in enumerate(names)
        for other in names[number + 1 :]
    }


def _coarse(item: FloatArray) -> FloatArray:
    """A map (S, S) as the means of the cells of the occlusion map."""
    side = (OCCLUSION_CELLS, OCCLUSION_CELLS)
    return np.asarray(Image.fromarray(item).resize(side, Image.Resampling.BOX))


def _randomised(look: _Look, seed: int) -> dict[str, tuple[float, float]]:
    """How like the map of a random network is to the true one, for networks with a linear head."""
    if look.head is None:
        return {}
    found = {}
    for level, share in LEVELS.items():
        if share and look.network is None:
            continue
        others = [_random_map(look, share, draw) for draw in range(seed, seed + DRAWS[look.method])]
        pairs = [
            (
                abs(rank_correlation(look.cells, other)),
                structural_similarity(enlarge(look.cells, look.side), enlarge(other, look.side)),
            )
            for other in others
        ]
        correlation, similarity = np.mean(pairs, axis=0).tolist()
        found[level] = (correlation, similarity)
    return found


def _random_map(look: _Look, share: float, seed: int) -> FloatArray:
    """The map that the bundle would show with the head and a share of the layers before it random."""
    assert look.head is not None  # the caller has looked
    head = np.random.default_rng(seed).permutation(look.head.ravel()).reshape(look.head.shape)
    films = slice(-1, None) if look.method == CLASS_ACTIVATION else slice(None)
    features = look.features[films]
    if share and look.network is not None:
        features = look.network.randomised_features(look.hidden[films], share, seed)
    if look.method == CLASS_ACTIVATION:
        return class_activation(features[0], head, look.target)
    log_odds = features.mean(axis=(2, 3)) @ (head[look.target] - head[0])
    return np.asarray(occlusion_evidence(log_odds[:, None])[0])


def _curves(look: _Look, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float64]]:
    random = [shuffled_map(look.cells, rng) for _ in range(ORDERS)]
    maps = [enlarge(cells, look.side) for cells in (look.cells, *random)]
    curves = {}
    for name, walk in (("deletion", deletion), ("insertion", insertion)):
        scores = walk(look.image, maps, look.score)
        curves[name], curves[f"random {name}"] = scores[0], scores[1:].mean(axis=0)
    return curves


def areas(figures: Sequence[MapFigures], curve: str) -> npt.NDArray[np.float64]:
    """Area under a curve of every film: (N,)."""
    return area(np.stack([one.curves[curve] for one in figures]))
