"""The shortcut audit as a page and as Markdown: tables, AUC chart, fidelity curves, contact sheet."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pneumoscope.core.files import write_bytes, write_text
from pneumoscope.core.format import decimals, estimate, grouped, markdown_table, percent, percent_of
from pneumoscope.core.records import FloatArray
from pneumoscope.evaluation.shortcut_audit import ExampleFilm, failed_checks
from pneumoscope.evaluation.stress import FAIL
from pneumoscope.imaging.stress import StressKind
from pneumoscope.inference.overlay import overlay
from pneumoscope.reporting.figures import INK, PALETTE, SOFT, new_figure, styled, svg
from pneumoscope.reporting.pages import render

_TILE, _GAP, _CAPTION, _HEADING, _QUALITY = 132, 6, 18, 40, 88
_RIGHT, _LEFT = (
    (240, 80, 60),
    (70, 150, 255),
)  # outlines of the patient's right and left lung, as docs/lungs.md

RGB = npt.NDArray[np.uint8]


def contact_sheet(examples: Sequence[ExampleFilm]) -> bytes:
    """A row an image: lungs outlined, heat map, and under every probe, with the answers, as a colour JPEG."""
    titles = ("Lungs as outlined", "Heat map", *examples[0].changed)
    step = _TILE + _GAP
    size = (len(titles) * step - _GAP, _HEADING + len(examples) * (step + _CAPTION))
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=12)
    for column, title in enumerate(titles):
        draw.multiline_text((column * step, 4), _wrapped(title, font), fill=INK, font=font, spacing=2)
    for row, example in enumerate(examples):
        top = _HEADING + row * (step + _CAPTION)
        for column, (picture, caption) in enumerate(_tiles(example)):
            canvas.paste(_fitted(picture), (column * step, top))
            draw.text((column * step, top + _TILE + 1), caption, fill=SOFT, font=font)
    stream = io.BytesIO()
    canvas.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return stream.getvalue()


def _tiles(example: ExampleFilm) -> list[tuple[RGB, str]]:
    """Pictures and captions of one row."""
    outlined = _grey(example.radiograph.pixels)
    laid_over = overlay(example.radiograph.pixels, example.explanation.heat_map)
    heat = np.asarray(Image.fromarray(laid_over).resize(
        (outlined.shape[1], outlined.shape[0]), Image.Resampling.LANCZOS)).copy()  # fmt: skip
    for lung, color in zip(example.lungs, (_RIGHT, _LEFT), strict=True):
        line = _outline(lung)
        outlined[line] = color
        heat[line] = color
    answers = example.probabilities
    tiles = [(outlined, str(example.sample.label)), (heat, f"p {answers['Unchanged']:.2f}")]
    return tiles + [(_grey(film), f"p {answers[title]:.2f}") for title, film in example.changed.items()]


def _outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    from scipy import ndimage

    width = max(1, round(min(mask.shape) / _TILE))
    return np.asarray(mask & ~ndimage.binary_erosion(mask, iterations=width))


def _grey(film: FloatArray) -> RGB:
    levels = np.rint(np.clip(film, 0, 1) * 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=2)


def _fitted(picture: RGB) -> Image.Image:
    """A picture in a tile, its proportions kept."""
    tile = Image.new("RGB", (_TILE, _TILE), "white")
    image = ImageOps.contain(Image.fromarray(picture), (_TILE, _TILE), Image.Resampling.LANCZOS)
    tile.paste(image, ((_TILE - image.width) // 2, (_TILE - image.height) // 2))
    return tile


def _wrapped(title: str, font: Any) -> str:
    """A title on two lines where one is too long for a tile."""
    if font.getlength(title) <= _TILE:
        return title
    words = title.split()
    cuts = range(1, len(words))
    best = min(cuts, key=lambda cut: max(len(" ".join(words[:cut])), len(" ".join(words[cut:]))))
    return " ".join(words[:best]) + "\n" + " ".join(words[best:])


def auc_chart(
    probes: Sequence[Mapping[str, Any]], giveaways: Sequence[Mapping[str, Any]], limit: float
) -> Figure | None:
    """AUC of the network under every probe, and of classifiers that see no image, with 95 % intervals.

    Args:
        probes: rows of the JSON with ``title``, ``kind`` and ``estimates.auc_within``.
        giveaways: with ``title`` and ``roc_auc``.
        limit: largest AUC without lungs.

    Returns:
        None where no AUC is defined, as all images are of one class.
    """
    rows = [(row["title"], row["estimates"]["auc_within"], _color(row, limit)) for row in probes
            if "auc_within" in row["estimates"]]  # fmt: skip
    rows += [(row["title"], row["roc_auc"], SOFT) for row in giveaways if row["roc_auc"]]
    return _forest(rows, limit) if rows else None


@styled
def _forest(rows: Sequence[tuple[str, Mapping[str, float], str]], limit: float) -> Figure:
    """Titles, estimates and colours, top to bottom."""
    figure = new_figure(9.0, 1.4 + 0.36 * len(rows))
    axes = figure.subplots()
    for place, (_, area, color) in enumerate(rows):
        axes.plot((area["low"], area["high"]), (place, place), color=color, linewidth=3)
        axes.plot(area["value"], place, "o", color=color, markersize=8, clip_on=False)
        axes.annotate(
            f"{area['value']:.3f}",
            (1.0, place),
            (8, 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
        )
    axes.axvline(0.5, color=SOFT, linewidth=1.2)
    for edge in (limit, 1 - limit):
        axes.axvline(edge, color=PALETTE[1], linewidth=1.2, linestyle="--")
    axes.set_yticks(range(len(rows)), [title for title, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(min(0.2, min(area["low"] for _, area, _ in rows) - 0.01), 1.0)
    axes.set_xlabel("AUC with its 95 % interval; dashed: limits without lungs; 0.5: knows nothing")
    axes.grid(axis="y", visible=False)
    return figure


def _color(row: Mapping[str, Any], limit: float) -> str:
    if row["kind"] != StressKind.PROBE:
        return PALETTE[0]
    area = row["estimates"]["auc_within"]["value"]
    return PALETTE[1] if max(area, 1 - area) > limit else PALETTE[2]


@styled
def fidelity_chart(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Mean probability of pneumonia while images lose, and gain, what their maps point at.

    Args:
        curves: ``deletion``, ``insertion`` and with ``random`` before each, of equal length.
    """
    figure = new_figure(10.0, 3.7)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name, verb in zip(panels, ("deletion", "insertion"), ("taken away", "put back"), strict=True):
        share = np.linspace(0, 100, len(curves[name]))
        axes.plot(share, curves[name], color=PALETTE[1], label="strongest first")
        axes.plot(share, curves[f"random {name}"], "--", color=SOFT, label="random order")
        axes.set(title=name.capitalize(), xlabel=f"% of the image {verb}")
        axes.legend()
    panels[0].set_ylabel("probability of pneumonia")
    return figure


VERDICTS = {
    "pass": "PASS: every limit is kept",
    "fail": "FAIL: not to be released",
    "open": "OPEN: the AUC without lungs could not be measured",
}

CHECK_COLUMNS = ("check", "limit", "value", "images", "verdict")
PROBE_COLUMNS = (
    "image",
    "AUC",
    "AUC, pooled",
    "accuracy",
    "change in points",
    "mean p, normal",
    "mean p, pneumonia",
)
GIVEAWAY_COLUMNS = ("classifier", "sees", "AUC", "accuracy", "best single property")
MAP_COLUMNS = ("heat maps", "value", "images")

Row = list[str]


def write_shortcut_page(
    document: Mapping[str, Any], examples: Sequence[ExampleFilm], directory: Path
) -> Path:
    """Write the page, the Markdown and the contact sheet into ``directory``; return the page.

    Args:
        document: what ``pneumoscope audit-shortcuts`` found, the content of ``shortcuts.json``.
        examples: at least one image.
        directory: made when it is missing.
    """
    sheet = contact_sheet(examples)
    maps, kinds = document["maps"], document["giveaways"]["kinds"]
    chart = auc_chart(document["probes"], list(kinds.values()), document["limits"]["max_auc_without_lungs"])
    page = directory / "shortcuts.html"
    html = render(
        "shortcuts.html",
        document=document,
        verdict=VERDICTS[document["verdict"]],
        failed=failed_checks(document["checks"]),
        probes=document["probes"],
        check_columns=CHECK_COLUMNS,
        checks=check_rows(document),
        probe_columns=PROBE_COLUMNS,
        probe_rows=probe_rows(document),
        giveaway_columns=GIVEAWAY_COLUMNS,
        giveaway_rows=giveaway_rows(document),
        map_columns=MAP_COLUMNS,
        map_rows=map_rows(maps) if maps else [],
        chart=svg(chart) if chart else None,
        curves=svg(fidelity_chart(maps["curves"])) if maps else None,
        sheet=sheet,
    )
    write_text(page, html)
    write_text(directory / "shortcuts.md", shortcut_markdown(document))
    write_bytes(directory / "contact-sheet.jpg", sheet)
    return page


def shortcut_markdown(document: Mapping[str, Any]) -> str:
    """The verdict and all tables, and under them what was measured on what, as Markdown."""
    tables = [(CHECK_COLUMNS, check_rows(document)), (PROBE_COLUMNS, probe_rows(document))]
    if document["giveaways"]["kinds"]:
        tables.append((GIVEAWAY_COLUMNS, giveaway_rows(document)))
    if document["maps"]:
        tables.append((MAP_COLUMNS, map_rows(document["maps"])))
    parts = [f"**{VERDICTS[document['verdict']]}.**", *(markdown_table(*table) for table in tables)]
    return "\n\n".join([*parts, provenance(document)]) + "\n"


def provenance(document: Mapping[str, Any]) -> str:
    """What was measured on what, in one paragraph."""
    told = (
        f"{document['films']:,} images of {document['patients']:,} patients of {document['dataset']}, "
        f"{document['protocol']}; seed {document['seed']}. Intervals: 95 %, bootstrap over patients "
        f"(accuracy: Wilson). Mean p: mean probability of pneumonia of the images of that class."
    )
    if document["without_lungs"]:
        count = sum(document["without_lungs"].values())
        labels = ", ".join(f"{number} {label}" for label, number in document["without_lungs"].items())
        told += f" Left out, as no pair of lungs was found on them: {count} images ({labels})."
    return told


def check_rows(document: Mapping[str, Any]) -> list[Row]:
    """The checks: title, limit, value with interval, images, verdict."""
    return [
        [
            check["title"],
            f"{check['bound']} {check['limit']:g}",
            estimate(check if check["n"] else None, ".3f"),
            grouped(check["n"]),
            {"pass": "pass", FAIL: "**fail**"}.get(check["verdict"], "not measured"),
        ]
        for check in document["checks"]
    ]


def probe_rows(document: Mapping[str, Any]) -> list[Row]:
    """The unchanged images and every probe."""
    rows = []
    for probe in document["probes"]:
        own, change = probe["estimates"], probe["estimates"].get("accuracy_change")
        area = own.get("roc_auc")
        row = [
            probe["title"],
            estimate(own.get("auc_within"), ".3f"),
            decimals(area["value"] if area else None),
        ]
        row += [percent_of(own.get("accuracy")), estimate(change, "+.2f") if change else ""]
        row += [decimals(probe["means"]["normal"]), decimals(probe["means"]["pneumonia"])]
        if probe["unmeasured"]:
            row[1:] = [f"not measured: {probe['unmeasured']}", *[""] * (len(row) - 2)]
        rows.append(row)
    return rows


def giveaway_rows(document: Mapping[str, Any]) -> list[Row]:
    """Classifiers that see no image, and always saying the commoner class."""
    found = document["giveaways"]
    rows = [
        [
            kind["title"],
            kind["what"],
            estimate(kind["roc_auc"], ".3f"),
            percent_of(kind["accuracy"]),
            f"{kind['best']['name'].replace('_', ' ')}: {kind['best']['roc_auc']:.3f}",
        ]
        for kind in found["kinds"].values()
    ]
    return [*rows, ["The commoner class", "nothing", "0.500", percent(found["majority"]), ""]]


def map_rows(maps: Mapping[str, Any]) -> list[Row]:
    """Every figure about the maps."""
    rows: list[tuple[str, Mapping[str, Any] | None]] = []
    for region, words in (("lungs", "the lungs"), ("wide", "the lungs, wide")):
        energy = maps["energy"][region]
        rows.append((f"Share of the map in {words}", energy["share"]))
        rows.append((f"... over the share of the image that {words} cover", energy["ratio"]))
    for pair, alike in maps["agreement"].items():
        rows.append((f"Rank correlation: {pair}", alike["rank_correlation"]))
        rows.append(("... overlap of the strongest fifth (chance: 0.2)", alike["top_overlap"]))
    for level, alike in maps.get("randomised", {}).items():  # in earlier audits
        rows.append((f"Random weights ({level}): size of the rank correlation", alike["rank_correlation"]))
        rows.append(("... structural similarity", alike["similarity"]))
    for curve in ("deletion", "insertion"):
        fidelity = maps["fidelity"][curve]
        rows.append((f"{curve.capitalize()}: area under the curve", fidelity["area"]))
        rows.append(("... in random order", fidelity["random"]))
        rows.append(("... gain over it", fidelity["gain"]))
    return [[title, estimate(item, ".3f"), grouped(item["n"] if item else None)] for title, item in rows]
