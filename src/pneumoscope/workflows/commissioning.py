"""Commissioning: site acceptance test of a bundle on local images, recalibration, and rollback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumoscope.core.errors import ConfigError
from pneumoscope.core.files import write_json
from pneumoscope.core.run_manifest import RunManifest
from pneumoscope.evaluation.commissioning import (
    CommissionConfig,
    commissioned_arrays,
    commissioned_document,
    rolled_back_arrays,
    rolled_back_document,
)
from pneumoscope.evaluation.commissioning import commission as measure
from pneumoscope.evaluation.scoring import ALL, check_leakage, choose_films, leakage_error
from pneumoscope.inference.bundle import MODEL, load_bundle, write_bundle
from pneumoscope.reporting.commissioning_page import write_commissioning_page
from pneumoscope.reporting.pages import write_pdf
from pneumoscope.workflows.adaptation import Local, adapt_bundle, local_films, observe_site
from pneumoscope.workflows.runs import (
    Result,
    StageProgress,
    configured,
    of_stage,
    open_bundle,
    open_dataset,
    result_directory,
)

if TYPE_CHECKING:
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.inference.bundle import Bundle


@dataclass(frozen=True)
class CommissioningResult(Result):
    """``commissioning.json``: measured checks, the verdict, and the bundle's new version."""

    @property
    def verdict(self) -> str:
        """GO, CAUTION or NO-GO."""
        return str(self.document["verdict"])

    @property
    def bundle(self) -> Path:
        """Directory of the site's version of the bundle; it is written whatever the verdict."""
        return self.directory / "bundle"

    def rows(self) -> list[dict[str, Any]]:
        """One row per check."""
        return [dict(check) for check in self.document["checks"]]


def commission(
    bundle: Bundle | Path | str,
    dataset: Dataset | Path | str,
    *,
    split: str | None = None,
    split_name: str = "default",
    output: Path | str | None = None,
    pdf: bool = False,
    config: CommissionConfig | Path | None = None,
    unlabelled: Sequence[Path] = (),
    progress: StageProgress | None = None,
    **options: Any,
) -> CommissioningResult:
    """Measure a bundle on labelled local images, recalibrate it, and say GO, CAUTION or NO-GO.

    Args:
        bundle: object, directory or name of a shipped one.
        dataset: object, directory, or a folder, CSV or npz to import first.
        split: only this part of the split ``split_name``; None: all images.
        output: folder of the results; None: below ``runs``.
        pdf: write the page as PDF, too.
        config, options: keys of :class:`CommissionConfig`; ``prevalence`` is required, ``adapt`` also tries a
            shift of the prior and a new head.
        unlabelled: files of further local images, which only help ``adapt`` find the share of pneumonia.
        progress: told of stages.

    Raises:
        ConfigError: unlabelled images without ``adapt``.
        InputError: too few images or patients of a class.
        LeakageError: an image or its patient was in the bundle's training data.
    """
    settings = configured(CommissionConfig, config, options)
    if unlabelled and not settings.adapt:
        raise ConfigError("unlabelled images are used by an adaptation alone", remedy="add --adapt")
    opened = open_bundle(bundle)
    source = open_dataset(dataset, progress)
    films = choose_films(source, split or ALL, split_name)
    if leaks := check_leakage(opened.document, films.samples):
        raise leakage_error(leaks, len(films.samples))
    directory = result_directory(output, "commission", source.name)
    files = [source.file(sample) for sample in films.samples]
    seen = observe_site(opened, files, of_stage(progress, "examining"))
    more = observe_site(opened, unlabelled, of_stage(progress, "examining unlabelled"))
    document = _commission(opened, source, Local(films.samples, seen, more), settings, directory)
    page = write_commissioning_page(document, directory)
    if pdf:
        write_pdf(page.read_text(encoding="utf-8"), directory / "commissioning.pdf")
    return CommissioningResult(directory, document)


def rollback(bundle: Path | str, output: Path | None = None) -> tuple[Bundle, Bundle]:
    """Take the last commissioning of ``bundle`` back; return the bundle as it was before and after.

    Args:
        bundle: directory of a commissioned bundle.
        output: where the earlier version is written; None: in place of ``bundle``.
    """
    opened = load_bundle(bundle)
    earlier = write_bundle(
        output or opened.directory,
        opened.directory / MODEL,
        rolled_back_document(opened.document),
        rolled_back_arrays(opened.arrays, opened.document),
        opened.preprocessing.segmenter,
    )
    return opened, earlier


def _commission(
    bundle: Bundle, dataset: Dataset, local: Local, settings: CommissionConfig, directory: Path
) -> dict[str, Any]:
    """Measure, judge, write the bundle's new version; return ``commissioning.json``'s content."""
    manifest = RunManifest(
        directory, "commission", settings.model_dump(mode="json"), {"folds": settings.seed}
    )
    manifest.add_input("dataset", dataset.hash)
    manifest.add_input("bundle", bundle.id)
    films, site = local_films(bundle, local), None
    if settings.adapt:
        with manifest.stage("adapt"):
            site = adapt_bundle(bundle, local, films, settings)
    with manifest.stage("measure"):
        result = measure(
            site.films if site else films, bundle.document, settings, site.adapted if site else None
        )
        if site:
            result["adaptation"] = site.document
            result["changed"] |= site.changed(result)
    with manifest.stage("write"):
        arrays = site.arrays if site else {}
        origin = {"name": dataset.name, "hash": dataset.hash}
        new = write_bundle(
            directory / "bundle",
            bundle.directory / MODEL,
            commissioned_document(bundle.document, result, origin, tuple(arrays)),
            commissioned_arrays(bundle.arrays, arrays, bundle.document.get("version", 1)),
            bundle.preprocessing.segmenter,
        )
        document = {
            **result,
            "dataset": dataset.name,
            "dataset_hash": dataset.hash,
            "bundle": bundle.id,
            "new_bundle": new.id,
            "when": datetime.now().astimezone().isoformat(timespec="seconds"),
            "limitations": new.document["limitations"],
        }
        write_json(directory / "commissioning.json", document)
    manifest.finish(verdict=document["verdict"], bundle=new.id)
    return document
