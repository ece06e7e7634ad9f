"""The network that outlines the lungs, and how it is trained: on phantoms and on films outlined by hand.

Phantoms come with exact masks in any number, but they are only like films; a handful of hand-drawn outlines
(``lung_outlines.json``, polygons without pixels) shows the network what real borders look like.

In: phantoms and outlined films. Out: a :class:`LungNetwork`, or its overlap with outlines (Dice).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from pneumoscope.core.records import FloatArray, Label, Preprocessing, Progress, Radiograph
from pneumoscope.data.phantom_drawing import PhantomConfig, draw_phantom
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.inference.lungs import LUNG_SIZE
from pneumoscope.learning.augmentation import move
from pneumoscope.learning.config import AugmentationConfig
from pneumoscope.learning.grey_levels import expose
from pneumoscope.learning.masking import blank_borders, erase
from pneumoscope.learning.network import Network
from pneumoscope.learning.texture import add_noise, change_sharpness, soften

WIDTHS = (16, 24, 48, 64)
"""Channels at each resolution: a fifth of a million weights, 3 ms a film on one core."""

AUGMENTATION = AugmentationConfig(
    rotation_degrees=20,
    scale=0.25,
    translation=0.1,
    aspect=0.2,
    shear_degrees=8,
    soften_probability=0.3,
    soften_scale=0.3,
    histogram_probability=0.3,
    tone_probability=0.5,
    sharpness_probability=0.4,
    erasing_probability=0.4,
    erasing_area=0.05,
    border_probability=0.3,
)
"""Stronger than for the classifier: masks move with the films, and a lung is a lung at any exposure."""

PHANTOMS = PhantomConfig(turn_degrees=6, shift=0.08, scale_range=(0.9, 1.45), lesion_strength=1.3)
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-3
BATCH = 32

Masks = npt.NDArray[np.float32]


class LungNetwork(Network):
    """A small U-Net (Ronneberger et al., MICCAI 2015): films (N, 1, S, S) to log-odds of each lung.

    ``forward`` gives (N, 2, S, S), right lung first, and the features at the lowest resolution.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        inputs = [1, *widths[:-1]]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip(inputs, widths, strict=True))
        self.up = nn.ModuleList(_block(b + a, a) for a, b in itertools.pairwise(widths))
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds (N, 2, S, S) and features (N, C, S/8, S/8) of films (N, 1, S, S) in [0, 1]."""
        steps: list[Tensor] = []
        x = 2 * images - 1
        for number, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if number else x)
            steps.append(x)
        lowest = steps.pop()
        for block in reversed(self.up):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, steps.pop()], dim=1))
        return self.head(x), lowest

    def blocks(self) -> list[nn.Module]:
        """The resolutions from fine to coarse and back, then the head."""
        return [*self.down, *self.up, self.head]


def _block(inputs: int, outputs: int) -> nn.Module:
    """Two 3 x 3 convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class OutlinedFilms:
    """Films and lungs: pixels (N, S, S) uint8 as the network sees them; lungs (N, 2, S, S) in [0, 1]."""

    pixels: npt.NDArray[np.uint8]
    lungs: Masks

    def __len__(self) -> int:
        return len(self.pixels)

    def part(self, rows: npt.NDArray[np.integer]) -> OutlinedFilms:
        """The films of these rows."""
        return OutlinedFilms(self.pixels[rows], self.lungs[rows])


def outlined_phantoms(count: int, seed: int = 0, size: int = LUNG_SIZE) -> OutlinedFilms:
    """``count`` phantoms of all classes with their own lung masks."""
    rng = np.random.default_rng(seed)
    labels = (Label.NORMAL, Label.BACTERIAL, Label.VIRAL)
    phantoms = [draw_phantom(labels[n % 3], rng, size, config=PHANTOMS) for n in range(count)]
    return OutlinedFilms(
        np.stack([_as_seen(phantom.pixels, size) for phantom in phantoms]),
        np.stack([phantom.lungs for phantom in phantoms]).astype(np.float32),
    )


def draw_outlines(
    radiographs: Sequence[Radiograph],
    outlines: Sequence[Mapping[str, Sequence[Sequence[float]]]],
    size: int = LUNG_SIZE,
) -> OutlinedFilms:
    """Films outlined by hand.

    Args:
        radiographs: N films.
        outlines: of each, under ``right`` and ``left``, the corners (x, y) of a polygon as shares of width
            and height.
        size: side S of what is returned, in pixels.
    """
    pixels = [_as_seen(radiograph.pixels, size) for radiograph in radiographs]
    lungs = [np.stack([_fill(outline[side], size) for side in ("right", "left")]) for outline in outlines]
    return OutlinedFilms(np.stack(pixels), np.stack(lungs))


def train_lungs(
    phantoms: OutlinedFilms, films: OutlinedFilms, steps: int, seed: int = 0, progress: Progress | None = None
) -> LungNetwork:
    """Train a network; half of each batch are phantoms, half films (all phantoms when there is no film).

    The loss is the cross-entropy of each pixel plus one minus the soft Dice of each lung (Milletari et al.,
    V-Net, 3DV 2016, section 3).

    Returns:
        The network in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LungNetwork()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
        generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
        for step in range(steps):
            pixels, lungs = _batch(phantoms, films, rng)
            inputs, wanted = _augment(pixels, lungs, generator)
            log_odds, _ = network(inputs)
            optimiser.zero_grad()
            _loss(log_odds, wanted).backward()
            optimiser.step()
            schedule.step()
            if progress:
                progress(step + 1, steps)
    return network.eval()


def dice(found: npt.NDArray[np.bool_], wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Overlap 2 |A and B| / (|A| + |B|) of masks (..., H, W), 1 where both are empty (Dice, Ecology 1945)."""
    both = np.logical_and(found, wanted).sum(axis=(-2, -1))
    total = found.sum(axis=(-2, -1)) + wanted.sum(axis=(-2, -1))
    return np.divide(2.0 * both, total, out=np.ones(np.shape(both)), where=total > 0)


def _batch(
    phantoms: OutlinedFilms, films: OutlinedFilms, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], Masks]:
    drawn = [phantoms.part(rng.integers(len(phantoms), size=BATCH // 2 if len(films) else BATCH))]
    if len(films):
        drawn.append(films.part(rng.integers(len(films), size=BATCH // 2)))
    return np.concatenate([part.pixels for part in drawn]), np.concatenate([part.lungs for part in drawn])


def _augment(
    pixels: npt.NDArray[np.uint8], lungs: Masks, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Films (B, 1, S, S) changed at random, and their lungs (B, 2, S, S) moved with them."""
    batch = expose(torch.from_numpy(pixels), AUGMENTATION, generator)
    soften(batch, AUGMENTATION, generator)
    moved = move(torch.cat([batch, torch.from_numpy(lungs)], dim=1), AUGMENTATION, generator)
    batch = moved[:, :1].contiguous()
    change_sharpness(batch, AUGMENTATION, generator)
    add_noise(batch, AUGMENTATION, generator)
    erase(batch, AUGMENTATION, generator)
    blank_borders(batch, AUGMENTATION, generator)
    return batch.clamp_(0.0, 1.0), moved[:, 1:]


def _loss(log_odds: Tensor, wanted: Tensor) -> Tensor:
    found = torch.sigmoid(log_odds)
    both, total = (found * wanted).sum(dim=(2, 3)), (found + wanted).sum(dim=(2, 3))
    return F.binary_cross_entropy_with_logits(log_odds, wanted) + (1 - (2 * both + 1) / (total + 1)).mean()


def _as_seen(pixels: FloatArray, size: int) -> npt.NDArray[np.uint8]:
    """A film as the network sees it, in 8 bits."""
    radiograph = Radiograph(pixels, (pixels.shape[0], pixels.shape[1]))
    array = to_model_input(radiograph, Preprocessing(size, "squash", "percentile")).array[0]
    return np.rint(array * np.float32(255)).astype(np.uint8)


def _fill(corners: Sequence[Sequence[float]], size: int) -> Masks:
    """(S, S) share of each pixel inside a polygon, from 4 x 4 points a pixel."""
    fine = Image.new("L", (4 * size, 4 * size))
    ImageDraw.Draw(fine).polygon([(4 * size * x, 4 * size * y) for x, y in corners], fill=255)
    return np.asarray(fine.resize((size, size), Image.Resampling.BOX), np.float32) / np.float32(255)
