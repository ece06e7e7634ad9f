"""Named changes of an image before preprocessing: exposure, framing, compression, sharpness, hidden lungs.

A change takes (h, w) float32 in [0, 1] at the image's own size, and a random generator. A stress must leave
the prediction alone. A probe removes the lungs: a network that still tells the classes apart reads something
else.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from pneumoscope.core.files import sha256_bytes
from pneumoscope.core.records import FloatArray

_REFERENCE_SIDE = 224
"""Side in pixels that blur, sharpening and noise are stated for; larger images get as much more of them."""

_CROP = (0.05, 0.10)  # share of the side that is lost at each edge
_CORNER = 0.15  # side of a blank corner as a share of the image's
_TEXT_HEIGHT = 0.06  # of the burned-in letters, as a share of the shorter side
_MARGIN = 0.03  # between the image's edge and burned-in text
_ANNOTATIONS = (
    "KV59",
    "KV 66  MAS 2",
    "A-P",
    "SUPINE",
    "PORTABLE 10:42",
)  # as images of the field carry them
_BLUR, _NOISE, _SHARPEN_PERCENT = 1.5, 0.04, 150
_BILINEAR = Image.Resampling.BILINEAR
# Rows and columns 30 to 190 of 224: both lungs of a frontal chest radiograph, without borders and markers.
_BOX = (30 / 224, 190 / 224)

Change = Callable[[FloatArray, np.random.Generator], FloatArray]


class StressKind(StrEnum):
    """What a stress is measured for."""

    LIMITED = "limited"
    """An image of everyday: the accuracy may fall by the limit at most."""
    REPORTED = "reported"
    """Harsher than everyday: measured, not judged."""
    PROBE = "probe"
    """Without lungs: the AUC must be low."""


class FilmChange(Protocol):
    """What a stress test needs to know of a change; :class:`Stress` says what each name means."""

    @property
    def name(self) -> str:
        """Key in tables."""

    @property
    def title(self) -> str:
        """For readers."""

    @property
    def what(self) -> str:
        """What is done."""

    @property
    def kind(self) -> StressKind:
        """What it is measured for."""

    def apply(self, pixels: FloatArray, sha256: str, seed: int = 0) -> FloatArray:
        """The changed image."""


@dataclass(frozen=True, slots=True)
class Stress:
    """One named change.

    Attributes:
        name: key in tables; title: for readers; what: exactly what is done, as a sentence without full stop.
        change: (h, w) float32 in [0, 1] and a generator to an image of the same kind; the size may differ.
        kind: what it is measured for.
    """

    name: str
    title: str
    what: str
    change: Change
    kind: StressKind = StressKind.LIMITED

    def apply(self, pixels: FloatArray, sha256: str, seed: int = 0) -> FloatArray:
        """The changed image; what is random in it follows from the image's hash, this stress and ``seed``."""
        own = int(sha256_bytes(self.name.encode())[:16], 16)
        return self.change(pixels, np.random.default_rng([seed, own, int(sha256[:16], 16)]))


def _expose(pixels: FloatArray, _: np.random.Generator, *, factor: float) -> FloatArray:
    """Grey levels times ``factor``, cut at full scale."""
    return np.asarray(np.minimum(pixels * np.float32(factor), 1), np.float32)


def _bend(pixels: FloatArray, _: np.random.Generator, *, gamma: float) -> FloatArray:
    """Grey levels to the power ``gamma``: above 1 darker, below 1 brighter; black and white stay."""
    return np.asarray(np.power(pixels, np.float32(gamma)), np.float32)


def _crop_borders(pixels: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Each edge loses its own random share of 5 to 10 % of the side."""
    rows, columns = pixels.shape
    top, bottom, left, right = rng.uniform(*_CROP, size=4)
    return pixels[
        round(top * rows) : rows - round(bottom * rows),
        round(left * columns) : columns - round(right * columns),
    ].copy()


def _blank_corners(pixels: FloatArray, _: np.random.Generator) -> FloatArray:
    """Black rectangles of 15 % of the sides over all four corners."""
    rows, columns = (max(1, round(_CORNER * side)) for side in pixels.shape)
    blanked = pixels.copy()
    for vertical in (slice(None, rows), slice(-rows, None)):
        for horizontal in (slice(None, columns), slice(-columns, None)):
            blanked[vertical, horizontal] = 0
    return blanked


def _add_text(pixels: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A white annotation in a corner, in Pillow's own font; text and corner are random."""
    rows, columns = pixels.shape
    shorter = min(rows, columns)
    font = ImageFont.load_default(size=max(6.0, _TEXT_HEIGHT * shorter))
    text = str(rng.choice(_ANNOTATIONS))
    at_left, at_top = rng.integers(2, size=2)
    margin = _MARGIN * shorter
    place = (margin if at_left else columns - margin, margin if at_top else rows - margin)
    layer = Image.new("L", (columns, rows))
    anchor = ("l" if at_left else "r") + ("t" if at_top else "b")
    ImageDraw.Draw(layer).text(place, text, fill=255, font=font, anchor=anchor)
    return np.asarray(np.maximum(pixels, _from_bytes(layer)), np.float32)


def _stretch(pixels: FloatArray, _: np.random.Generator, *, factor: float) -> FloatArray:
    """The anatomy ``factor`` times as wide in the same frame: cut at the sides, or black beside it.

    Stretching the whole image would be undone by a network that squashes every image to a square.
    """
    rows, columns = pixels.shape
    picture = Image.fromarray(pixels)
    middle = columns / 2
    matrix = (1 / factor, 0, middle - middle / factor, 0, 1, 0)
    return _transformed(picture.transform((columns, rows), Image.Transform.AFFINE, matrix, _BILINEAR))


def _rotate(pixels: FloatArray, _: np.random.Generator, *, degrees: float) -> FloatArray:
    """Turned counter-clockwise about the middle in the same frame; what comes in is black."""
    return _transformed(Image.fromarray(pixels).rotate(degrees, _BILINEAR))


def recompress(pixels: FloatArray, _: np.random.Generator, *, quality: int) -> FloatArray:
    """Saved as a grey JPEG of 8 bits and read again."""
    stream = io.BytesIO()
    _to_bytes(pixels).save(stream, "JPEG", quality=quality)
    return _from_bytes(Image.open(stream))


def _shrink(pixels: FloatArray, _: np.random.Generator, *, side: int) -> FloatArray:
    """The image as it comes at ``side`` pixels on its shorter side; a smaller image stays as it is."""
    rows, columns = pixels.shape
    scale = side / min(rows, columns)
    if scale >= 1:
        return pixels
    size = (round(columns * scale), round(rows * scale))
    return _transformed(Image.fromarray(pixels).resize(size, _BILINEAR))


def _blur(pixels: FloatArray, _: np.random.Generator) -> FloatArray:
    """Gaussian, standard deviation 1.5 pixels of 224."""
    return _from_bytes(_to_bytes(pixels).filter(ImageFilter.GaussianBlur(_BLUR * _relative_side(pixels))))


def _sharpen(pixels: FloatArray, _: np.random.Generator) -> FloatArray:
    """Unsharp mask of 150 %, the mask's standard deviation 1.5 pixels of 224."""
    mask = ImageFilter.UnsharpMask(_BLUR * _relative_side(pixels), _SHARPEN_PERCENT, 0)
    return _from_bytes(_to_bytes(pixels).filter(mask))


def _add_noise(pixels: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Normal noise, standard deviation 0.04; on larger images in grains of 1/224 of the shorter side."""
    grain = max(1.0, _relative_side(pixels))
    rows, columns = (max(1, round(side / grain)) for side in pixels.shape)
    noise = rng.normal(0, _NOISE, (rows, columns)).astype(np.float32)
    size = (pixels.shape[1], pixels.shape[0])
    grains = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.NEAREST))
    return np.asarray(np.clip(pixels + grains, 0, 1), np.float32)


def _equalise(pixels: FloatArray, _: np.random.Generator) -> FloatArray:
    """Histogram equalisation, as an extreme of what a device's own processing does."""
    return _from_bytes(ImageOps.equalize(_to_bytes(pixels)))


def _hide_lungs(pixels: FloatArray, _: np.random.Generator) -> FloatArray:
    """A black box over rows and columns 30 to 190 of 224."""
    (top, bottom), (left, right) = ([round(edge * side) for edge in _BOX] for side in pixels.shape)
    hidden = pixels.copy()
    hidden[top:bottom, left:right] = 0
    return hidden


def _relative_side(pixels: FloatArray) -> float:
    return float(min(pixels.shape) / _REFERENCE_SIDE)


def _to_bytes(pixels: FloatArray) -> Image.Image:
    return Image.fromarray(np.rint(pixels * np.float32(255)).astype(np.uint8))


def _from_bytes(picture: Image.Image) -> FloatArray:
    return np.asarray(picture, np.float32) / np.float32(255)


def _transformed(picture: Image.Image) -> FloatArray:
    return np.asarray(picture, np.float32)


STRESSES = (
    Stress("exposure+30", "Exposure +30 %", "grey levels x 1.3, cut at full scale",
           partial(_expose, factor=1.3)),
    Stress("exposure-30", "Exposure -30 %", "grey levels x 0.7", partial(_expose, factor=0.7)),
    Stress("gamma-1.3", "Gamma 1.3", "grey levels to the power 1.3 (darker)", partial(_bend, gamma=1.3)),
    Stress("gamma-0.7", "Gamma 0.7", "grey levels to the power 0.7 (brighter)", partial(_bend, gamma=0.7)),
    Stress("crop-borders", "Cropped borders", "each edge loses 5 to 10 % of the side", _crop_borders),
    Stress("blank-corners", "Blank corners", "four black corners of 15 % of the sides", _blank_corners),
    Stress("text", "Burned-in text", "a white annotation in a random corner, 6 % of the side high",
           _add_text),
    Stress("aspect-1.25", "Aspect 1.25", "the anatomy 1.25 times as wide in the same frame, cut at the sides",
           partial(_stretch, factor=1.25)),
    Stress("aspect-0.8", "Aspect 0.8", "the anatomy 0.8 times as wide in the same frame, black at the sides",
           partial(_stretch, factor=0.8)),
    Stress("jpeg-30", "JPEG quality 30", "saved as JPEG of quality 30 at the image's own size",
           partial(recompress, quality=30)),
    Stress("resize-128", "From 128 pixels", "the image at 128 pixels on its shorter side",
           partial(_shrink, side=128)),
    Stress("rotate+15", "Rotated 15° left", "turned counter-clockwise by 15 degrees, black beside it",
           partial(_rotate, degrees=15)),
    Stress("rotate-15", "Rotated 15° right", "turned clockwise by 15 degrees, black beside it",
           partial(_rotate, degrees=-15)),
    Stress("blur", "Blurred", "Gaussian blur, standard deviation 1.5 pixels of 224", _blur,
           StressKind.REPORTED),
    Stress("sharpen", "Sharpened", "unsharp mask of 150 %, standard deviation 1.5 pixels of 224", _sharpen,
           StressKind.REPORTED),
    Stress("noise", "Noise", "normal noise, standard deviation 0.04 of full scale", _add_noise,
           StressKind.REPORTED),
    Stress("equalise", "Equalised", "histogram equalisation", _equalise, StressKind.REPORTED),
    Stress("black-box", "Black box over the lungs", "rows and columns 30 to 190 of 224 are black",
           _hide_lungs, StressKind.PROBE),
)  # fmt: skip
"""In the order of tables: the everyday ones, the harsher ones, the probe. The magnitudes are the project's
own requirement: the image stays one that a radiologist reads as before."""
