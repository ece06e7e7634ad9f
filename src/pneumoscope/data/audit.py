"""Audit of a data set before training: leaks, shortcuts, duplicates, imbalance.

The result is one JSON document, kept as ``DATASET/audit/audit.json``; the audit page is a view of it.
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
from pneumoscope.data.cache import PixelCache, build_cache
from pneumoscope.data.dataset import Dataset, count_labels
from pneumoscope.data.duplicates import DuplicateGroup, find_duplicates
from pneumoscope.data.shortcuts import (
    METHOD,
    Property,
    Question,
    ask,
    measure_properties,
    score_jointly,
    score_property,
)
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
        progress: called with the number of images done, by each step in turn.

    Raises:
        DatasetError: the split belongs to other images, or an image has changed since the import.
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
        ``dataset``, ``parts`` (where they come from), ``balance`` (part -> class -> images), ``patients``,
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
            "classes": count_labels(samples),
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
    """Part of each image, and in words where the parts come from."""
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


def _balance(samples: Sequence[Sample], parts: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Images by part and class; a single row ``all`` where there are no parts."""
    rows: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        rows[parts.get(sample.path, "all")].append(sample)
    return {part: count_labels(own) for part, own in rows.items()}


def _describe(item: Property, samples: Sequence[Sample], questions: Mapping[str, Question]) -> dict[str, Any]:
    """A property: its distribution in each class and what it gives away."""
    labels = np.array([s.label.value for s in samples])
    known = np.isfinite(item.values)
    edges = _edges(item.values[known], item)
    by_class = {}
    for label in count_labels(samples):
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


def describe_patients(samples: Sequence[Sample], parts: Mapping[str, str]) -> dict[str, Any]:
    """How many patients, how many images each, and who is in more than one part or class.

    Args:
        samples: the images.
        parts: part by path; images without one take no part in the search for leaks.
    """
    films: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        films[sample.patient_id].append(sample)
    counts = Counter(len(own) for own in films.values())
    crossing, mixed = [], []
    for patient, own in sorted(films.items()):
        where = Counter(parts[s.path] for s in own if s.path in parts)
        labels = Counter(s.label.value for s in own)
        if len(where) > 1:
            crossing.append({"patient_id": patient, "parts": dict(where), "paths": [s.path for s in own]})
        if len(labels) > 1:
            mixed.append({"patient_id": patient, "labels": dict(labels), "paths": [s.path for s in own]})
    return {
        "n": len(films),
        "films_per_patient": {str(size): number for size, number in sorted(counts.items())},
        "in_more_than_one_part": crossing,
        "with_more_than_one_label": mixed,
    }


def describe_duplicates(
    groups: Iterable[DuplicateGroup], samples: Sequence[Sample], parts: Mapping[str, str]
) -> dict[str, Any]:
    """Groups of duplicates by kind, and which of them cross parts, classes or patients."""
    by_path = {sample.path: sample for sample in samples}
    described = []
    for group in groups:
        own = [by_path[path] for path in group.paths]
        described.append(
            {
                "kind": group.kind,
                "paths": list(group.paths),
                "parts": sorted({parts[s.path] for s in own if s.path in parts}),
                "labels": sorted({s.label.value for s in own}),
                "patients": sorted({s.patient_id for s in own}),
            }
        )
    kinds = {
        kind: {
            "groups": sum(g["kind"] == kind for g in described),
            "films": sum(len(g["paths"]) for g in described if g["kind"] == kind),
        }
        for kind in ("exact", "near")
    }
    crossing = {
        name: sum(len(g[key]) > 1 for g in described)
        for name, key in (
            ("across_parts", "parts"),
            ("across_labels", "labels"),
            ("across_patients", "patients"),
        )
    }
    return {**kinds, **crossing, "groups": described}


SHORTCUT_AUC = 0.65
"""A property warns from this AUC on, when the interval also lies above chance. Chosen: well above what noise
gives at some hundreds of images, far below what a network reaches."""

_RARE = 0.1
_SEVERITIES = ("danger", "warning", "note")
_QUESTIONS = {"pneumonia": "pneumonia from normal", "etiology": "bacterial from viral"}
_KINDS = {
    "file": "File facts alone (size, bytes, age, ...)",
    "picture": "Exposure, frame and sharpness alone (in part disease itself)",
}


def list_findings(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    """All findings of an audit, worst first; each ``{"severity", "kind", "text"}``."""
    findings = [
        *_leak_findings(audit),
        *_duplicate_findings(audit),
        *_shortcut_findings(audit),
        *_balance_findings(audit),
        *_problem_findings(audit),
    ]
    return sorted(findings, key=lambda finding: _SEVERITIES.index(finding["severity"]))


def is_shortcut(score: Mapping[str, float]) -> bool:
    """Whether an AUC with its interval is a warning."""
    return score["value"] >= SHORTCUT_AUC and score["low"] > 0.5


def _finding(severity: str, kind: str, text: str) -> dict[str, str]:
    return {"severity": severity, "kind": kind, "text": text}


def _leak_findings(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    patients = audit["patients"]
    crossing, mixed = patients["in_more_than_one_part"], patients["with_more_than_one_label"]
    findings = []
    if crossing:
        films = sum(sum(item["parts"].values()) for item in crossing)
        findings.append(
            _finding(
                "danger",
                "leak",
                f"{len(crossing):,} of {patients['n']:,} patients ({films:,} images) are in more than one "
                f"part of {audit['parts']}: a score on one part would be helped by knowing the patient.",
            )
        )
    elif len(audit["balance"]) > 1:
        findings.append(_finding("note", "leak", f"No patient is in more than one part of {audit['parts']}."))
    if mixed:
        findings.append(
            _finding(
                "note",
                "labels",
                f"{len(mixed):,} patients have images with different labels (an illness has a beginning and "
                "an end, or a label is wrong).",
            )
        )
    return findings


def _duplicate_findings(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    duplicates = audit["duplicates"]
    findings = []
    for severity, key, text in (
        ("danger", "across_parts", "lie in more than one part: test images that were trained on"),
        ("danger", "across_labels", "carry different labels for the same picture: at least one is wrong"),
        (
            "warning",
            "across_patients",
            "carry different patient ids: splitting by patient alone would part them",
        ),
    ):
        if duplicates[key]:
            findings.append(
                _finding(severity, "duplicate", f"{_groups(duplicates[key])} of duplicate images {text}.")
            )
    for kind, words in (("exact", "identical"), ("near", "nearly identical")):
        if duplicates[kind]["groups"]:
            films, groups = duplicates[kind]["films"], _groups(duplicates[kind]["groups"])
            text = f"{films:,} images in {groups} are {words}; a split keeps each group together."
            findings.append(_finding("note", "duplicate", text))
    return findings


def _groups(count: int) -> str:
    return f"{count:,} group{'s' if count > 1 else ''}"


def _shortcut_findings(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    findings = []
    for kind, joint in audit["shortcuts"].items():
        for question, score in joint["auc"].items():
            if is_shortcut(score):
                alone = [
                    f"{p['title'].lower()} {p['auc'][question]['value']:.2f}"
                    for p in sorted(
                        audit["properties"], key=lambda p: -p["auc"].get(question, {"value": 0})["value"]
                    )
                    if p["kind"] == kind and question in p["auc"] and is_shortcut(p["auc"][question])
                ]
                text = (
                    f"{_KINDS[kind]} tell {_QUESTIONS[question]} with an AUC of {score['value']:.2f} "
                    f"({score['low']:.2f} to {score['high']:.2f}, {score['n']:,} images; 0.50 is chance)"
                )
                text += f"; on their own: {', '.join(alone)}." if alone else "."
                findings.append(_finding("warning", "shortcut", text))
    return findings


def _balance_findings(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    classes, films = audit["dataset"]["classes"], audit["dataset"]["films"]
    if not films:
        return []
    if "normal" not in classes or len(classes) == 1:
        return [
            _finding("danger", "balance", f"Only one side of the question is here: {', '.join(classes)}.")
        ]
    sick = 1 - classes["normal"] / films
    majority, share = ("pneumonia", sick) if sick >= 0.5 else ("normal", 1 - sick)
    findings = []
    if share > 0.6:
        findings.append(
            _finding(
                "note",
                "balance",
                f"{share:.0%} of the images are {majority}: always answering '{majority}' would be right "
                "that often, so accuracy alone says little.",
            )
        )
    findings += [
        _finding("warning", "balance", f"Only {count:,} images ({count / films:.1%}) are {name}.")
        for name, count in classes.items()
        if count < _RARE * films
    ]
    return findings


def _problem_findings(audit: Mapping[str, Any]) -> list[dict[str, str]]:
    count = len(audit["problems"])
    if not count:
        return []
    return [
        _finding("warning", "problem", f"{count:,} files could not be used; each is listed with its reason.")
    ]
