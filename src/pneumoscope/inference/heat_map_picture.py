"""Heat map picture: image with heat map, colour scale, sides, answer and notice in one picture.

The legend stands below the image and never on it: the costophrenic angles are at the lower border.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.files import atomic_path
from pneumoscope.core.format import probability
from pneumoscope.core.records import FloatArray, NearestCase, Radiograph
from pneumoscope.inference.overlay import LEVELS, RGB, colours, contour, grey, overlay

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

NOTICE = "not for primary diagnosis"

TEXT = 1 / 34
"""Height of the legend's letters as a share of an image's width: a line of 70 letters under one image."""
SMALLEST_TEXT, LARGEST_TEXT = 10, 56
"""In pixels: smaller letters cannot be read, larger ones take room from the image."""

_WHITE, _DIM = (255, 255, 255), (190, 190, 190)


@dataclass(frozen=True, slots=True)
class Look:
    """How a heat map is drawn.

    Attributes:
        style: ``overlay``, ``side-by-side`` (the bare image to the left) or ``contour``.
        classes: whose maps, one panel each; empty is the likelier kind of pneumonia.
        cases: training images to show below, each with its pixels where the data set is at hand.
    """

    style: str = "overlay"
    classes: tuple[str, ...] = ()
    cases: Sequence[tuple[NearestCase, Radiograph]] = ()


@dataclass(frozen=True, slots=True)
class Caption:
    """What the legend says.

    Attributes:
        target: the class whose map is drawn unless the look names others.
        lines: the answer, and where the evidence lies.
        mirrored: the patient's left is on the left of the picture; None: not known.
        probabilities: by class, for the titles; None where the image was not answered.
        method: of the heat map.
    """

    target: str
    lines: Sequence[str]
    mirrored: bool | None = None
    probabilities: Mapping[str, float] | None = None
    method: str = ""


def caption_of(document: Mapping[str, Any]) -> Caption:
    """The caption for a result (:func:`pneumoscope.inference.examination.record`).

    Raises:
        ValueError: the image was not explained.
    """
    explanation = document["explanation"]
    if explanation is None:
        raise ValueError("the image was not explained")
    lines = [explanation["sentence"]]
    if document["forced"]:
        lines.insert(0, f"FORCED although refused: {'; '.join(document['gate']['reasons'])}")
    if document["probability"] is not None:
        shown = probability(document["probability"])
        lines.insert(0, f"{document['decision']}, probability of pneumonia {shown}")
    return Caption(
        explanation["target"],
        lines,
        explanation["mirrored"],
        document["probabilities"],
        explanation["method"],
    )


def write_heat_map(
    file: Path,
    image: npt.NDArray[Any],
    heat_maps: Mapping[str, FloatArray],
    caption: Caption,
    look: Look | None = None,
) -> None:
    """Write the picture of :func:`draw_heat_map` as a PNG, atomically."""
    from PIL import Image, PngImagePlugin

    facts = PngImagePlugin.PngInfo()
    facts.add_text("Description", f"{caption.method} heat map for {caption.target}; {NOTICE}")
    facts.add_text("Comment", caption.lines[-1])
    picture = Image.fromarray(draw_heat_map(image, heat_maps, caption, look))
    with atomic_path(file) as temporary:
        picture.save(temporary, "PNG", compress_level=3, pnginfo=facts)


def draw_heat_map(
    image: npt.NDArray[Any],
    heat_maps: Mapping[str, FloatArray],
    caption: Caption,
    look: Look | None = None,
) -> RGB:
    """Panels side by side (the bare image where the style has it, then one a class), the legend below.

    Args:
        image: (h, w), float32 in [0, 1] or uint8.
        heat_maps: by class, each (H, W) float32 in [0, 1] on the original pixel grid.
        caption: what the legend says.
        look: how; None is an overlay of the caption's target.

    Returns:
        (H + legend, W * panels, 3) uint8; the rows of the image are on its original grid.

    Raises:
        ValueError: a heat map is missing, or another image's.
    """
    from PIL import Image

    look = look or Look()
    classes = look.classes or (caption.target,)
    missing = [name for name in classes if name not in heat_maps]
    if missing:
        raise ValueError(f"no heat map of {missing[0]}, only of {', '.join(heat_maps)}")
    draw = contour if look.style == "contour" else overlay
    panels = [draw(image, heat_maps[name]) for name in classes]
    titles = [_title(caption, name) for name in classes]
    if look.style == "side-by-side":
        bare = grey(image, heat_maps[classes[0]].shape)
        panels.insert(0, np.repeat(bare[..., None], 3, axis=2))
        titles.insert(0, "image")
    legend = _Legend(panels[0].shape[1], len(panels), caption.mirrored)
    parts = [Image.fromarray(np.hstack(panels)), legend.titles(titles), legend.scale(look.style)]
    parts += [legend.text(line, _WHITE) for line in caption.lines]
    if look.cases:
        parts += [legend.text("Most alike among the training images:", _WHITE), legend.cases(look.cases)]
    sides = "sides as the file says" if caption.mirrored is not None else "sides by convention"
    parts.append(legend.text(f"{NOTICE}; {sides}", _DIM))
    return _stack(parts)


def _title(caption: Caption, name: str) -> str:
    if caption.probabilities is None:
        return name
    return f"{name} {probability(caption.probabilities[name])}"


def _stack(parts: Sequence[Picture]) -> RGB:
    from PIL import Image

    whole = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return np.asarray(whole)


class _Legend:
    """Draws the rows below the panels.

    Args:
        width: of a panel in pixels.
        panels: how many stand side by side.
        mirrored: the patient's left is on the left of the picture.
    """

    def __init__(self, width: int, panels: int, mirrored: bool | None) -> None:
        from PIL import ImageFont

        self.panel = width
        self.width = width * panels
        self.size = round(min(max(SMALLEST_TEXT, width * TEXT), LARGEST_TEXT))
        self.font: Any = ImageFont.load_default(self.size)
        self.line = round(1.4 * self.size)
        self.sides = "LR" if mirrored else "RL"

    def titles(self, titles: Sequence[str]) -> Picture:
        """Below each panel its name, between the patient's sides."""
        image, draw = self._row(self.line)
        for number, title in enumerate(titles):
            left, middle = number * self.panel, self.line / 2
            margin = self.size // 2
            draw.text((left + margin, middle), self.sides[0], fill=_WHITE, font=self.font, anchor="lm")
            draw.text((left + self.panel / 2, middle), title, fill=_WHITE, font=self.font, anchor="mm")
            right = left + self.panel - margin
            draw.text((right, middle), self.sides[1], fill=_WHITE, font=self.font, anchor="rm")
        return image

    def scale(self, style: str) -> Picture:
        """``evidence 0 (colours) 1``; of contour lines each level with its colour."""
        lines = style == "contour"
        bar = max(8, min(8 * self.size, self.width // 3))
        pieces: list[tuple[str, Any]] = [("evidence ", None), (" 0 ", np.linspace(0, 1, 256)), (" 1", None)]
        if lines:
            pieces[1:] = [(f"  {level:g} ", np.full(256, level)) for level in LEVELS]
            bar //= len(LEVELS)
        texts = sum(self.font.getlength(word) for word, _ in pieces)
        x = max(0.0, (self.width - texts - bar * sum(strip is not None for _, strip in pieces)) / 2)
        image, draw = self._row(self.line)
        for word, strip in pieces:
            draw.text((x, self.line / 2), word, fill=_WHITE, font=self.font, anchor="lm")
            x += self.font.getlength(word)
            if strip is not None:
                self._paste_colours(image, strip, x, (bar, max(2, self.size // (4 if lines else 2))))
                x += bar
        return image

    def _paste_colours(self, image: Picture, strengths: Any, x: float, size: tuple[int, int]) -> None:
        from PIL import Image

        strip = np.rint(colours(strengths.astype(np.float32))).astype(np.uint8)[None]
        picture = Image.fromarray(strip).resize(size, Image.Resampling.BILINEAR)
        image.paste(picture, (round(x), (self.line - size[1]) // 2))

    def text(self, words: str, fill: tuple[int, int, int]) -> Picture:
        """A paragraph, broken where the width ends."""
        lines, margin = self._wrap(words), self.size // 2
        image, draw = self._row(self.line * len(lines))
        for number, line in enumerate(lines):
            draw.text((margin, (number + 0.5) * self.line), line, fill=fill, font=self.font, anchor="lm")
        return image

    def cases(self, cases: Sequence[tuple[NearestCase, Radiograph]]) -> Picture:
        """Small pictures of training images with their class and similarity, as many as are wide enough."""
        from PIL import Image, ImageOps

        widest = max(self.font.getlength(_caption(case)) for case, _ in cases) + self.size
        shown = cases[: max(1, int(self.width // widest))]
        side = min(self.width // len(shown), self.panel // 2)
        image, draw = self._row(side + self.line)
        for number, (case, image_of_case) in enumerate(shown):
            picture = Image.fromarray(np.rint(image_of_case.pixels * 255).astype(np.uint8))
            thumbnail = ImageOps.contain(picture, (side - self.size // 2, side))
            centre = round((number + 0.5) * self.width / len(shown))
            image.paste(thumbnail, (centre - thumbnail.width // 2, (side - thumbnail.height) // 2))
            middle = side + self.line / 2
            draw.text((centre, middle), _caption(case), fill=_WHITE, font=self.font, anchor="mm")
        return image

    def _row(self, height: int) -> tuple[Picture, Any]:
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (self.width, height))
        return image, ImageDraw.Draw(image)

    def _wrap(self, words: str) -> list[str]:
        lines = [""]
        for word in words.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and self.font.getlength(longer) > self.width - self.size:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines


def _caption(case: NearestCase) -> str:
    return f"{case.label} {case.similarity:.2f}"
