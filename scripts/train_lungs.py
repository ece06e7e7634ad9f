"""Train the lung segmenter that ships with the package, and measure it on the films outlined by hand.

    python scripts/train_lungs.py DATASET

DATASET is an imported data set that holds the outlined films (found by their hash). Two networks, each
trained without one half of the outlined films, are measured on that half; the one that ships is trained with
all of them. Writes the model, ``lungs.json`` with the figures, and a contact sheet to docs/lungs.jpg.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pneumoscope.core.files import sha256_file, write_json
from pneumoscope.data.dataset import Dataset
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.inference import lungs as shipped
from pneumoscope.learning.export import export_onnx
from pneumoscope.learning.lungs import (
    LungNetwork,
    OutlinedFilms,
    dice,
    draw_outlines,
    outlined_phantoms,
    train_lungs,
)

ROOT = Path(__file__).resolve().parents[1]
OUTLINES = ROOT / "docs" / "lung_outlines.json"
SHIPPED = ROOT / "src" / "pneumoscope" / "bundles" / "lungs"
PHANTOMS, STEPS = 1500, 800
SHEET_FILMS, SHEET_COLUMNS, TILE = 32, 8, 160


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
    phantoms = outlined_phantoms(PHANTOMS)
    network = train_lungs(phantoms, films, arguments.steps)
    SHIPPED.mkdir(exist_ok=True)
    export_onnx(network, shipped.LUNG_SIZE, SHIPPED / "model.onnx")
    document = {
        "sha256": sha256_file(SHIPPED / "model.onnx"),
        "outlined_films": [outline["sha256"] for outline in outlines],
        "phantoms": PHANTOMS,
        "steps": arguments.steps,
    }
    write_json(SHIPPED / "lungs.json", document)
    _contact_sheet(dataset, {outline["sha256"] for outline in outlines})
    document["dice"] = _measure(phantoms, films, arguments.steps)
    write_json(SHIPPED / "lungs.json", document)


def _measure(phantoms: OutlinedFilms, films: OutlinedFilms, steps: int) -> dict[str, list[list[float]]]:
    """Dice (right, left) of each film, by networks that learnt from others, and from phantoms alone."""
    unseen = np.zeros((len(films), 2))
    for half in (0, 1):
        rows = np.arange(half, len(films), 2)
        others = np.setdiff1d(np.arange(len(films)), rows)
        unseen[rows] = _dice(train_lungs(phantoms, films.part(others), steps), films.part(rows))
    nothing = films.part(np.array([], dtype=int))
    alone = _dice(train_lungs(phantoms, nothing, steps), films)
    return {"phantoms and other films": unseen.tolist(), "phantoms alone": alone.tolist()}


def _dice(network: LungNetwork, films: OutlinedFilms) -> np.ndarray:
    with torch.inference_mode():
        log_odds, _ = network(torch.from_numpy(films.pixels).float().unsqueeze(1) / 255)
    return dice(log_odds.numpy() > 0, films.lungs > 0.5)


def _contact_sheet(dataset: Dataset, outlined: set[str]) -> None:
    """Films that nobody outlined, drawn by chance, with the border of what the shipped segmenter finds."""
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
