"""What is wrong with a data set before anything is learned from it: leaks, shortcuts, duplicates, imbalance.

In: a data set, its pixel cache, its duplicates and, optionally, a split. Out: one JSON-able dictionary, kept
as ``DATASET/audit/audit.json``; the audit page is a view of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.files import write_json
from pneumoscope.core.records import Label, Preprocessing, Progress, Sample
from pneumoscope.data.audit_findings import list_findings
from pneumoscope.data.audit_links import describe_duplicates, describe_patients
from pneumoscope.data.audit_properties import Property, measure_properties
from pneumoscope.data.audit_shortcuts import METHOD, Question, ask, score_jointly, score_property
from pneumoscope.data.cache import PixelCache, build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.duplicates import DuplicateGroup, find_duplicates
from pneumoscope.data.splits import Split

SCHEMA_VERSION = 1
_PERCENTILES = (5, 25, 50, 75, 95)
_HISTOGRAM_BINS = 40


def run_audit(
    dataset: Dataset, *, split: Split | None = None, seed: int = 0, progress: Progress | None = None
) -> dict[str, Any]:
    """Audit ``dataset`` with everything that it needs, and write ``DATASET/audit/audit.json``.

    Args:
        dataset: what to audit; its cache is built where it is missing.
        split: whose parts are searched for leaks; None takes the publisher's.
        seed: of folds and bootstraps.
        progress: called with the number of films done, by each step in turn.

    Raises:
        DatasetError: the split belongs to other films, or a film has changed since the import.
    """
    cache = build_cache(dataset, Preprocessing(), progress=progress)
    duplicates = find_duplicates(dataset, progress=progress)
    audit = audit_dataset(dataset, cache, split, duplicates=duplicates, seed=seed, progress=progress)
    write_json(dataset.directory / "audit" / "audit.json", audit)
    return audit


def audit_dataset(
    dataset: Dataset,
    cache: PixelCache,
    split: Split | None = None,
    *,
    duplicates: Iterable[DuplicateGroup] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The audit as plain values.

    Returns:
        ``dataset``, ``parts`` (where they come from), ``balance`` (part -> class -> films), ``patients``,
        ``duplicates``, ``properties`` (per class percentiles, histogram and AUC), ``shortcuts`` (joint AUC of
        the file and of the picture properties), ``problems`` and ``findings`` (sentences, worst first).
    """
    samples = dataset.samples
    parts, source = _parts(dataset, split)
    questions = _questions(samples, seed)
    properties = measure_properties(samples, cache, progress=progress)
    audit: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "dataset": {
            "name": dataset.name,
            "layout": dataset.layout,
            "hash": dataset.hash,
            "films": len(samples),
            "classes": _count_labels(samples),
            "notes": list(dataset.notes),
        },
        "parts": source,
        "balance": _balance(samples, parts),
        "patients": describe_patients(samples, parts),
        "duplicates": describe_duplicates(duplicates, samples, parts),
        "properties": [_describe(item, samples, questions) for item in properties],
        "shortcuts": _joint_shortcuts(properties, questions),
        "method": METHOD,
        "seed": seed,
        "problems": [asdict(problem) for problem in dataset.problems],
    }
    audit["findings"] = list_findings(audit)
    return audit


def _parts(dataset: Dataset, split: Split | None) -> tuple[Mapping[str, str], str]:
    """Part of each film, and in words where the parts come from."""
    if split is not None:
        split.samples(dataset)
        return split.parts, f"split '{split.name}' ({split.method}, seed {split.seed})"
    parts = {s.path: s.publisher_split for s in dataset.samples if s.publisher_split}
    return parts, "the publisher's folders" if parts else "no parts yet"


def _questions(samples: Sequence[Sample], seed: int) -> dict[str, Question]:
    """The choices that the labels allow: pneumonia against normal, bacterial against viral."""
    labels = np.array([s.label.value for s in samples])
    groups = np.unique([s.group_id for s in samples], return_inverse=True)[1].astype(np.int64)
    etiologies = (Label.BACTERIAL.value, Label.VIRAL.value)
    asked = {
        "pneumonia": ask(labels != Label.NORMAL.value, np.ones(len(labels), dtype=bool), groups, seed),
        "etiology": ask(labels == etiologies[0], np.isin(labels, etiologies), groups, seed),
    }
    return {name: question for name, question in asked.items() if question is not None}


def _count_labels(samples: Iterable[Sample]) -> dict[str, int]:
    counts = Counter(s.label for s in samples)
    return {label.value: counts[label] for label in Label if counts[label]}


def _balance(samples: Sequence[Sample], parts: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Films by part and class; a single row ``all`` where there are no parts."""
    rows: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        rows[parts.get(sample.path, "all")].append(sample)
    return {part: _count_labels(own) for part, own in rows.items()}


def _describe(item: Property, samples: Sequence[Sample], questions: Mapping[str, Question]) -> dict[str, Any]:
    """A property: its distribution in each class and what it gives away."""
    labels = np.array([s.label.value for s in samples])
    known = np.isfinite(item.values)
    edges = _edges(item.values[known], item)
    by_class = {}
    for label in _count_labels(samples):
        own = item.values[(labels == label) & known]
        counts = np.histogram(own, edges)[0]
        by_class[label] = {
            "n": len(own),
            "missing": int((labels == label).sum()) - len(own),
            "percentiles": {
                str(p): float(v) for p, v in zip(_PERCENTILES, np.percentile(own, _PERCENTILES), strict=True)
            }
            if len(own)
            else {},
            "histogram": counts.tolist(),
        }
    constant = bool(known.all()) and float(np.ptp(item.values)) == 0
    return {
        "name": item.name,
        "title": item.title,
        "unit": item.unit,
        "kind": item.kind,
        "logarithmic": item.logarithmic,
        "names": list(item.names),
        "constant": constant,
        "edges": edges.tolist(),
        "by_class": by_class,
        "auc": {}
        if constant
        else {name: asdict(score_property(item.values, q)) for name, q in questions.items()},
    }


def _edges(known: npt.NDArray[np.float64], item: Property) -> npt.NDArray[np.float64]:
    """Edges of a histogram's bins; one bin a category."""
    if item.names:
        return np.arange(len(item.names) + 1, dtype=np.float64) - 0.5
    low, high = float(known.min()), float(known.max())
    if item.logarithmic and low > 0 and high > low:
        return np.asarray(np.geomspace(low, high, _HISTOGRAM_BINS + 1), dtype=np.float64)
    return np.asarray(np.histogram_bin_edges(known, _HISTOGRAM_BINS), dtype=np.float64)


def _joint_shortcuts(
    properties: Sequence[Property], questions: Mapping[str, Question]
) -> dict[str, dict[str, Any]]:
    """kind -> properties used and, by question, the AUC of all of them together."""
    shortcuts = {}
    for kind in ("file", "picture"):
        chosen = [p for p in properties if p.kind == kind and np.ptp(p.values) != 0]
        if chosen:
            values = np.stack([p.values for p in chosen], axis=1)
            shortcuts[kind] = {
                "properties": [p.name for p in chosen],
                "auc": {
                    name: asdict(score_jointly(values, question)) for name, question in questions.items()
                },
            }
    return shortcuts
