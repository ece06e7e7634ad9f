"""Does a heat map point at what the network uses? Deletion and insertion curves.

Petsiuk, Das & Saenko, RISE, BMVC 2018, section 4.2: pixels are taken away from a film (put into a blank one)
in the order of the map, strongest first; the probability should fall (rise) early, so that the area under the
deletion curve is small and that under the insertion curve large.

In: a film and maps. Out: a curve each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import FloatArray

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
