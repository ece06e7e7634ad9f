"""Train the lung segmenter that ships with the package, and measure it on the images outlined by hand.

    python scripts/train_lungs.py DATASET

DATASET is an imported data set that holds the outlined images (found by their hash). Two networks, each
trained without one half of the outlined images, are measured on that half; the one that ships is trained with
all of them. Writes the model, ``lungs.json`` with the figures, and a contact sheet to docs/lungs.jpg.

Phantoms come with exact masks in any number, but they are only like radiographs; a handful of hand-drawn
outlines (``lung_outlines.json``, polygons without pixels) shows the network what real borders look like.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from pneumoscope.core.files import sha256_file, write_json
from pneumoscope.core.records import FloatArray, Label, Preprocessing, Progress, Radiograph
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.phantom_drawing import PhantomConfig, draw_phantom
from pneumoscope.imaging import lungs as shipped
from pneumoscope.imaging.lungs import LUNG_SIZE
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.learning.augmentation import (
    add_noise,
    blank_borders,
    change_sharpness,
    erase,
    expose,
    move,
    soften,
)
from pneumoscope.learning.config import AugmentationConfig
from pneumoscope.learning.export import export_onnx
from pneumoscope.learning.networks import Network

ROOT = Path(__file__).resolve().parents[1]
OUTLINES = ROOT / "docs" / "lung_outlines.json"
SHIPPED = ROOT / "src" / "pneumoscope" / "bundles" / "lungs"
PHANTOM_COUNT, STEPS = 1500, 800
SHEET_FILMS, SHEET_COLUMNS, TILE = 32, 8, 160

WIDTHS = (16, 24, 48, 64)
"""Channels at each resolution: a fifth of a million weights, 3 ms an image on one core."""

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
"""Stronger than for the classifier: masks move with the images, and a lung is a lung at any exposure."""

PHANTOMS = PhantomConfig(turn_degrees=6, shift=0.08, scale_range=(0.9, 1.45), lesion_strength=1.3)
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-3
BATCH = 32

Masks = npt.NDArray[np.float32]


class LungNetwork(Network):
    """A small U-Net (Ronneberger et al., MICCAI 2015): images (N, 1, S, S) to log-odds of each lung.

    ``forward`` gives (N, 2, S, S), right lung first, and the features at the lowest resolution.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        inputs = [1, *widths[:-1]]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip(inputs, widths, strict=True))
        self.up = nn.ModuleList(_block(b + a, a) for a, b in itertools.pairwise(widths))
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds (N, 2, S, S) and features (N, C, S/8, S/8) of images (N, 1, S, S) in [0, 1]."""
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
    """Images and lungs: pixels (N, S, S) uint8 as the network sees them; lungs (N, 2, S, S) in [0, 1]."""

    pixels: npt.NDArray[np.uint8]
    lungs: Masks

    def __len__(self) -> int:
        return len(self.pixels)

    def part(self, rows: npt.NDArray[np.integer]) -> OutlinedFilms:
        """The images of these rows."""
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
    """Images outlined by hand.

    Args:
        radiographs: N images.
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
    """Train a network; half of each batch are phantoms, half images (all phantoms when there is no image).

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
    """Images (B, 1, S, S) changed at random, and their lungs (B, 2, S, S) moved with them."""
    batch = expose(torch.from_numpy(pixels), AUGMENTATION, generator)
    soften(batch, AUGMENTATION, generator)
    both = torch.cat([batch, torch.from_numpy(lungs)], dim=1)
    moved = move(both, both.shape[-1], AUGMENTATION, generator)
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
    """An image as the network sees it, in 8 bits."""
    radiograph = Radiograph(pixels, (pixels.shape[0], pixels.shape[1]))
    array = to_model_input(radiograph, Preprocessing(size, "squash", "percentile")).array[0]
    return np.rint(array * np.float32(255)).astype(np.uint8)


def _fill(corners: Sequence[Sequence[float]], size: int) -> Masks:
    """(S, S) share of each pixel inside a polygon, from 4 x 4 points a pixel."""
    fine = Image.new("L", (4 * size, 4 * size))
    ImageDraw.Draw(fine).polygon([(4 * size * x, 4 * size * y) for x, y in corners], fill=255)
    return np.asarray(fine.resize((size, size), Image.Resampling.BOX), np.float32) / np.float32(255)


def main() -> None:
    """Measure, train, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    dataset = Dataset.open(arguments.dataset)
    outlines = json.loads(OUTLINES.read_text())["films"]
    by_hash = {sample.sha256: sample for sample in dataset.samples}
    films = draw_outlines(
        [read_radiograph(dataset.file(by_hash[outline["sha256"]])) for outline in outlines], outlines
    )
    phantoms = outlined_phantoms(PHANTOM_COUNT)
    network = train_lungs(phantoms, films, arguments.steps)
    SHIPPED.mkdir(exist_ok=True)
    export_onnx(network, shipped.LUNG_SIZE, SHIPPED / "model.onnx")
    document = {
        "sha256": sha256_file(SHIPPED / "model.onnx"),
        "outlined_films": [outline["sha256"] for outline in outlines],
        "phantoms": PHANTOM_COUNT,
        "steps": arguments.steps,
    }
    write_json(SHIPPED / "lungs.json", document)
    _contact_sheet(dataset, {outline["sha256"] for outline in outlines})
    document["dice"] = _measure(phantoms, films, arguments.steps)
    write_json(SHIPPED / "lungs.json", document)


def _measure(phantoms: OutlinedFilms, films: OutlinedFilms, steps: int) -> dict[str, list[list[float]]]:
    """Dice (right, left) of each image, by networks that learnt from others, and from phantoms alone."""
    unseen = np.zeros((len(films), 2))
    for half in (0, 1):
        rows = np.arange(half, len(films), 2)
        others = np.setdiff1d(np.arange(len(films)), rows)
        unseen[rows] = _dice(train_lungs(phantoms, films.part(others), steps), films.part(rows))
    nothing = films.part(np.array([], dtype=int))
    alone = _dice(train_lungs(phantoms, nothing, steps), films)
    return {"phantoms and other images": unseen.tolist(), "phantoms alone": alone.tolist()}


def _dice(network: LungNetwork, films: OutlinedFilms) -> np.ndarray:
    with torch.inference_mode():
        log_odds, _ = network(torch.from_numpy(films.pixels).float().unsqueeze(1) / 255)
    return dice(log_odds.numpy() > 0, films.lungs > 0.5)


def _contact_sheet(dataset: Dataset, outlined: set[str]) -> None:
    """Images that nobody outlined, drawn by chance, with the border of what the shipped segmenter finds."""
    others = [sample for sample in dataset.samples if sample.sha256 not in outlined]
    chosen = np.random.default_rng(1).choice(len(others), SHEET_FILMS, replace=False)
    size = (SHEET_COLUMNS * TILE, SHEET_FILMS // SHEET_COLUMNS * TILE)
    sheet = Image.new("RGB", size)
    for number, row in enumerate(chosen):
        pixels = read_radiograph(dataset.file(others[row])).pixels
        film = np.asarray(Image.fromarray(pixels).resize((TILE, TILE)))
        tile = np.repeat((film * 255).astype(np.uint8)[..., None], 3, axis=2)
        for mask, colour in zip(
            shipped.segment_lungs(film[None])[0], ((255, 80, 80), (80, 200, 255)), strict=True
        ):
            edge = mask ^ (
                np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1) & mask
            )
            tile[edge] = colour
        sheet.paste(Image.fromarray(tile), ((number % SHEET_COLUMNS) * TILE, number // SHEET_COLUMNS * TILE))
    sheet.save(ROOT / "docs" / "lungs.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main()
