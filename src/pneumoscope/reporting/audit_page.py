"""Data set audit and acquisition clusters as self-contained HTML pages, with their figures and files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from PIL import Image

from pneumoscope.core.files import write_json, write_table, write_text
from pneumoscope.core.records import Label, Sample
from pneumoscope.data.acquisition import SOURCES, Clusters
from pneumoscope.data.audit import SHORTCUT_AUC, is_shortcut
from pneumoscope.data.cache import PixelCache
from pneumoscope.data.dataset import Dataset
from pneumoscope.reporting.figures import (
    PALETTE,
    SOFT,
    class_balance,
    class_color,
    new_figure,
    png,
    styled,
    svg,
)
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
                mean_images(
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
    """Images by class, in the order of :class:`Label`; classes without images are left out."""
    by_class = {label.value: [s for s in samples if s.label is label] for label in Label}
    return {label: own for label, own in by_class.items() if own}


def _sheets(dataset: Dataset, cache: PixelCache, seed: int) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    sheets = {}
    for label, own in _by_class(dataset.samples).items():
        chosen = rng.choice(len(own), size=min(_SAMPLES_A_CLASS, len(own)), replace=False)
        rows = cache.rows([own[index] for index in chosen])
        sheets[label] = sheet(cache.pixels[rows])
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
    return png(class_differences(maps), _DPI)


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
            charts.append((title, svg(shortcut_chart(rows))))
    return charts


def _histograms(audit: Mapping[str, Any]) -> str | None:
    shown = [item for item in audit["properties"] if not item["constant"]]
    return svg(property_histograms(shown)) if shown else None


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
    """The groups to show with their images: those that cross something first."""
    by_path = {sample.path: sample for sample in dataset.samples}

    def crossings(group: Mapping[str, Any]) -> int:
        return sum(len(group[key]) > 1 for key in ("parts", "labels", "patients"))

    groups = sorted(audit["duplicates"]["groups"], key=lambda group: -crossings(group))[:_DUPLICATES_SHOWN]
    return [
        {
            **group,
            "picture": sheet(
                cache.pixels[cache.rows([by_path[path] for path in group["paths"][:4]])], columns=4
            ),
        }
        for group in groups
    ]


Films = npt.NDArray[np.uint8]
_TILE = 150
_GAP = 4
_QUALITY = 82
# Below this ratio of its ends a logarithmic axis has too few powers of ten to label.
_DECADES = 30


def sheet(films: Films, columns: int = 6) -> bytes:
    """Images (N, S, S) side by side as one grey JPEG."""
    rows = -(-len(films) // columns)
    columns = min(columns, len(films))
    width, height = columns * (_TILE + _GAP) - _GAP, rows * (_TILE + _GAP) - _GAP
    canvas = Image.new("L", (width, height), 255)
    for index, film in enumerate(films):
        tile = Image.fromarray(film).resize((_TILE, _TILE), Image.Resampling.LANCZOS)
        row, column = divmod(index, columns)
        canvas.paste(tile, (column * (_TILE + _GAP), row * (_TILE + _GAP)))
    stream = io.BytesIO()
    canvas.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


@styled
def mean_images(means: Mapping[str, Maps], counts: Mapping[str, int]) -> Figure:
    """The mean image (S, S), in grey levels, of each class, all in the same grey scale."""
    figure = new_figure(3.2 * len(means), 3.5)
    axes = np.atleast_1d(figure.subplots(1, len(means)))
    for axis, (name, mean) in zip(axes, means.items(), strict=True):
        axis.imshow(mean, cmap="gray", vmin=0, vmax=255)
        axis.set_title(f"{name} ({counts[name]:,})", color=class_color(name))
        axis.set_axis_off()
    return figure


@styled
def class_differences(differences: Mapping[str, Maps]) -> Figure:
    """Where two classes differ: standardised differences (S, S) of their pixels (Cohen's d)."""
    figure = new_figure(4.0 * len(differences), 3.6)
    axes = np.atleast_1d(figure.subplots(1, len(differences)))
    scale = ScalarMappable(Normalize(-1.2, 1.2), cmap="RdBu_r")
    for axis, (title, difference) in zip(axes, differences.items(), strict=True):
        axis.imshow(difference, cmap=scale.get_cmap(), norm=scale.norm)
        axis.set_title(title)
        axis.set_axis_off()
    bar = figure.colorbar(scale, ax=list(axes), shrink=0.85)
    bar.set_label("brighter in the first class", fontsize=11)
    bar.outline.set_visible(False)
    return figure


@styled
def shortcut_chart(rows: Sequence[tuple[str, Mapping[str, float]]]) -> Figure:
    """AUC with its interval, a row a property or group of them, against chance and the warning line.

    Args:
        rows: (name, {value, low, high}), drawn from top to bottom.
    """
    figure = new_figure(9.0, 1.3 + 0.36 * len(rows))
    axes = figure.subplots()
    places = np.arange(len(rows))
    for place, (_, score) in zip(places, rows, strict=True):
        color = PALETTE[1] if score["value"] >= SHORTCUT_AUC else PALETTE[0]
        axes.plot(
            (score["low"], score["high"]), (place, place), color=color, linewidth=3, solid_capstyle="round"
        )
        axes.plot(score["value"], place, "o", color=color, markersize=8)
        axes.annotate(
            f"{score['value']:.2f}",
            (score["high"], place),
            (8, 0),
            textcoords="offset points",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    axes.axvline(0.5, color=SOFT, linewidth=1.5)
    axes.axvline(SHORTCUT_AUC, color=PALETTE[1], linewidth=1.2, linestyle="--")
    axes.set_yticks(places, [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(min(0.45, *(score["low"] for _, score in rows)) - 0.01, 1.03)
    axes.set_xlabel("AUC: 0.5 is chance, 1.0 is certainty; dashed: warning")
    axes.grid(axis="y", visible=False)
    return figure


@styled
def property_histograms(properties: Sequence[Mapping[str, Any]], columns: int = 3) -> Figure:
    """Share of each class by value, one panel a property, from the histograms of the audit's JSON."""
    rows = -(-len(properties) // columns)
    figure = new_figure(11.0, 2.75 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(properties) :]:
        axes.set_axis_off()
    for axes, item in zip(panels, properties, strict=False):
        edges = np.asarray(item["edges"])
        for name, own in item["by_class"].items():
            if own["n"]:
                share = 100 * np.asarray(own["histogram"]) / own["n"]
                axes.stairs(share, edges, color=class_color(name), linewidth=1.8, label=name)
                axes.stairs(share, edges, color=class_color(name), fill=True, alpha=0.12)
        axes.set_title(_wrapped(item["title"]), fontsize=11)
        axes.set_xlabel(item["unit"], fontsize=10)
        axes.tick_params(labelsize=9)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        _scale_values(axes, item)
    panels[0].set_ylabel("% of the class", fontsize=10)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names))
    return figure


def _scale_values(axes: Any, item: Mapping[str, Any]) -> None:
    if item["names"]:
        axes.set_xticks(range(len(item["names"])), item["names"])
    elif item["logarithmic"] and min(item["edges"]) > 0:
        axes.set_xscale("log")
        if max(item["edges"]) < _DECADES * min(item["edges"]):
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))


def _wrapped(title: str) -> str:
    return title.replace(" (", "\n(", 1) if len(title) > 30 else title


_COLUMNS = 6  # images of each class in a cluster's sheet


def write_acquisition(
    found: Mapping[str, Any], dataset: Dataset, clusters: Clusters, cache: PixelCache, directory: Path
) -> Path:
    """Write everything into ``directory`` and return the page.

    Args:
        found: what ``describe_clusters`` returned.
        dataset, clusters, cache: what it was found in.
        directory: made when it is missing.
    """
    write_json(directory / "acquisition.json", found)
    members = zip(dataset.samples, clusters.members.tolist(), strict=True)
    rows = [{"path": s.path, "sha256": s.sha256, "cluster": member} for s, member in members]
    write_table(directory / "clusters.csv", rows)
    page = directory / "acquisition.html"
    balance = {f"cluster {item['cluster']}": item["classes"] for item in found["clusters"]}
    chart = [(SOURCES[name], score) for name, score in found["auc"].items()]
    write_text(
        page,
        render(
            "acquisition.html",
            found=found,
            best=found["auc"].get("all"),
            balance=svg(class_balance(balance)),
            chart=svg(shortcut_chart(chart)) if chart else None,
            sheets=[_sheet(dataset.samples, clusters, cache, item["cluster"]) for item in found["clusters"]],
        ),
    )
    return page


def _sheet(
    samples: Sequence[Sample], clusters: Clusters, cache: PixelCache, number: int
) -> tuple[bytes, list[str]]:
    """Images of a cluster drawn at random, a row a class, and the classes in the order of the rows."""
    rng = np.random.default_rng(number)
    inside = [s for s, member in zip(samples, clusters.members, strict=True) if member == number]
    rows, names = [], []
    for label in Label:
        own = [sample for sample in inside if sample.label is label]
        if own:
            chosen = rng.choice(len(own), min(_COLUMNS, len(own)), replace=False)
            films = cache.pixels[cache.rows([own[index] for index in chosen])]
            empty = np.full((_COLUMNS - len(films), *films.shape[1:]), 255, np.uint8)
            rows.append(np.concatenate([films, empty]))
            names.append(label.value)
    return sheet(np.concatenate(rows), _COLUMNS), names
