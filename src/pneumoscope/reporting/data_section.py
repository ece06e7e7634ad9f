"""What a report says of the films: counts, split, what is known of the patients, limits.

In: a :class:`~pneumoscope.reporting.run_folder.RunFolder`. Out: plain rows and sentences; each sentence rests
on the manifest, the bundle or the publication named beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from pneumoscope.core.records import Label
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.patients import guangzhou_patient
from pneumoscope.data.phantom_files import WATERMARK
from pneumoscope.reporting.run_folder import RunFolder

_ADULT_YEARS = 18.0
_IMAGE_DESCRIPTION = 0x010E  # EXIF 2.3, table 4
_UNKNOWN = "label not known"

_ALWAYS = (
    "No clinical histories: the films come without temperature, oxygen saturation, course of the illness or "
    "earlier films, which a physician would use.",
    "The reference is what readers made of film and record, not a proof; the cause is its noisiest part.",
    "The share with pneumonia among these films is that of the collection. Where pneumonia is rarer, more of "
    "the alarms are false (see the costs).",
)
_GUANGZHOU = (
    "One hospital: Guangzhou Women and Children's Medical Center (Kermany et al., Cell 172(5), 2018, "
    "doi:10.1016/j.cell.2018.02.010). Other devices, exposures and populations may shift the answers.",
    "Children of one to five years. Nothing is known about newborns, older children or adults.",
    "Class and way of acquisition go together in this collection (file size, proportions, exposure), so part "
    "of the performance may come from the equipment rather than from the lung.",
)


def dataset_facts(dataset: Dataset) -> list[tuple[str, str]]:
    """Rows (what, value) about the films of the manifest."""
    samples = dataset.samples
    labels = Counter(str(sample.label) for sample in samples)
    rows = [
        ("Name and layout", f"{dataset.name} ({dataset.layout})"),
        ("Films", f"{len(samples):,}"),
        ("Patients", f"{len({sample.patient_id for sample in samples}):,}"),
        *((f"Films labelled {label}", f"{labels[label]:,}") for label in map(str, Label) if labels[label]),
        ("Files that could not be used", f"{len(dataset.problems):,}"),
        ("Sites", _distinct([sample.site for sample in samples])),
        ("Views", _distinct([sample.view for sample in samples])),
        ("Sex", _distinct([sample.sex for sample in samples])),
        ("Age in years", _range([sample.age_years for sample in samples])),
        ("Height of the files in pixels", _range([sample.height for sample in samples])),
    ]
    return [(name, value) for name, value in rows if value]


def part_counts(run: RunFolder) -> dict[str, dict[str, int]]:
    """Part of the split -> label -> films; empty when there is no split."""
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
        else "The manifest names no hospital: the films must be taken to come from one"
    )
    return [f"{where}. Other devices and populations may shift the answers.", *_ALWAYS]


def is_synthetic(dataset: Dataset | None) -> bool:
    """Whether the films are phantoms: their own metadata says so (the first film's is read)."""
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
    return f"{known[0]:g} to {known[-1]:g}, median {known[len(known) // 2]:g} ({len(known):,} films)"
