"""Audit of a data set before training: leaks, shortcuts, duplicates, imbalance.

The result is one JSON document, kept as ``DATASET/audit/audit.json``; the audit page is a view of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


MESSAGES: Mapping[str, tuple[str, str, str]] = {
    "patients-across-parts": (
        "danger",
        "leak",
        "{patients:,} of {all:,} patients ({images:,} images) are in more than one part of {parts}: a score "
        "on one part would be helped by knowing the patient.",
    ),
    "patients-apart": ("note", "leak", "No patient is in more than one part of {parts}."),
    "patients-across-labels": (
        "note",
        "labels",
        "{patients:,} patients have images with different labels (an illness has a beginning and an end, or "
        "a label is wrong).",
    ),
    "duplicates-across-parts": (
        "danger",
        "duplicate",
        "{groups:,} group{s} of duplicate images lie in more than one part: test images that were trained "
        "on.",
    ),
    "duplicates-across-labels": (
        "danger",
        "duplicate",
        "{groups:,} group{s} of duplicate images carry different labels for the same picture: at least one "
        "is wrong.",
    ),
    "duplicates-across-patients": (
        "warning",
        "duplicate",
        "{groups:,} group{s} of duplicate images carry different patient ids: splitting by patient alone "
        "would part them.",
    ),
    "duplicates-exact": (
        "note",
        "duplicate",
        "{images:,} images in {groups:,} group{s} are identical; a split keeps each group together.",
    ),
    "duplicates-near": (
        "note",
        "duplicate",
        "{images:,} images in {groups:,} group{s} are nearly identical; a split keeps each group together.",
    ),
    "shortcut": (
        "warning",
        "shortcut",
        "{kind} tell {question} with an AUC of {value:.2f} ({low:.2f} to {high:.2f}, {n:,} images; 0.50 is "
        "chance){alone}.",
    ),
    "one-class": ("danger", "balance", "Only one side of the question is here: {classes}."),
    "imbalance": (
        "note",
        "balance",
        "{share:.0%} of the images are {majority}: always answering '{majority}' would be right that often, "
        "so accuracy alone says little.",
    ),
    "rare-class": ("warning", "balance", "Only {images:,} images ({share:.1%}) are {label}."),
    "unusable-files": (
        "warning",
        "problem",
        "{files:,} files could not be used; each is listed with its reason.",
    ),
}
"""Severity, kind and English message template by code."""

_Found = Iterator[tuple[str, dict[str, Any]]]


def list_findings(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All findings of an audit, worst first: ``code`` and ``params``, and the ``text`` that they make.

    Each also has a ``severity`` (``danger``: results would be wrong, ``warning``: they may flatter, ``note``)
    and a ``kind`` (``leak``, ``labels``, ``duplicate``, ``shortcut``, ``balance``, ``problem``).
    """
    rules = (_leaks, _duplicates, _shortcuts, _imbalance, _unusable)
    findings = [_finding(code, params) for rule in rules for code, params in rule(audit)]
    return sorted(findings, key=lambda finding: _SEVERITIES.index(finding["severity"]))


def is_shortcut(score: Mapping[str, float]) -> bool:
    """Whether an AUC with its interval is a warning."""
    return score["value"] >= SHORTCUT_AUC and score["low"] > 0.5


def _finding(code: str, params: dict[str, Any]) -> dict[str, Any]:
    severity, kind, template = MESSAGES[code]
    words: dict[str, Any] = {"s": "" if params.get("groups") == 1 else "s"}
    if code == "shortcut":
        alone = ", ".join(f"{title.lower()} {auc:.2f}" for title, auc in params["alone"].items())
        words |= {"kind": _KINDS[params["kind"]], "question": _QUESTIONS[params["question"]]}
        words["alone"] = f"; on their own: {alone}" if alone else ""
    text = template.format(**{**params, **words})
    return {"severity": severity, "kind": kind, "code": code, "params": params, "text": text}


def _leaks(audit: Mapping[str, Any]) -> _Found:
    patients, parts = audit["patients"], audit["parts"]
    crossing, mixed = patients["in_more_than_one_part"], patients["with_more_than_one_label"]
    if crossing:
        images = sum(sum(item["parts"].values()) for item in crossing)
        counts = {"patients": len(crossing), "all": patients["n"], "images": images}
        yield "patients-across-parts", {**counts, "parts": parts}
    elif len(audit["balance"]) > 1:
        yield "patients-apart", {"parts": parts}
    if mixed:
        yield "patients-across-labels", {"patients": len(mixed)}


def _duplicates(audit: Mapping[str, Any]) -> _Found:
    duplicates = audit["duplicates"]
    for across in ("across_parts", "across_labels", "across_patients"):
        if duplicates[across]:
            yield f"duplicates-{across.replace('_', '-')}", {"groups": duplicates[across]}
    for kind in ("exact", "near"):
        if duplicates[kind]["groups"]:
            counts = {"images": duplicates[kind]["films"], "groups": duplicates[kind]["groups"]}
            yield f"duplicates-{kind}", counts


def _shortcuts(audit: Mapping[str, Any]) -> _Found:
    for kind, joint in audit["shortcuts"].items():
        for question, score in joint["auc"].items():
            if is_shortcut(score):
                alone = {
                    item["title"]: item["auc"][question]["value"]
                    for item in audit["properties"]
                    if item["kind"] == kind and question in item["auc"] and is_shortcut(item["auc"][question])
                }
                alone = dict(sorted(alone.items(), key=lambda entry: -entry[1]))
                yield "shortcut", {"kind": kind, "question": question, **score, "alone": alone}


def _imbalance(audit: Mapping[str, Any]) -> _Found:
    classes, images = audit["dataset"]["classes"], audit["dataset"]["films"]
    if not images:
        return
    if "normal" not in classes or len(classes) == 1:
        yield "one-class", {"classes": ", ".join(classes)}
        return
    sick = 1 - classes["normal"] / images
    majority, share = ("pneumonia", sick) if sick >= 0.5 else ("normal", 1 - sick)
    if share > 0.6:
        yield "imbalance", {"share": share, "majority": majority}
    for label, count in classes.items():
        if count < _RARE * images:
            yield "rare-class", {"images": count, "share": count / images, "label": label}


def _unusable(audit: Mapping[str, Any]) -> _Found:
    if audit["problems"]:
        yield "unusable-files", {"files": len(audit["problems"])}
