"""Lungs of one film in the body of another, so that only the lungs can tell the classes apart.

Whatever goes with the class outside the lungs (position of the arms, collimation, markers, the child's age,
the detector) is then drawn by chance. The other body's own lungs are filled from its tissue round them: they
must not speak either.

In: a float batch in [0, 1], its lungs and a seeded generator. Out: the batch, changed in place; or the lungs
of the films of a cache, which are found once and kept beside it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pneumoscope.core.files import atomic_path
from pneumoscope.core.records import Progress
from pneumoscope.data.cache import PixelCache
from pneumoscope.inference.lungs import segment_lungs, segmenter_id
from pneumoscope.learning.chance import chosen

SMALLEST_LUNGS = 0.08
"""Least share of the film: below it the segmenter found no pair of lungs (in phantoms 0.15 to 0.4)."""

MARGIN = 1 / 32
"""How far a mask grows before lungs are moved, as a share of the side: the pleura belongs to them."""

COARSE = 8
"""Tissue is filled in on a grid this many times coarser; it is smooth."""

BLACK, PLAIN, MEAN = 0.4, 0.2, 0.2
"""Shares of hidden lungs that are black, another grey, and the film's mean; the rest become tissue."""

AS_FOUND = 0.5
"""Share of hidden lungs whose mask is not grown."""

CHUNK = 256


def lungs_of_cache(cache: PixelCache, progress: Progress | None = None) -> npt.NDArray[np.uint8]:
    """The lungs of all films of a cache.

    Returns:
        (M, S, S) uint8 memory map, 1 in either lung, kept beside the cache's pixels.
    """
    file = cache.directory / f"lungs-{segmenter_id()}.npy"
    if file.exists():
        kept: npt.NDArray[np.uint8] = np.load(file, mmap_mode="r")
        if len(kept) == len(cache):
            return kept
    lungs = np.empty(cache.pixels.shape, np.uint8)
    for start in range(0, len(cache), CHUNK):
        films = cache.pixels[start : start + CHUNK].astype(np.float32) / np.float32(255)
        lungs[start : start + CHUNK] = segment_lungs(films).any(axis=1)
        if progress:
            progress(min(start + CHUNK, len(cache)), len(cache))
    with atomic_path(file) as temporary, open(temporary, "wb") as stream:
        np.save(stream, lungs)
    found: npt.NDArray[np.uint8] = np.load(file, mmap_mode="r")
    return found


def exchange_bodies(batch: Tensor, lungs: Tensor, probability: float, generator: Generator) -> None:
    """Put the lungs of some films into the bodies of other films of the batch.

    Args:
        batch: (B, 1, S, S).
        lungs: (B, 1, S, S) in [0, 1], moved as the films were.
        probability: share of the films with lungs.
        generator: source of all randomness.
    """
    found = lungs.mean(dim=(1, 2, 3)) > SMALLEST_LUNGS
    films = chosen(len(batch), probability, generator)
    others = torch.randint(len(batch), (len(films),), generator=generator)
    both = found[films] & found[others]
    films, others = films[both], others[both]
    if not len(films):
        return
    tissue = _without_lungs(batch[others], lungs[others])
    batch[films] = tissue.lerp(batch[films], _grown(lungs[films]))


def hide_lungs(batch: Tensor, lungs: Tensor, probability: float, generator: Generator) -> Tensor:
    """Fill the lungs of some films: with black, another grey, the film's mean or the tissue round them.

    The mask is as it was found, or grown: neither its rim nor what is beside it shall say more than the rest.

    Args:
        batch, lungs, probability, generator: as in :func:`exchange_bodies`.

    Returns:
        (B,) bool, the films that show no lungs any more; they say nothing about the class.
    """
    films = chosen(len(batch), probability, generator)
    films = films[lungs[films].mean(dim=(1, 2, 3)) > SMALLEST_LUNGS]
    hidden = torch.zeros(len(batch), dtype=torch.bool)
    for film in films.tolist():
        before, lung = batch[film, None], lungs[film, None]
        kind, growth, grey = torch.rand(3, generator=generator).tolist()
        if kind < BLACK + PLAIN:
            filling = torch.full_like(before, 0.0 if kind < BLACK else grey)
        elif kind < BLACK + PLAIN + MEAN:
            filling = before.mean().expand_as(before)
        else:
            filling = _without_lungs(before, lung)
        batch[film] = before.lerp(filling, lung if growth < AS_FOUND else _grown(lung))[0]
    hidden[films] = True
    return hidden


def _without_lungs(batch: Tensor, lungs: Tensor) -> Tensor:
    """The films with their lungs filled by the weighted mean of the tissue near them."""
    side = batch.shape[-1]
    grown = _grown(lungs)
    outside = F.avg_pool2d(1 - grown, COARSE) + 1e-4
    seen = F.avg_pool2d(batch * (1 - grown), COARSE)
    for _ in range(3):  # three box filters are nearly a Gaussian
        outside, seen = (F.avg_pool2d(x, 5, stride=1, padding=2) for x in (outside, seen))
    tissue = F.interpolate(seen / outside, size=side, mode="bilinear")
    return batch.lerp(tissue, grown)


def _grown(lungs: Tensor) -> Tensor:
    """Masks, a little larger and with soft edges."""
    reach = max(1, round(MARGIN * lungs.shape[-1]))
    grown = F.max_pool2d(lungs, 2 * reach + 1, stride=1, padding=reach)
    return F.avg_pool2d(grown, reach | 1, stride=1, padding=(reach | 1) // 2)
