"""One shortcut audit: films are asked about with and without their lungs, heat maps are tested, limits held.

In: films with lungs, and the limits. Out: a :class:`ShortcutAudit`, whose document is the truth of which the
page and the tables are views.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pneumoscope.core.records import Label, Progress
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.shortcut_examples import ExampleFilm, choose_examples
from pneumoscope.evaluation.shortcut_films import FilmsWithLungs, positive_films
from pneumoscope.evaluation.shortcut_giveaways import measure_giveaways
from pneumoscope.evaluation.shortcut_limits import ShortcutConfig, check_limits, release_verdict
from pneumoscope.evaluation.shortcut_maps import MapFigures, MapJob, Opener, inspect_maps
from pneumoscope.evaluation.shortcut_probes import shortcut_probes
from pneumoscope.evaluation.shortcut_scores import score_maps, score_probes
from pneumoscope.evaluation.stress_films import StressTable, run_stress
from pneumoscope.evaluation.stress_scores import film_rows
from pneumoscope.imaging.stress import FilmChange
from pneumoscope.inference.lungs import segmenter_id

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ShortcutAudit:
    """What an audit has found.

    Attributes:
        films: the films that were asked about, with their lungs.
        dataset: where they lie.
        config: how it was done, and the limits.
        probes: what was done to them; table: what the networks said.
        maps: what was found about the heat maps of some films with pneumonia; note: how, in words.
    """

    films: FilmsWithLungs
    dataset: Dataset
    config: ShortcutConfig
    probes: tuple[FilmChange, ...]
    table: StressTable
    maps: tuple[MapFigures, ...] = ()
    note: str = ""

    def with_maps(
        self, opener: Opener | None, note: str, *, progress: Progress | None = None
    ) -> ShortcutAudit:
        """The audit with the heat maps of ``config.map_films`` films with pneumonia tested.

        Args:
            opener: opens networks for gradients; None: what needs them is left out.
            note: says so.
            progress: called with the number of films done.
        """
        plan = positive_films(self.films.plan, self.config.map_films, self.config.seed)
        job = MapJob(plan, self.dataset, self.films.masks, opener, self.config.seed)
        return replace(self, maps=inspect_maps(job, progress), note=note)

    def document(self) -> dict[str, Any]:
        """The content of ``shortcuts.json``.

        Returns:
            ``films``, ``patients``, ``prevalence``, ``dataset``, ``dataset_hash``, ``protocol``,
            ``without_lungs`` (films by label whose lungs were not found), ``segmenter``, ``seed``,
            ``limits``, ``probes``, ``giveaways``, ``maps`` (None without a film with pneumonia), ``checks``
            and ``verdict``.
        """
        samples, config = self.films.plan.samples, self.config
        probes = score_probes(self.table, self.probes, config)
        giveaways = measure_giveaways(
            samples, self.films.cache, self.films.masks, resamples=config.resamples, seed=config.seed
        )
        maps = score_maps(self.maps, config) | {"note": self.note} if self.maps else None
        checks = check_limits(probes, maps, config)
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": release_verdict(checks),
            "checks": checks,
            "films": len(samples),
            "patients": len({sample.patient_id for sample in samples}),
            "prevalence": sum(sample.label is not Label.NORMAL for sample in samples) / len(samples),
            "dataset": self.dataset.name,
            "dataset_hash": self.dataset.hash,
            "protocol": self.films.plan.protocol,
            "without_lungs": dict(Counter(sample.label.value for sample in self.films.without)),
            "segmenter": segmenter_id(),
            "seed": config.seed,
            "limits": config.model_dump(mode="json", include=_LIMITS),
            "probes": probes,
            "giveaways": giveaways,
            "maps": maps,
        }

    def film_rows(self) -> list[dict[str, Any]]:
        """The rows of ``films.csv``: every film's answers, its lungs' size, and of some their map's place."""
        looked = {one.sample.path: one for one in self.maps}
        rows = film_rows(self.table)
        for row in rows:
            found = looked.get(row["path"])
            row["lungs"] = float(self.films.masks.each(row["sha256"]).any(axis=0).mean())
            row["map_in_lungs"] = found.energy if found else None
            row["map_in_wide_region"] = found.wide_energy if found else None
        return rows

    def examples(self) -> Sequence[ExampleFilm]:
        """Some films of each class to look at."""
        return choose_examples(self.films.plan, self.table, self.dataset, self.films.masks, self.probes)


_LIMITS = {name for name in ShortcutConfig.model_fields if name.startswith(("max_", "min_"))}


def audit(
    films: FilmsWithLungs, dataset: Dataset, config: ShortcutConfig, *, progress: Progress | None = None
) -> ShortcutAudit:
    """Ask about every film, unchanged and under every probe; the heat maps come after.

    Args:
        films: which; every bundle that is asked makes its films square in the same way.
        dataset: where they lie.
        config: seed and limits.
        progress: called with the number of films done.

    Raises:
        UnreadableFileError: a film cannot be read any more.
    """
    probes = shortcut_probes(films.masks, films.plan.examiners[0].bundle.preprocessing)
    table = run_stress(films.plan, dataset, seed=config.seed, stresses=probes, progress=progress)
    return ShortcutAudit(films, dataset, config, probes, table)
