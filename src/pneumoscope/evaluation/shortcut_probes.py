"""What a shortcut audit takes away from a film: its lungs, all but its lungs, its borders, its proportions.

In: the lungs of the films. Out: changes of a film, which :func:`~.stress_films.run_stress` takes as it takes
a stress. A probe is judged by how little the network still knows, a limited change by how little it loses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import FloatArray, Preprocessing, Radiograph
from pneumoscope.evaluation.shortcut_lungs import LungMasks, chest_region, resize_mask, wide_region
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.imaging.stress import STRESSES, FilmChange, Stress, StressKind, recompress

LUNGS_BLACK = "lungs-black"
PROPORTIONS = "proportions"
JPEG_QUALITY = 50

_BORDER = 0.08  # of each side: the width that training blanks at most
_CORNER = 0.15  # as the stress test's blank corners

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LungProbe:
    """A change of a film that needs to know where its lungs are.

    Attributes:
        name, title, what, kind: as of a :class:`~pneumoscope.imaging.stress.Stress`.
        region: lungs (2, S, S) to the part (S, S) that is replaced.
        fill: film (h, w) to the grey level that it is replaced with.
        masks: the lungs of every film.
    """

    name: str
    title: str
    what: str
    region: Callable[[Mask], Mask]
    fill: Callable[[FloatArray], float]
    masks: LungMasks
    kind: StressKind = StressKind.REPORTED

    def apply(self, pixels: FloatArray, sha256: str, seed: int = 0) -> FloatArray:
        """The film (h, w) with the region filled; nothing about it is random."""
        hidden = resize_mask(self.region(self.masks.each(sha256)), pixels.shape)
        return np.where(hidden, np.float32(self.fill(pixels)), pixels)


def shortcut_probes(masks: LungMasks, preprocessing: Preprocessing) -> tuple[FilmChange, ...]:
    """The changes in the order of the report.

    Args:
        masks: the lungs of every film that will be asked about.
        preprocessing: of the networks; its films are made square the other way.
    """
    by_name = {stress.name: stress for stress in STRESSES}
    probe = partial(LungProbe, masks=masks)
    return (
        probe(LUNGS_BLACK, "Lungs black", "both lungs, as outlined, are black", _both, _black,
              kind=StressKind.PROBE),
        probe("lungs-mean", "Lungs grey", "both lungs have the film's mean grey level", _both, _mean),
        probe("lungs-wide", "Lungs black, wide", "the convex hulls of the lungs, 3 % wider, are black",
              wide_region, _black),
        probe("chest-black", "Chest black", "the convex hull of both lungs together, 3 % wider, is black: "
              "no outline of a lung is left", chest_region, _black),
        by_name["black-box"],
        probe("only-lungs-black", "Only the lungs, on black", "all but the lungs is black", _rest, _black),
        probe("only-lungs-mean", "Only the lungs, on grey", "all else has the film's mean grey level",
              _rest, _mean),
        Stress("frame", "Borders and corners black", "8 % of the side at each edge and 15 % at each corner, "
               "where markers are, are black", _blank_frame),
        _other_fit(preprocessing),
        Stress("jpeg-50", "JPEG quality 50", "saved as JPEG of quality 50 at the film's own size",
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
    """The film made square the other way; it is square then, and the network's own way changes nothing."""
    keeps = preprocessing.fit == "squash"
    other = replace(preprocessing, fit="letterbox" if keeps else "squash")
    return Stress(
        PROPORTIONS,
        "Letterbox instead of squash" if keeps else "Squash instead of letterbox",
        "padded with black to a square, which keeps the film's proportions"
        if keeps
        else "stretched to a square, which loses the film's proportions",
        partial(_refit, preprocessing=other),
    )


def _refit(pixels: FloatArray, _: np.random.Generator, *, preprocessing: Preprocessing) -> FloatArray:
    """The model input (S, S) that ``preprocessing`` makes of the film."""
    rows, columns = pixels.shape
    return np.asarray(to_model_input(Radiograph(pixels, (rows, columns)), preprocessing).array[0])
