"""The report of a run: one page that a person reads who was not there.

In: the folder of a training run or of a cross-validation. Out: ``report/report.html`` in it, self-contained,
and the same as PDF. The run's JSON and CSV files are the truth; this page is a view of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.files import write_text
from pneumoscope.core.records import Progress
from pneumoscope.inference.bundle import Bundle, load_bundle
from pneumoscope.reporting import figures
from pneumoscope.reporting.data_section import dataset_facts, is_synthetic, limits, part_counts, shows_adults
from pneumoscope.reporting.evaluation_page import draw_evaluation, evaluation_context
from pneumoscope.reporting.pages import render
from pneumoscope.reporting.pdf import write_pdf
from pneumoscope.reporting.results import GOAL, Frequency
from pneumoscope.reporting.run_folder import RunFolder, open_run
from pneumoscope.reporting.thumbnails import Mistake, film, film_beside_heat_map, worst_mistakes

MISTAKES = 8
"""Worst mistakes that are shown: four missed pneumonias and four false alarms fill a page."""

_SETTINGS = (
    "network", "task", "init", "stage", "size", "fit", "exposure", "epochs", "patience", "batch_size",
    "optimiser", "learning_rate", "weight_decay", "schedule", "label_smoothing", "dropout", "ema_decay",
    "imbalance", "seed",
)  # fmt: skip


def write_run_report(
    run_directory: Path, *, pdf: bool = False, file: Path | None = None, progress: Progress | None = None
) -> Path:
    """Write the report of a run; return the HTML file.

    Args:
        run_directory: of a training run or of a cross-validation.
        pdf: also write a PDF beside the page.
        file: where the page goes; None is ``<run_directory>/report/report.html``.
        progress: called while heat maps are made.

    Raises:
        InputError: the folder is no run, or has no results yet.
        MissingExtraError: ``pdf`` without the extra of that name.
    """
    run = open_run(run_directory)
    page = file or run.directory / "report" / "report.html"
    html = render("run_report.html", **_context(run, progress))
    write_text(page, html)
    if pdf:
        write_pdf(html, page.with_suffix(".pdf"))
    return page


def _context(run: RunFolder, progress: Progress | None) -> dict[str, Any]:
    mistakes, remarks = _mistakes(run, progress)
    results = evaluation_context(run.evaluation, draw_evaluation(run.evaluation, run.table))
    return {
        **results,
        "run": run,
        "goal": GOAL,
        "title": f"Pneumonia on chest X-rays: report of “{run.name}”",
        "who": "patients" if shows_adults(run.dataset) else "children",
        "synthetic": is_synthetic(run.dataset),
        "icons": _icons(results["frequencies"]),
        "settings": [
            (key, run.manifest["config"][key]) for key in _SETTINGS if key in run.manifest["config"]
        ],
        "facts": dataset_facts(run.dataset) if run.dataset else (),
        "audit": run.audit,
        "parts": (parts := part_counts(run)),
        "balance": figures.svg(figures.class_balance(parts)) if parts else None,
        "learning": _learning(run),
        "fold_rows": _fold_rows(run.folds),
        "mistakes": mistakes,
        "missing": [*run.missing, *remarks],
        "limits": limits(run),
    }


def _icons(frequencies: Sequence[Frequency] | None) -> list[str]:
    if frequencies is None:
        return []
    missed, alarms = frequencies
    return [
        figures.svg(figures.icon_array(missed.count, "missed", "found")),
        figures.svg(figures.icon_array(alarms.count, "false alarms", "cleared", color=figures.PALETTE[3])),
    ]


def _learning(run: RunFolder) -> str | None:
    if run.history is not None:
        return figures.svg(figures.learning_curves(run.history))
    histories = {fold.directory.name: fold.history for fold in run.folds if fold.history is not None}
    return figures.svg(figures.fold_curves(histories)) if histories else None


def _fold_rows(folds: Sequence[RunFolder]) -> list[tuple[str, Mapping[str, Any]]]:
    """(fold, its evaluation) for the folds that were tested."""
    return [(fold.directory.name, fold.evaluation) for fold in folds if fold.scoring == "test"]


def _mistakes(run: RunFolder, progress: Progress | None) -> tuple[list[tuple[Mistake, bytes]], list[str]]:
    """The worst mistakes with their pictures, and what could not be shown, as sentences."""
    if run.table is None or run.dataset is None:
        return [], []
    chosen = worst_mistakes(run.table, run.evaluation["operating_point"]["threshold"], MISTAKES)
    shown: list[tuple[Mistake, bytes]] = []
    remarks: list[str] = []
    bundles: dict[Path, Bundle | None] = {}
    for done, mistake in enumerate(chosen, start=1):
        directory = run.fold_of(mistake.path).directory / "bundle"
        if directory not in bundles:
            bundles[directory] = _bundle(directory, remarks)
        try:
            shown.append((mistake, _picture(run.dataset.root / mistake.path, bundles[directory])))
        except PneumoscopeError as error:
            remarks.append(f"A mistake cannot be shown: {error}.")
        if progress:
            progress(done, len(chosen))
    return shown, remarks


def _bundle(directory: Path, remarks: list[str]) -> Bundle | None:
    try:
        return load_bundle(directory)
    except PneumoscopeError as error:
        remarks.append(f"Mistakes are shown without heat maps: {error}.")
        return None


def _picture(file: Path, bundle: Bundle | None) -> bytes:
    return film(file) if bundle is None else film_beside_heat_map(file, bundle)
