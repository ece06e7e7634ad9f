"""Shortcut probes: images with their lungs (or all but their lungs) hidden, and what else predicts the class.

Lungs are found once by the segmenter and resized to each image. A probe is a change of the image that
:func:`~.stress.run_stress` applies like a stress. Beside the network, classifiers that see only file
properties, exposure or lung outlines are measured: their AUC is a property of the data set, but a network
that learnt these instead of pneumonia would be as good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.records import FloatArray, Label, Preprocessing, Progress, Radiograph, Sample
from pneumoscope.data.cache import PixelCache, build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.shortcuts import (
    Property,
    Question,
    ask,
    measure_properties,
    predict_jointly,
    score_property,
)
from pneumoscope.evaluation import metrics
from pneumoscope.evaluation.intervals import bootstrap, bootstrap_estimate, proportion_estimate
from pneumoscope.evaluation.stress import StressPlan, choose_some
from pneumoscope.imaging.lungs import segment_lungs
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.imaging.stress import STRESSES, FilmChange, Stress, StressKind, recompress

SMALLEST_LUNGS = 0.08
"""Least share of the image: below it the segmenter found no pair of lungs (in phantoms 0.15 to 0.4)."""

_BLOCK = 64  # images segmented at a time, between two calls of the progress
_REACH = 0.03  # how far the wide region reaches beyond the lungs' hulls, as a share of the side

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LungMasks:
    """Lungs by image, each squashed to one square grid.

    Attributes:
        side: of the grid in pixels.
        packed: by the image's hash, the bits of its (2, side, side) masks, as ``numpy.packbits`` has them.
    """

    side: int
    packed: Mapping[str, npt.NDArray[np.uint8]]

    def each(self, sha256: str) -> Mask:
        """(2, side, side): the patient's right lung (left on the picture), then the left one."""
        bits = np.unpackbits(self.packed[sha256], count=2 * self.side * self.side)
        return bits.reshape(2, self.side, self.side).astype(bool)

    def lung(self, sha256: str, side: int, shape: tuple[int, ...]) -> Mask:
        """One lung (0: the patient's right one) on an image's own grid of ``shape`` (rows, columns)."""
        return resize_mask(self.each(sha256)[side], shape)

    def found(self, sha256: str) -> bool:
        """Whether there are two lungs, of at least :data:`SMALLEST_LUNGS` of the image together."""
        lungs = self.each(sha256)
        return bool(lungs.any(axis=(1, 2)).all() and lungs.any(axis=0).mean() >= SMALLEST_LUNGS)


def find_lungs(
    samples: Sequence[Sample], cache: PixelCache, *, progress: Progress | None = None
) -> LungMasks:
    """The lungs of ``samples`` on the grid of ``cache``, whose images are squashed to a square.

    Raises:
        DatasetError: an image is not in the cache.
    """
    rows = cache.rows(samples)
    packed = {}
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        masks = segment_lungs(cache.pixels[block].astype(np.float32) / np.float32(255))
        for sample, mask in zip(samples[start : start + len(block)], masks, strict=True):
            packed[sample.sha256] = np.packbits(mask)
        if progress:
            progress(start + len(block), len(rows))
    return LungMasks(cache.preprocessing.size, packed)


def resize_mask(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """A mask on a grid of ``shape`` (rows, columns): a pixel belongs to it when at least half of it does."""
    if mask.shape == tuple(shape):
        return mask
    picture = Image.fromarray(mask.astype(np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)) >= 0.5


def wide_region(lungs: Mask) -> Mask:
    """The lungs (2, S, S) with what a reader would still count to them, as one mask (S, S).

    The convex hull of each lung, 3 % of the side wider: the pleura, and much of a consolidation that the
    outline leaves out.
    """
    return _grown(_hull(lungs[0]) | _hull(lungs[1]))


def chest_region(lungs: Mask) -> Mask:
    """The convex hull of both lungs (2, S, S) together, 3 % of the side wider, with what lies between them.

    Neither a lung nor its outline is left of it, only how wide and how high the chest is.
    """
    return _grown(_hull(np.asarray(lungs.any(axis=0))))


def _grown(mask: Mask) -> Mask:
    from scipy import ndimage

    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) <= _REACH * mask.shape[-1])


def _hull(mask: Mask) -> Mask:
    """The convex hull of a mask, filled; a mask without area stays as it is."""
    from scipy.spatial import ConvexHull, QhullError

    points = np.argwhere(mask)
    try:
        corners = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):
        return mask
    picture = Image.new("1", (mask.shape[1], mask.shape[0]))
    ImageDraw.Draw(picture).polygon([(int(column), int(row)) for row, column in corners], fill=1)
    return np.asarray(picture, dtype=bool) | mask


def shape_properties(samples: Sequence[Sample], masks: LungMasks) -> tuple[Property, ...]:
    """Size and place of each image's lungs, as shares of the image: 12 numbers that hold no grey level."""
    names = ("area", "top", "bottom", "inner", "outer", "fill")
    values = np.array([_shape(masks.each(sample.sha256)) for sample in samples])
    return tuple(
        Property(f"{lung}_{name}", f"{lung} lung: {name}", "", "lungs", values[:, 6 * side + place])
        for side, lung in enumerate(("right", "left"))
        for place, name in enumerate(names)
    )


def _shape(lungs: Mask) -> list[float]:
    """Area, edges and fill of the box of either lung; not-a-number where there is none."""
    side = lungs.shape[-1]
    numbers: list[float] = []
    for number, lung in enumerate(lungs):
        if not lung.any():
            numbers += [float("nan")] * 6
            continue
        rows, columns = np.flatnonzero(lung.any(axis=1)), np.flatnonzero(lung.any(axis=0))
        ends = (columns[-1] + 1, columns[0]) if number == 0 else (columns[0], columns[-1] + 1)
        box = (rows[-1] + 1 - rows[0]) * (columns[-1] + 1 - columns[0])
        edges = (rows[0], rows[-1] + 1, *ends)
        numbers += [float(lung.mean()), *(float(edge) / side for edge in edges), float(lung.sum() / box)]
    return numbers


@dataclass(frozen=True, slots=True)
class FilmsWithLungs:
    """The images of an audit.

    Attributes:
        plan: who is asked about which images, all of them with lungs.
        cache: the plan's images, squashed to a square.
        masks: their lungs.
        without: images of the sample whose lungs were not found.
    """

    plan: StressPlan
    cache: PixelCache
    masks: LungMasks
    without: tuple[Sample, ...]


def find_films(
    plan: StressPlan, dataset: Dataset, films: int, seed: int, *, progress: Progress | None = None
) -> FilmsWithLungs:
    """Draw images and find their lungs.

    Args:
        plan: all images that may be asked about.
        dataset: where they lie; their pixels are cached there.
        films: at most so many; 0: all.
        seed: of the draw.
        progress: called with the number of images done, by each step in turn.

    Raises:
        DatasetError: no image shows a pair of lungs, or an image cannot be read any more.
    """
    some = choose_some(plan, films, seed) if films else plan
    cache = build_cache(replace(dataset, samples=some.samples), Preprocessing(), progress=progress)
    masks = find_lungs(some.samples, cache, progress=progress)
    without = tuple(sample for sample in some.samples if not masks.found(sample.sha256))
    kept = _restrict(some, lambda sample: masks.found(sample.sha256))
    if not kept.examiners:
        raise DatasetError(
            f"no pair of lungs was found on any of {len(without)} images",
            where=dataset.directory,
            expected="frontal chest radiographs, upright, bones bright",
        )
    return FilmsWithLungs(kept, cache, masks, without)


def positive_films(plan: StressPlan, films: int, seed: int) -> StressPlan:
    """The plan with at most ``films`` of its images with pneumonia, drawn with ``seed``."""
    return choose_some(_restrict(plan, lambda sample: sample.label is not Label.NORMAL), films, seed)


def _restrict(plan: StressPlan, wanted: Callable[[Sample], bool]) -> StressPlan:
    kept = (replace(one, samples=tuple(s for s in one.samples if wanted(s))) for one in plan.examiners)
    return replace(plan, examiners=tuple(examiner for examiner in kept if examiner.samples))


LUNGS_BLACK = "lungs-black"
PROPORTIONS = "proportions"
JPEG_QUALITY = 50

_BORDER = 0.08  # of each side: the width that training blanks at most
_CORNER = 0.15  # as the stress test's blank corners


@dataclass(frozen=True, slots=True)
class LungProbe:
    """A change of an image that needs to know where its lungs are.

    Attributes:
        name, title, what, kind: as of a :class:`~pneumoscope.imaging.stress.Stress`.
        region: lungs (2, S, S) to the part (S, S) that is replaced.
        fill: image (h, w) to the grey level that it is replaced with.
        masks: the lungs of every image.
    """

    name: str
    title: str
    what: str
    region: Callable[[Mask], Mask]
    fill: Callable[[FloatArray], float]
    masks: LungMasks
    kind: StressKind = StressKind.REPORTED

    def apply(self, pixels: FloatArray, sha256: str, seed: int = 0) -> FloatArray:
        """The image (h, w) with the region filled; nothing about it is random."""
        hidden = resize_mask(self.region(self.masks.each(sha256)), pixels.shape)
        return np.where(hidden, np.float32(self.fill(pixels)), pixels)


def shortcut_probes(masks: LungMasks, preprocessing: Preprocessing) -> tuple[FilmChange, ...]:
    """The changes in the order of the report.

    Args:
        masks: the lungs of every image that will be asked about.
        preprocessing: of the networks; its images are made square the other way.
    """
    by_name = {stress.name: stress for stress in STRESSES}
    probe = partial(LungProbe, masks=masks)
    return (
        probe(LUNGS_BLACK, "Lungs black", "both lungs, as outlined, are black", _both, _black,
              kind=StressKind.PROBE),
        probe("lungs-mean", "Lungs grey", "both lungs have the image's mean grey level", _both, _mean),
        probe("lungs-wide", "Lungs black, wide", "the convex hulls of the lungs, 3 % wider, are black",
              wide_region, _black),
        probe("chest-black", "Chest black", "the convex hull of both lungs together, 3 % wider, is black: "
              "no outline of a lung is left", chest_region, _black),
        by_name["black-box"],
        probe("only-lungs-black", "Only the lungs, on black", "all but the lungs is black", _rest, _black),
        probe("only-lungs-mean", "Only the lungs, on grey", "all else has the image's mean grey level",
              _rest, _mean),
        Stress("frame", "Borders and corners black", "8 % of the side at each edge and 15 % at each corner, "
               "where markers are, are black", _blank_frame),
        _other_fit(preprocessing),
        Stress("jpeg-50", "JPEG quality 50", "saved as JPEG of quality 50 at the image's own size",
               partial(recompress, quality=JPEG_QUALITY)),
    )  # fmt: skip


def _both(lungs: Mask) -> Mask:
    return np.asarray(lungs.any(axis=0))


def _rest(lungs: Mask) -> Mask:
    return np.asarray(~lungs.any(axis=0))


def _black(_: FloatArray) -> float:
    return 0.0


def _mean(pixels: FloatArray) -> float:
    return float(pixels.mean())


def _blank_frame(pixels: FloatArray, _: np.random.Generator) -> FloatArray:
    """Black borders and, over their ends, black corners."""
    blanked = pixels.copy()
    down, across = (np.minimum(np.arange(side), np.arange(side)[::-1]) / side for side in pixels.shape)
    border = (down < _BORDER)[:, None] | (across < _BORDER)
    blanked[border | ((down < _CORNER)[:, None] & (across < _CORNER))] = 0
    return blanked


def _other_fit(preprocessing: Preprocessing) -> Stress:
    """The image made square the other way; it is square then, and the network's own way changes nothing."""
    keeps = preprocessing.fit != "letterbox"
    other = replace(preprocessing, fit="letterbox" if keeps else "squash", size=preprocessing.source_size)
    return Stress(
        PROPORTIONS,
        "Letterbox instead of squash" if keeps else "Squash instead of letterbox",
        "padded with black to a square, which keeps the image's proportions"
        if keeps
        else "stretched to a square, which loses the image's proportions",
        partial(_refit, preprocessing=other),
    )


def _refit(pixels: FloatArray, _: np.random.Generator, *, preprocessing: Preprocessing) -> FloatArray:
    """The model input (S, S) that ``preprocessing`` makes of the image."""
    rows, columns = pixels.shape
    return np.asarray(to_model_input(Radiograph(pixels, (rows, columns)), preprocessing).array[0])


_KINDS = {
    "file": ("The file alone", "size, width, height, aspect, age, sex, view, site"),
    "picture": ("The exposure alone", "brightness, contrast, black and white pixels, corners, sharpness"),
    "lungs": ("The outline of the lungs alone", "area and edges of either lung, without any grey level"),
}
_METHOD = "gradient boosting, cross-validated by patient in 5 folds"
_BOTH = ("file", "picture")


def measure_giveaways(
    samples: Sequence[Sample], cache: PixelCache, masks: LungMasks, *, resamples: int, seed: int
) -> dict[str, Any]:
    """What each kind of property gives away.

    Args:
        samples: the images that the network is asked about.
        cache: holds all of them.
        masks: their lungs.
        resamples, seed: of the bootstrap; the seed is also that of the folds.

    Returns:
        ``method``, ``majority`` (accuracy of always saying the commoner class) and ``kinds``: by kind
        ``title``, ``what``, ``properties``, ``roc_auc`` and ``accuracy`` (estimates) and ``best`` (name and
        AUC of the single property that tells most). A kind that does not vary is absent; there are none
        where a class has fewer than two patients.
    """
    positive = np.array([sample.label is not Label.NORMAL for sample in samples])
    groups = np.unique([sample.group_id for sample in samples], return_inverse=True)[1].astype(np.int64)
    question = ask(positive, np.ones(len(samples), dtype=bool), groups, seed)
    share = float(positive.mean())
    found: dict[str, Any] = {"method": _METHOD, "majority": max(share, 1 - share), "kinds": {}}
    if question is None:
        return found
    every = (*measure_properties(samples, cache), *shape_properties(samples, masks))
    told = [item for item in every if np.nanmin(item.values) != np.nanmax(item.values)]
    of_kind = {kind: [item for item in told if item.kind == kind] for kind in _KINDS}
    joint = {kind: (*text, of_kind[kind]) for kind, text in _KINDS.items()}
    together = [item for kind in _BOTH for item in of_kind[kind]]
    joint["metadata"] = ("File and exposure together", "the metadata-only classifier", together)
    patients = [sample.patient_id for sample in samples]
    for kind, (title, what, own) in joint.items():
        if own:
            found["kinds"][kind] = {"title": title, "what": what} | _answer(
                own, question, patients, resamples
            )
    return found


def _answer(
    own: Sequence[Property], question: Question, patients: Sequence[str], resamples: int
) -> dict[str, Any]:
    """AUC and accuracy of the properties together, and the AUC of the best one of them."""
    scores = predict_jointly(np.stack([item.values for item in own], axis=1), question)
    target = question.target
    draws = bootstrap(
        {"auc": metrics.roc_auc_statistic(target, scores)},
        patients,
        resamples=resamples,
        rng=np.random.default_rng(question.seed),
    )
    names = np.array(patients)
    smaller = min(len(np.unique(names[rows])) for rows in (target, ~target))
    area = metrics.roc_auc(target, scores)
    right = proportion_estimate(int(((scores >= 0.5) == target).sum()), len(scores))
    assert area is not None  # a question has both classes
    assert right is not None
    estimate = bootstrap_estimate(area, draws["auc"], n=len(scores), smaller_class=smaller)
    single = {item.name: score_property(item.values, question).value for item in own}
    best = max(single, key=single.__getitem__)
    return {
        "properties": [item.name for item in own],
        "roc_auc": None if estimate is None else asdict(estimate),
        "accuracy": asdict(right),
        "best": {"name": best, "roc_auc": float(single[best])},
    }
