"""A heat map as people see it: laid over the film in colour, with a scale and a warning at the border.

In: a radiograph and its explanation. Out: RGB pixels on the film's original grid, or a PNG of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pneumoscope.core.files import atomic_path
from pneumoscope.core.records import Explanation, FloatArray, Radiograph

__all__ = ["annotate", "colours", "overlay", "write_heat_map"]

RGB = npt.NDArray[np.uint8]

OPACITY = 0.6
"""Opacity of the strongest evidence; the film's structure stays visible under it."""

NOTICE = "not for primary diagnosis"

# Every sixteenth of "plasma", a perceptually uniform map by S. van der Walt and N. Smith, CC0
# (https://bids.github.io/colormap). It never passes through grey, so colour always means evidence.
_PLASMA = np.array(
    [
        (13, 8, 135), (49, 5, 151), (76, 2, 161), (102, 0, 167), (126, 3, 168), (149, 17, 161),
        (170, 35, 149), (188, 53, 135), (204, 71, 120), (217, 88, 106), (229, 107, 93), (240, 127, 79),
        (248, 148, 65), (253, 171, 51), (253, 195, 40), (249, 221, 37), (240, 249, 33),
    ],
    np.float32,
)  # fmt: skip


def colours(strength: npt.NDArray[np.float32]) -> FloatArray:
    """Colours (..., 3), float32 from 0 to 255, of strengths in [0, 1]; linear between control points."""
    position = np.clip(strength, 0, 1) * (len(_PLASMA) - 1)
    lower = np.minimum(position.astype(np.intp), len(_PLASMA) - 2)
    share = (position - lower)[..., None].astype(np.float32)
    return np.asarray(_PLASMA[lower] * (1 - share) + _PLASMA[lower + 1] * share)


def overlay(radiograph: Radiograph, explanation: Explanation) -> RGB:
    """The film in grey with the heat map over it; opacity grows with strength, no evidence leaves it bare.

    Args:
        radiograph: the film; when it was decoded at reduced size it is enlarged to its original grid.
        explanation: its heat map, (H, W) on the original grid.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: the heat map belongs to a film of another size.
    """
    heat = explanation.heat_map
    if heat.shape != radiograph.original_size:
        raise ValueError(f"heat map {heat.shape}, film {radiograph.original_size}")
    film = _on_original_grid(radiograph) * np.float32(255)
    alpha = heat * np.float32(OPACITY)
    shades = colours(np.linspace(0, 1, 256, dtype=np.float32))
    shade = np.rint(heat * np.float32(255)).astype(np.uint8)
    film *= 1 - alpha
    picture = np.empty((*heat.shape, 3), np.uint8)
    for channel in range(3):  # one at a time: a film of 2,000 x 2,000 as float RGB is 48 MB
        picture[..., channel] = np.rint(film + shades[shade, channel] * alpha)
    return picture


def annotate(picture: RGB, target: str) -> RGB:
    """The picture with a darkened strip at its lower border: the target, the colour scale and the notice.

    Args:
        picture: (H, W, 3) uint8.
        target: the class that the evidence speaks for.

    Returns:
        (H, W, 3) uint8, of the same size; the strip takes about a twentieth of the height.
    """
    from PIL import Image, ImageDraw

    height, width = picture.shape[:2]
    scale, font = _fitting_font(f"{target}  0      1  {NOTICE}", height, width)
    strip = min(height, round(scale * 1.6))
    result = picture.copy()
    result[height - strip :] //= 3
    image = Image.fromarray(result)
    draw = ImageDraw.Draw(image)
    middle, margin = height - strip / 2, scale // 2
    white = (255, 255, 255)
    draw.text((margin, middle), f"{target}  0 ", fill=white, font=font, anchor="lm")
    left = margin + round(draw.textlength(f"{target}  0 ", font=font))
    bar = colours(np.tile(np.linspace(0, 1, 3 * scale, dtype=np.float32), (max(2, scale // 2), 1)))
    image.paste(Image.fromarray(np.rint(bar).astype(np.uint8)), (left, round(middle - scale / 4)))
    draw.text((left + 3 * scale, middle), " 1", fill=white, font=font, anchor="lm")
    draw.text((width - margin, middle), NOTICE, fill=white, font=font, anchor="rm")
    return np.asarray(image)


def write_heat_map(file: Path, radiograph: Radiograph, explanation: Explanation) -> None:
    """Write the annotated overlay as a PNG on the film's original grid, atomically."""
    from PIL import Image, PngImagePlugin

    facts = PngImagePlugin.PngInfo()
    facts.add_text("Description", f"{explanation.method} heat map for {explanation.target}; {NOTICE}")
    image = Image.fromarray(annotate(overlay(radiograph, explanation), explanation.target))
    with atomic_path(file) as temporary:
        image.save(temporary, "PNG", compress_level=3, pnginfo=facts)


def _on_original_grid(radiograph: Radiograph) -> FloatArray:
    from PIL import Image

    if radiograph.pixels.shape == radiograph.original_size:
        return radiograph.pixels
    rows, columns = radiograph.original_size
    image = Image.fromarray(radiograph.pixels).resize((columns, rows), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _fitting_font(text: str, height: int, width: int):  # type: ignore[no-untyped-def]  # Pillow's font type is a union
    """The font size in pixels, about a thirtieth of the height, reduced until ``text`` fits the width."""
    from PIL import ImageFont

    for size in range(max(8, height // 30), 5, -1):
        font = ImageFont.load_default(size)
        if font.getlength(text) + 2 * size <= width:
            break
    return size, font
