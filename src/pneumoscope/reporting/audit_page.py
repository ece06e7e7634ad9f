"""The audit as a page for people: what to know first, then the pictures and figures behind it.

In: the audit's JSON, the data set and its pixel cache. Out: one self-contained HTML file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.files import write_text
from pneumoscope.core.records import Label, Sample
from pneumoscope.data.audit_findings import SHORTCUT_AUC, is_shortcut
from pneumoscope.data.cache import PixelCache
from pneumoscope.data.dataset import Dataset
from pneumoscope.reporting import audit_figures
from pneumoscope.reporting.figures import class_balance, png, svg
from pneumoscope.reporting.pages import render

Maps = npt.NDArray[np.float64]

_BLOCK = 256
_SAMPLES_A_CLASS = 12
_DUPLICATES_SHOWN = 6
_ROWS_SHOWN = 30
_DPI = 110

_QUESTIONS = {"pneumonia": "Pneumonia against normal", "etiology": "Bacterial against viral"}
_JOINT = {"file": "All file facts together", "picture": "All picture measures together"}


def write_audit_page(audit: Mapping[str, Any], dataset: Dataset, cache: PixelCache, file: Path) -> None:
    """Write the page of ``audit`` to ``file``.

    Args:
        audit: what ``run_audit`` returned for this data set.
        dataset, cache: for the sample sheets and mean images.
        file: HTML file to write.
    """
    moments = {label: _moments(cache, own) for label, own in _by_class(dataset.samples).items()}
    write_text(
        file,
        render(
            "audit.html",
            audit=audit,
            headline=_headline(audit),
            balance=svg(class_balance(audit["balance"])),
            sheets=_sheets(dataset, cache, audit["seed"]),
            means=png(
                audit_figures.mean_images(
                    {label: mean for label, (mean, _) in moments.items()}, audit["dataset"]["classes"]
                ),
                _DPI,
            ),
            differences=_differences(moments, audit["dataset"]["classes"]),
            shortcuts=_shortcut_charts(audit),
            threshold=SHORTCUT_AUC,
            histograms=_histograms(audit),
            property_rows=_property_rows(audit),
            constant=[p["title"].lower() for p in audit["properties"] if p["constant"]],
            duplicates=_duplicates(audit, dataset, cache),
            rows_shown=_ROWS_SHOWN,
        ),
    )


def _headline(audit: Mapping[str, Any]) -> dict[str, Any]:
    """What the cards show."""
    scores = [
        score["auc"]["pneumonia"]["value"]
        for score in audit["shortcuts"].values()
        if "pneumonia" in score["auc"]
    ]
    duplicates = audit["duplicates"]
    return {
        "shortcut": max(scores, default=None),
        "duplicates": duplicates["exact"]["films"] + duplicates["near"]["films"],
        "crossing_patients": len(audit["patients"]["in_more_than_one_part"]),
        "has_parts": len(audit["balance"]) > 1,
    }


def _by_class(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Films by class, in the order of :class:`Label`; classes without films are left out."""
    by_class = {label.value: [s for s in samples if s.label is label] for label in Label}
    return {label: own for label, own in by_class.items() if own}


def _sheets(dataset: Dataset, cache: PixelCache, seed: int) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    sheets = {}
    for label, own in _by_class(dataset.samples).items():
        chosen = rng.choice(len(own), size=min(_SAMPLES_A_CLASS, len(own)), replace=False)
        rows = cache.rows([own[index] for index in chosen])
        sheets[label] = audit_figures.sheet(cache.pixels[rows])
    return sheets


def _moments(cache: PixelCache, samples: Sequence[Sample]) -> tuple[Maps, Maps]:
    """Mean and variance (S, S) of the pixels of ``samples``."""
    rows = cache.rows(samples)
    total = np.zeros(cache.pixels.shape[1:])
    squares = np.zeros_like(total)
    for start in range(0, len(rows), _BLOCK):
        block = cache.pixels[rows[start : start + _BLOCK]].astype(np.float32)
        total += block.sum(axis=0)
        squares += np.einsum("nij,nij->ij", block, block)
    mean = total / len(rows)
    return mean, np.maximum(squares / len(rows) - mean**2, 0)


def _differences(moments: Mapping[str, tuple[Maps, Maps]], counts: Mapping[str, int]) -> bytes | None:
    """Standardised pixel differences of the pairs of classes that are asked for."""
    sick = [label for label in moments if label != Label.NORMAL.value]
    pairs: dict[str, tuple[str, str]] = {}
    if Label.NORMAL.value in moments:
        pairs |= {f"{label} − normal": (label, Label.NORMAL.value) for label in sick}
    if {Label.BACTERIAL.value, Label.VIRAL.value} <= set(sick):
        pairs["bacterial − viral"] = (Label.BACTERIAL.value, Label.VIRAL.value)
    if not pairs:
        return None
    maps = {}
    for title, (first, second) in pairs.items():
        weights = np.array([counts[first], counts[second]], dtype=float)
        pooled = np.average([moments[first][1], moments[second][1]], axis=0, weights=weights)
        maps[title] = (moments[first][0] - moments[second][0]) / np.sqrt(np.maximum(pooled, 1.0))
    return png(audit_figures.class_differences(maps), _DPI)


def _shortcut_charts(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(title, SVG) of a chart for each question."""
    charts = []
    for question, title in _QUESTIONS.items():
        rows = [
            (_JOINT[kind], joint["auc"][question])
            for kind, joint in audit["shortcuts"].items()
            if question in joint["auc"]
        ]
        single = [(p["title"], p["auc"][question]) for p in audit["properties"] if question in p["auc"]]
        rows += sorted(single, key=lambda row: -row[1]["value"])
        if rows:
            charts.append((title, svg(audit_figures.shortcut_chart(rows))))
    return charts


def _histograms(audit: Mapping[str, Any]) -> str | None:
    shown = [item for item in audit["properties"] if not item["constant"]]
    return svg(audit_figures.property_histograms(shown)) if shown else None


def _property_rows(audit: Mapping[str, Any]) -> list[list[str]]:
    """One row a property and class: percentiles, and the AUC in the property's first row."""
    rows = []
    for item in audit["properties"]:
        if item["names"] or item["constant"]:
            continue
        for index, (label, own) in enumerate(item["by_class"].items()):
            percentiles = own["percentiles"]
            values = [_short(percentiles[p]) if percentiles else "–" for p in ("5", "25", "50", "75", "95")]
            score = item["auc"].get("pneumonia")
            auc = (
                "" if index or score is None else f"{score['value']:.2f}{' ⚠' if is_shortcut(score) else ''}"
            )
            unit = f", {item['unit']}" if item["unit"] else ""
            rows.append(["" if index else item["title"] + unit, label, f"{own['n']:,}", *values, auc])
    return rows


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _duplicates(audit: Mapping[str, Any], dataset: Dataset, cache: PixelCache) -> list[dict[str, Any]]:
    """The groups to show with their films: those that cross something first."""
    by_path = {sample.path: sample for sample in dataset.samples}

    def crossings(group: Mapping[str, Any]) -> int:
        return sum(len(group[key]) > 1 for key in ("parts", "labels", "patients"))

    groups = sorted(audit["duplicates"]["groups"], key=lambda group: -crossings(group))[:_DUPLICATES_SHOWN]
    return [
        {
            **group,
            "picture": audit_figures.sheet(
                cache.pixels[cache.rows([by_path[path] for path in group["paths"][:4]])], columns=4
            ),
        }
        for group in groups
    ]
