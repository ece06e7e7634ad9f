"""Documents about a run or a bundle: the report, the model card, and the evidence pack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pneumoscope.inference.bundle import Bundle, load_bundle
from pneumoscope.reporting.bundle_card import bundle_card
from pneumoscope.reporting.evidence import attach, evidence, write_evidence
from pneumoscope.reporting.release_page import read_release
from pneumoscope.reporting.run_report import write_run_report
from pneumoscope.workflows.runs import StageProgress, of_stage


def report(
    run: Path, *, pdf: bool = False, output: Path | None = None, progress: StageProgress | None = None
) -> Path:
    """Write the report of a run or cross-validation; return its HTML page, beside which a PDF may lie."""
    return write_run_report(run, pdf=pdf, file=output, progress=of_stage(progress, "drawing mistakes"))


def card(bundle: Path | str, release: Path | None = None) -> str:
    """The model card of a bundle in Markdown: what it is, how good, and its limits.

    Args:
        bundle: directory or name of a shipped one.
        release: ``release.json`` of its release check, whose verdict and table the card then shows.
    """
    opened = load_bundle(bundle)
    return bundle_card(opened.document, str(bundle), _release(release, opened))


def evidence_pack(
    bundle: Path | str,
    output: Path,
    *,
    run: Path | None = None,
    files: Sequence[Path] = (),
    release: Path | None = None,
    pdf: bool = False,
) -> Sequence[Path]:
    """Write card, checklists, hashes and bill of materials of a bundle; return the files.

    Args:
        bundle: directory or name of a shipped one.
        output: the folder.
        run: a cross-validation of its recipe, for figures on unseen images.
        files: JSON of ``stress``, ``audit-shortcuts`` or ``commission``.
        release: ``release.json`` of the bundle's release check, for the card.
        pdf: write the page as PDF, too.
    """
    opened = load_bundle(bundle)
    internal = None
    if run is not None:
        (internal,) = attach([run / "evaluation" / "cross-validation.json"]).values()
    content = evidence(opened, str(bundle), internal, attach(files), _release(release, opened))
    return list(write_evidence(content, opened, output, pdf=pdf))


def _release(file: Path | None, bundle: Bundle) -> dict[str, Any] | None:
    return None if file is None else read_release(file, bundle)
