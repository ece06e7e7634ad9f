"""Report of a training run or cross-validation: ``report/report.html`` and the same as PDF.

The run is read back without training libraries; what is missing is said, not hidden.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pneumoscope.core.errors import InputError, PneumoscopeError
from pneumoscope.core.files import read_json, write_text
from pneumoscope.core.records import Label, Progress
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.patients import guangzhou_patient
from pneumoscope.data.phantoms import WATERMARK
from pneumoscope.evaluation.predictions import PredictionTable, read_predictions
from pneumoscope.inference.bundle import Bundle, load_bundle
from pneumoscope.reporting import figures
from pneumoscope.reporting.evaluation_page import draw_evaluation, evaluation_context
from pneumoscope.reporting.pages import render, write_pdf
from pneumoscope.reporting.results import GOAL, Frequency
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


_KINDS = ("test", "cross-validation")
_RESCUE = "name the folder given to 'pneumoscope train DATASET -o RUN'"


@dataclass(frozen=True)
class RunFolder:
    """One run.

    Attributes:
        directory: where it lies.
        manifest: ``run.json``.
        scoring: ``test``, ``cross-validation`` or ``validation``: which images the results are about.
        evaluation: their evaluation as JSON; table: their predictions, or None.
        history: columns of ``history.csv`` as numbers (column ``stage`` left out), or None.
        bundle: ``bundle/bundle.json``, or None.
        dataset: where the images came from, or None when it is not there any more.
        audit: ``audit/audit.json`` of the data set, or None.
        split: image -> part (``train``, ...; ``fold-0``, ... for a cross-validation), or None.
        folds: the runs of a cross-validation, otherwise empty.
        missing: what was not found, as sentences.
    """

    directory: Path
    manifest: Mapping[str, Any]
    scoring: str
    evaluation: Mapping[str, Any]
    table: PredictionTable | None
    history: Mapping[str, tuple[float, ...]] | None
    bundle: Mapping[str, Any] | None
    dataset: Dataset | None
    audit: Mapping[str, Any] | None
    split: Mapping[str, str] | None
    folds: tuple[RunFolder, ...]
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run's own name, or its folder's."""
        return str(self.manifest.get("config", {}).get("name") or self.directory.resolve().name)

    def fold_of(self, path: str) -> RunFolder:
        """The run whose bundle has not seen the image: the fold that tested it, or this run itself."""
        for fold in self.folds:
            if fold.table is not None and path in fold.table.paths:
                return fold
        return self


def open_run(directory: Path) -> RunFolder:
    """Read the run in ``directory``.

    The results are those of the first of: ``evaluation/test.json``, ``evaluation/cross-validation.json``, the
    latest ``pneumoscope evaluate`` of the run's bundle that was written inside the run's folder, and
    ``evaluation/validation.json``.

    Raises:
        InputError: there is no such folder, it is no run, its ``run.json`` is damaged, or it holds no
            evaluation yet.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory)
    missing: list[str] = []
    scoring = _find_scoring(directory, manifest)
    folds = tuple(
        open_run(fold) for fold in sorted(directory.glob("fold-*")) if (fold / "run.json").is_file()
    )
    dataset = _dataset(directory, manifest, missing)
    return RunFolder(
        directory=directory,
        manifest=manifest,
        scoring=scoring.kind,
        evaluation=_json(scoring.evaluation),
        table=_table(scoring.predictions, missing),
        history=None if folds else _history(directory / "history.csv", missing),
        bundle=None if folds else _bundle_document(directory / "bundle" / "bundle.json", missing),
        dataset=dataset,
        audit=_audit(dataset, missing),
        split=_split(directory / "split.csv", missing),
        folds=folds,
        missing=tuple(missing),
    )


def _read_manifest(directory: Path) -> Mapping[str, Any]:
    if not directory.is_dir():
        raise InputError("no such folder", where=directory, expected="the folder of a run", remedy=_RESCUE)
    file = directory / "run.json"
    if not file.is_file():
        raise InputError(
            "not a run (no run.json)",
            where=directory,
            expected="the folder that 'train' wrote",
            remedy=_RESCUE,
        )
    manifest = _json(file)
    if manifest.get("command") == "evaluate":
        raise InputError(
            "this is an evaluation, not a training run",
            where=directory,
            expected="the folder that 'train' wrote",
            remedy=f"its report is {directory / 'evaluation.html'}",
        )
    return manifest


@dataclass(frozen=True, slots=True)
class _Scoring:
    kind: str
    evaluation: Path
    predictions: Path


def _find_scoring(directory: Path, manifest: Mapping[str, Any]) -> _Scoring:
    own = [
        _Scoring(kind, directory / "evaluation" / f"{kind}.json", directory / "predictions" / f"{kind}.csv")
        for kind in (*_KINDS, "validation")
    ]
    later = [
        _Scoring("test", folder / "evaluation.json", folder / "predictions.csv")
        for folder in _evaluations(directory, manifest)
    ]
    for scoring in (*own[:-1], *later, own[-1]):
        if scoring.evaluation.is_file():
            return scoring
    raise InputError(
        f"this run has no results (outcome: {manifest.get('outcome', 'unknown')})",
        where=directory,
        expected=f"one of {', '.join(str(scoring.evaluation.relative_to(directory)) for scoring in own)}",
        remedy="let it finish: 'pneumoscope train --resume' with this folder goes on where it stopped",
    )


def _evaluations(directory: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Folders of finished evaluations of this run's bundle inside the run's folder, the latest first."""
    bundle = manifest.get("results", {}).get("bundle")
    found = []
    for file in directory.glob("*/run.json"):
        other = _json(file)
        same = bundle is not None and other.get("inputs", {}).get("bundle") == bundle
        if other.get("command") == "evaluate" and other.get("outcome") == "done" and same:
            found.append((str(other.get("started")), file.parent))
    return [folder for _, folder in sorted(found, reverse=True)]


def _json(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except ValueError as error:
        raise InputError(f"not valid JSON ({error})", where=file, remedy="run again") from error
    if not isinstance(content, dict):
        raise InputError("not a JSON object", where=file, remedy="run again")
    return content


def _table(file: Path, missing: list[str]) -> PredictionTable | None:
    if not file.is_file():
        missing.append(
            f"The predictions ({file.parent.name}/{file.name}) are not there: no curves, no mistakes."
        )
        return None
    return read_predictions(file)


def _bundle_document(file: Path, missing: list[str]) -> Mapping[str, Any] | None:
    if not file.is_file():
        missing.append("The bundle is not there: no heat maps, and nothing is known of the trained network.")
        return None
    return _json(file)


def _history(file: Path, missing: list[str]) -> Mapping[str, tuple[float, ...]] | None:
    if not file.is_file():
        missing.append("The training history (history.csv) is not there: no learning curves.")
        return None
    with open(file, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    try:
        columns = [name for name in (rows[0] if rows else {}) if name != "stage"]
        return {name: tuple(float(row[name] or "nan") for row in rows) for name in columns} or None
    except (TypeError, ValueError) as error:
        raise InputError(f"damaged training history ({error})", where=file, remedy="run again") from error


def _dataset(directory: Path, manifest: Mapping[str, Any], missing: list[str]) -> Dataset | None:
    stored = manifest.get("results", {}).get("dataset_directory")
    if not stored:
        missing.append("The run does not say where its data set lies.")
        return None
    for folder in (Path(stored), directory / stored):
        if (folder / "dataset.json").is_file():
            try:
                dataset = Dataset.open(folder)
            except PneumoscopeError as error:
                missing.append(f"The data set cannot be read: {error}.")
                return None
            if dataset.hash != manifest.get("inputs", {}).get("dataset", dataset.hash):
                missing.append(
                    "The data set has changed since this run; what is said of it here is as it is now."
                )
            return dataset
    missing.append("The data set is not where it was: no images are shown, nothing is said of its audit.")
    return None


def _audit(dataset: Dataset | None, missing: list[str]) -> Mapping[str, Any] | None:
    if dataset is None:
        return None
    file = dataset.directory / "audit" / "audit.json"
    if not file.is_file():
        missing.append(
            "The data set has not been audited: duplicates, patients on both sides of a split and properties "
            "that give the label away have not been looked for. Run 'pneumoscope data audit'."
        )
        return None
    return _json(file)


def _split(file: Path, missing: list[str]) -> Mapping[str, str] | None:
    if not file.is_file():
        missing.append("The split (split.csv) is not there.")
        return None
    with open(file, newline="", encoding="utf-8") as stream:
        # The first line may be a comment with the split's method and seed.
        rows = csv.DictReader(line for line in stream if not line.startswith("#"))
        try:
            return {row["path"]: row["part"] for row in rows}
        except KeyError as error:
            raise InputError("not a split", where=file, expected="columns path, part") from error


_ADULT_YEARS = 18.0
_IMAGE_DESCRIPTION = 0x010E  # EXIF 2.3, table 4
_UNKNOWN = "label not known"

_ALWAYS = (
    "No clinical histories: the images come without temperature, oxygen saturation, course of the illness or "
    "earlier images, which a physician would use.",
    "The reference is what readers made of image and record, not a proof; the cause is its noisiest part.",
    "The share with pneumonia among these images is that of the collection. Where pneumonia is rarer, more "
    "of the alarms are false (see the costs).",
)
_GUANGZHOU = (
    "One hospital: Guangzhou Women and Children's Medical Center (Kermany et al., Cell 172(5), 2018, "
    "doi:10.1016/j.cell.2018.02.010). Other devices, exposures and populations may shift the answers.",
    "Children of one to five years. Nothing is known about newborns, older children or adults.",
    "Class and way of acquisition go together in this collection (file size, proportions, exposure), so part "
    "of the performance may come from the equipment rather than from the lung.",
)


def dataset_facts(dataset: Dataset) -> list[tuple[str, str]]:
    """Rows (what, value) about the images of the manifest."""
    samples = dataset.samples
    labels = Counter(str(sample.label) for sample in samples)
    rows = [
        ("Name and layout", f"{dataset.name} ({dataset.layout})"),
        ("Images", f"{len(samples):,}"),
        ("Patients", f"{len({sample.patient_id for sample in samples}):,}"),
        *((f"Images labelled {label}", f"{labels[label]:,}") for label in map(str, Label) if labels[label]),
        ("Files that could not be used", f"{len(dataset.problems):,}"),
        ("Sites", _distinct([sample.site for sample in samples])),
        ("Views", _distinct([sample.view for sample in samples])),
        ("Sex", _distinct([sample.sex for sample in samples])),
        ("Age in years", _range([sample.age_years for sample in samples])),
        ("Height of the files in pixels", _range([sample.height for sample in samples])),
    ]
    return [(name, value) for name, value in rows if value]


def part_counts(run: RunFolder) -> dict[str, dict[str, int]]:
    """Part of the split -> label -> images; empty when there is no split."""
    labels = {sample.path: str(sample.label) for sample in run.dataset.samples} if run.dataset else {}
    counts: dict[str, Counter[str]] = {}
    for path, part in (run.split or {}).items():
        counts.setdefault(part, Counter())[labels.get(path, _UNKNOWN)] += 1
    usual = ("train", "validation", "test")
    others = sorted(set(counts) - set(usual), key=lambda part: (len(part), part))
    order = [*(part for part in usual if part in counts), *others]
    classes = [*map(str, Label), _UNKNOWN]
    return {part: {name: counts[part][name] for name in classes if counts[part][name]} for part in order}


def limits(run: RunFolder) -> list[str]:
    """What the data cannot show, as sentences."""
    if run.dataset is None:
        return list(_ALWAYS)
    if _is_guangzhou(run.dataset):
        return [*_GUANGZHOU, *_ALWAYS]
    sites = {sample.site for sample in run.dataset.samples if sample.site}
    where = (
        f"{len(sites)} site{'s' if len(sites) > 1 else ''} ({', '.join(sorted(sites)[:5])})"
        if sites
        else "The manifest names no hospital: the images must be taken to come from one"
    )
    return [f"{where}. Other devices and populations may shift the answers.", *_ALWAYS]


def is_synthetic(dataset: Dataset | None) -> bool:
    """Whether the images are phantoms: their own metadata says so (the first image's is read)."""
    if dataset is None or not dataset.samples:
        return False
    first = dataset.samples[0]
    if first.patient_id.startswith("PHANTOM-"):
        return True
    return _watermarked(dataset.file(first))


def shows_adults(dataset: Dataset | None) -> bool:
    """Whether the manifest holds patients of 18 years or more."""
    samples = dataset.samples if dataset else ()
    return any(sample.age_years is not None and sample.age_years >= _ADULT_YEARS for sample in samples)


def _watermarked(file: Path) -> bool:
    try:
        with Image.open(file) as image:
            notes = [image.getexif().get(_IMAGE_DESCRIPTION), *image.info.values()]
    except OSError:  # moved away, or DICOM: its patient id tells
        return False
    return any(WATERMARK in str(note) for note in notes)


def _is_guangzhou(dataset: Dataset) -> bool:
    """Whether most file names follow the naming schemes of the Guangzhou collection."""
    known = sum(guangzhou_patient(Path(sample.path).stem).recognised for sample in dataset.samples)
    return known > len(dataset.samples) / 2 and not is_synthetic(dataset)


def _distinct(values: list[str | None]) -> str:
    counts: Mapping[str, int] = Counter(value for value in values if value)
    if not counts:
        return "not in the manifest"
    named = ", ".join(f"{name} ({n:,})" for name, n in sorted(counts.items(), key=lambda item: -item[1])[:6])
    unknown = len(values) - sum(counts.values())
    return named + (f", not known ({unknown:,})" if unknown else "")


def _range(values: list[float | None] | list[int | None]) -> str:
    known = sorted(value for value in values if value is not None)
    if not known:
        return "not in the manifest"
    return f"{known[0]:g} to {known[-1]:g}, median {known[len(known) // 2]:g} ({len(known):,} images)"
