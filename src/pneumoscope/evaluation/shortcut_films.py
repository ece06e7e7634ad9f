"""Which films a shortcut audit asks about: films that the network has not seen and whose lungs are found.

In: who can be asked about which films. Out: a :class:`FilmsWithLungs`: some of these films, their pixel cache
and their lungs, and the films that had to be left out, which are counted in the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.records import Label, Preprocessing, Progress, Sample
from pneumoscope.data.cache import PixelCache, build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.shortcut_lungs import LungMasks, find_lungs
from pneumoscope.evaluation.stress_films import StressPlan, choose_some


@dataclass(frozen=True, slots=True)
class FilmsWithLungs:
    """The films of an audit.

    Attributes:
        plan: who is asked about which films, all of them with lungs.
        cache: the plan's films, squashed to a square.
        masks: their lungs.
        without: films of the sample whose lungs were not found.
    """

    plan: StressPlan
    cache: PixelCache
    masks: LungMasks
    without: tuple[Sample, ...]


def find_films(
    plan: StressPlan, dataset: Dataset, films: int, seed: int, *, progress: Progress | None = None
) -> FilmsWithLungs:
    """Draw films and find their lungs.

    Args:
        plan: all films that may be asked about.
        dataset: where they lie; their pixels are cached there.
        films: at most so many; 0: all.
        seed: of the draw.
        progress: called with the number of films done, by each step in turn.

    Raises:
        DatasetError: no film shows a pair of lungs, or a film cannot be read any more.
    """
    some = choose_some(plan, films, seed) if films else plan
    cache = build_cache(replace(dataset, samples=some.samples), Preprocessing(), progress=progress)
    masks = find_lungs(some.samples, cache, progress=progress)
    without = tuple(sample for sample in some.samples if not masks.found(sample.sha256))
    kept = _restrict(some, lambda sample: masks.found(sample.sha256))
    if not kept.examiners:
        raise DatasetError(
            f"no pair of lungs was found on any of {len(without)} films",
            where=dataset.directory,
            expected="frontal chest radiographs, upright, bones bright",
        )
    return FilmsWithLungs(kept, cache, masks, without)


def positive_films(plan: StressPlan, films: int, seed: int) -> StressPlan:
    """The plan with at most ``films`` of its films with pneumonia, drawn with ``seed``."""
    return choose_some(_restrict(plan, lambda sample: sample.label is not Label.NORMAL), films, seed)


def _restrict(plan: StressPlan, wanted: Callable[[Sample], bool]) -> StressPlan:
    kept = (replace(one, samples=tuple(s for s in one.samples if wanted(s))) for one in plan.examiners)
    return replace(plan, examiners=tuple(examiner for examiner in kept if examiner.samples))
