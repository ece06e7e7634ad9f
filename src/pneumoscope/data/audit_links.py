"""Films that know each other: patients and duplicates that cross the border between parts or classes.

In: the manifest, the part that each film is in, and groups of duplicates. Out: JSON-able lists of what
crosses, each with the films concerned.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pneumoscope.core.records import Sample
from pneumoscope.data.duplicates import DuplicateGroup


def describe_patients(samples: Sequence[Sample], parts: Mapping[str, str]) -> dict[str, Any]:
    """How many patients, how many films each, and who is in more than one part or class.

    Args:
        samples: the films.
        parts: part by path; films without one take no part in the search for leaks.
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
