"""Robustness and shortcut audits of a network, on images that it was not trained on.

``stress`` measures what everyday changes of an image cost in accuracy; ``audit_shortcuts`` asks whether the
network reads lungs or something that merely goes with the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumoscope.core.files import write_json, write_table
from pneumoscope.core.run_manifest import RunManifest
from pneumoscope.evaluation.shortcut_audit import ShortcutAudit, ShortcutConfig, audit, failed_checks
from pneumoscope.evaluation.shortcut_probes import find_films
from pneumoscope.evaluation.stress import (
    StressConfig,
    StressPlan,
    StressTable,
    choose_some,
    failures,
    film_rows,
    plan_stress,
    run_stress,
    score_stress,
    stress_rows,
)
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.imaging.stress import STRESSES
from pneumoscope.reporting.shortcut_page import write_shortcut_page
from pneumoscope.reporting.stress_page import write_stress_page
from pneumoscope.workflows.runs import (
    Result,
    StageProgress,
    configured,
    of_stage,
    open_dataset,
    result_directory,
)

if TYPE_CHECKING:
    from pneumoscope.data.dataset import Dataset


@dataclass(frozen=True)
class StressResult(Result):
    """``stress.json``: accuracy under each change of the image, with its verdict."""

    @property
    def failures(self) -> list[str]:
        """Names of the changes that cost more than the limits allow."""
        return failures(self.document)

    def rows(self) -> list[dict[str, Any]]:
        """One row per change of the image."""
        return stress_rows(self.document)


@dataclass(frozen=True)
class ShortcutResult(Result):
    """``shortcuts.json``: probes, heat-map tests, and checks with a verdict (pass, fail or open)."""

    @property
    def verdict(self) -> str:
        """The verdict over all checks."""
        return str(self.document["verdict"])

    def rows(self) -> list[dict[str, Any]]:
        """One row per check."""
        return [dict(check) for check in self.document["checks"]]


@dataclass(frozen=True, slots=True)
class _Job:
    plan: StressPlan
    dataset: Dataset
    directory: Path
    progress: StageProgress | None

    def manifest(self, command: str, config: Mapping[str, Any], seeds: Mapping[str, int]) -> RunManifest:
        manifest = RunManifest(self.directory, command, config, seeds)
        manifest.add_input("dataset", self.dataset.hash)
        for name, identity in self.bundles.items():
            manifest.add_input(f"bundle {name}", identity)
        return manifest

    @property
    def bundles(self) -> dict[str, str]:
        return {examiner.name: examiner.bundle.id for examiner in self.plan.examiners}


def stress(
    subject: Path | str,
    dataset: Dataset | Path | str,
    *,
    split: str | None = None,
    split_name: str = "default",
    operating_point: str | None = None,
    output: Path | None = None,
    config: StressConfig | Path | None = None,
    progress: StageProgress | None = None,
    **options: Any,
) -> StressResult:
    """Measure what changes of exposure, framing and compression cost in accuracy.

    Args:
        subject: a cross-validation (tested out of fold), a run, or a bundle.
        dataset: whose images.
        split, split_name: with one bundle, the part of a split; see :func:`choose_films`.
        operating_point: one that every bundle has; None: each one's default.
        output: folder of the results; None: below ``runs``.
        config, options: keys of :class:`StressConfig`.
        progress: told of stages.

    Returns:
        The content of ``stress.json``; the folder also gets two tables and a page.
    """
    settings = configured(StressConfig, config, options)
    source = open_dataset(dataset, progress)
    plan = plan_stress(str(subject), source, split, split_name)
    if settings.films:
        plan = choose_some(plan, settings.films, settings.seed)
    job = _Job(plan, source, result_directory(output, "stress", source.name), progress)
    asked = {"operating_point": operating_point, **settings.model_dump(mode="json")}
    manifest = job.manifest("stress", asked, {"stress": settings.seed})
    with manifest.stage("predict"):
        table = run_stress(
            plan,
            source,
            operating_point=operating_point,
            seed=settings.seed,
            progress=of_stage(progress, "stressing"),
        )
    with manifest.stage("score"):
        document = score_stress(table, settings) | {
            "dataset": source.name,
            "dataset_hash": source.hash,
            "protocol": plan.protocol,
            "left_out": plan.left_out,
            "bundles": job.bundles,
            "operating_point": operating_point or "default",
        }
    with manifest.stage("write"):
        _write_stress(document, table, job, settings.seed)
    manifest.finish(films=len(table.samples), failures=failures(document))
    return StressResult(job.directory, document)


def _write_stress(document: Mapping[str, Any], table: StressTable, job: _Job, seed: int) -> None:
    """``stress.json``, the two tables, and the page with the first image."""
    write_json(job.directory / "stress.json", document)
    write_table(job.directory / "stress.csv", stress_rows(document))
    write_table(job.directory / "films.csv", film_rows(table))
    first = table.samples[0]
    pixels = read_radiograph(job.dataset.file(first)).pixels
    changed = {change.title: change.apply(pixels, first.sha256, seed) for change in STRESSES}
    write_stress_page(document, {"Unchanged": pixels, **changed}, job.directory)


def audit_shortcuts(
    subject: Path | str,
    dataset: Dataset | Path | str,
    *,
    split: str | None = None,
    split_name: str = "default",
    output: Path | None = None,
    config: ShortcutConfig | Path | None = None,
    progress: StageProgress | None = None,
    **options: Any,
) -> ShortcutResult:
    """Hide the lungs, keep only the lungs, and test the heat maps.

    Args:
        subject, dataset, split, split_name, output, progress: as for :func:`stress`.
        config, options: keys of :class:`ShortcutConfig`.

    Returns:
        The content of ``shortcuts.json``; the folder also gets a table of the images and a page.
    """
    settings = configured(ShortcutConfig, config, options)
    source = open_dataset(dataset, progress)
    plan = plan_stress(str(subject), source, split, split_name)
    job = _Job(plan, source, result_directory(output, "audit-shortcuts", source.name), progress)
    manifest = job.manifest("audit-shortcuts", settings.model_dump(mode="json"), {"audit": settings.seed})
    with manifest.stage("films"):
        films = find_films(
            plan, source, settings.films, settings.seed, progress=of_stage(progress, "finding lungs")
        )
    with manifest.stage("probes"):
        found = audit(films, source, settings, progress=of_stage(progress, "hiding lungs"))
    with manifest.stage("maps"):
        found = found.with_maps(progress=of_stage(progress, "testing heat maps"))
    with manifest.stage("score"):
        document = found.document() | {"left_out": plan.left_out, "bundles": job.bundles}
    with manifest.stage("write"):
        _write_audit(document, found, job.directory)
    manifest.finish(
        films=document["films"], verdict=document["verdict"], failed=failed_checks(document["checks"])
    )
    return ShortcutResult(job.directory, document)


def _write_audit(document: Mapping[str, Any], found: ShortcutAudit, directory: Path) -> None:
    write_json(directory / "shortcuts.json", document)
    write_table(directory / "films.csv", found.film_rows())
    write_shortcut_page(document, found.examples(), directory)
