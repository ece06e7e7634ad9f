"""The pictures of a shortcut audit: films with what was hidden, AUC under every probe, fidelity curves.

In: example films and rows of the audit's JSON. Out: JPEG bytes and matplotlib figures.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pneumoscope.core.records import FloatArray
from pneumoscope.evaluation.shortcut_examples import ExampleFilm
from pneumoscope.imaging.stress import StressKind
from pneumoscope.inference.overlay import overlay
from pneumoscope.reporting.figures import INK, PALETTE, SOFT, new_figure, styled

_TILE, _GAP, _CAPTION, _HEADING, _QUALITY = 132, 6, 18, 40, 88
_RIGHT, _LEFT = (
    (240, 80, 60),
    (70, 150, 255),
)  # outlines of the patient's right and left lung, as docs/lungs.md

RGB = npt.NDArray[np.uint8]


def contact_sheet(examples: Sequence[ExampleFilm]) -> bytes:
    """A row a film: lungs outlined, heat map, and under every probe, with the answers, as a colour JPEG."""
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
    heat = np.asarray(Image.fromarray(overlay(example.radiograph, example.explanation)).resize(
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
    """AUC of the network under every probe, and of classifiers that see no film, with 95 % intervals.

    Args:
        probes: rows of the JSON with ``title``, ``kind`` and ``estimates.auc_within``.
        giveaways: with ``title`` and ``roc_auc``.
        limit: largest AUC without lungs.

    Returns:
        None where no AUC is defined, as all films are of one class.
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
    """Mean probability of pneumonia while films lose, and gain, what their maps point at.

    Args:
        curves: ``deletion``, ``insertion`` and with ``random`` before each, of equal length.
    """
    figure = new_figure(10.0, 3.7)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name, verb in zip(panels, ("deletion", "insertion"), ("taken away", "put back"), strict=True):
        share = np.linspace(0, 100, len(curves[name]))
        axes.plot(share, curves[name], color=PALETTE[1], label="strongest first")
        axes.plot(share, curves[f"random {name}"], "--", color=SOFT, label="random order")
        axes.set(title=name.capitalize(), xlabel=f"% of the film {verb}")
        axes.legend()
    panels[0].set_ylabel("probability of pneumonia")
    return figure
