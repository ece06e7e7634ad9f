"""Images that tests of data sets make for themselves: smooth random pictures, each one different."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pneumoscope.core.records import Label, Sample
from pneumoscope.data.dataset import Dataset


def picture(seed: int, size: int = 64) -> npt.NDArray[np.uint8]:
    """(size, size) uint8: coarse noise, enlarged, with fine noise on it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def write_film(file: Path, seed: int, size: int = 64) -> Path:
    """An image in the format of the file's ending."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, size)).save(file)
    return file


def write_kaggle(root: Path, normals: int = 4, persons: int = 3) -> Path:
    """``train`` and ``test`` as on Kaggle: ``normals`` and 2 * ``persons`` images a part."""
    seed = 0
    for start, part in ((0, "train"), (100, "test")):
        for number in range(start, start + normals):
            seed += 1
            write_film(root / part / "NORMAL" / f"IM-{number:04d}-0001.jpeg", seed)
        for number in range(start, start + persons):
            for cause in ("bacteria", "virus"):
                seed += 1
                write_film(root / part / "PNEUMONIA" / f"person{number}_{cause}_{seed}.jpeg", seed)
    return root


def sample(path: str, group: str, label: Label = Label.NORMAL, part: str | None = None) -> Sample:
    """A row of a manifest whose hash and patient follow from path and group."""
    return Sample(path, f"{path:0>64}"[-64:], group, group, label, part)


def dataset_of(samples: tuple[Sample, ...], directory: Path = Path("nowhere")) -> Dataset:
    """A data set that exists in memory only."""
    return Dataset(directory, directory, "made", "folders", samples)
