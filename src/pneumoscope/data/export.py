"""Export a data set: NumPy arrays (``.npz``) for notebooks, class folders for everything else."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.files import atomic_path
from pneumoscope.core.records import Label, Preprocessing, Progress, Sample
from pneumoscope.data.cache import PixelCache, build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.splits import TEST, TRAIN, VALIDATION, Split

LABEL_CODES: Mapping[Label, int] = {
    Label.NORMAL: 0,
    Label.BACTERIAL: 1,
    Label.VIRAL: 2,
    Label.PNEUMONIA: 3,
}
"""Values of the array ``labels`` in an exported ``.npz``."""

_FOLDER_NAMES = {TRAIN: "train", VALIDATION: "val", TEST: "test"}


def export_npz(
    dataset: Dataset,
    split: Split | None,
    destination: Path,
    *,
    size: int = 64,
    progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Write ``destination/<part>.npz`` for each part of ``split`` (``all.npz`` without one).

    Keys of each file, N images of S x S pixels in the order of ``paths``:
    ``images`` (N, S, S, 1) float32 in [0, 1], bright = dense; ``flat`` (N, S * S) float32, the same;
    ``labels`` (N,) int64 by :data:`LABEL_CODES`; ``pneumonia`` (N,) int64, 0 or 1; ``label_names`` (N,),
    ``patient_ids`` (N,) and ``paths`` (N,) strings. ``numpy.load(file)`` reads it; there is no pickle in it.

    Args:
        dataset: whose images.
        split: its parts; None exports everything as one part.
        destination: a folder; files of the same name in it are replaced.
        size: S, pixels.
        progress: called with the number of images decoded.

    Raises:
        DatasetError: the split is another data set's, or an image cannot be read any more.
    """
    if not 8 <= size <= 1024:
        raise DatasetError(f"size {size}", expected="8 to 1024 pixels")
    cache = build_cache(dataset, replace(Preprocessing(), size=size), progress=progress)
    files = []
    for part, samples in _parts(dataset, split).items():
        file = Path(destination) / f"{part}.npz"
        with atomic_path(file) as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **_arrays(samples, cache))
        files.append(file)
    return tuple(files)


def export_folders(
    dataset: Dataset,
    split: Split | None,
    destination: Path,
    *,
    link: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Write the original files to ``destination/train|val|test/CLASS``; return the parts' folders.

    An image whose name another image of the same folder has gets the name of its path, joined by ``-``. Class
    folders are ``NORMAL`` and ``PNEUMONIA``, so that the result can be imported again.

    Args:
        dataset: whose images.
        split: its parts; None writes the class folders without a level above.
        destination: a folder; a file that is there already with the same content is kept.
        link: make hard links where the file system allows it, instead of copies.
        progress: called with the number of images written.

    Raises:
        DatasetError: the split is another data set's, or the destination holds another image of that name.
    """
    parts = _parts(dataset, split)
    total, done = sum(len(samples) for samples in parts.values()), 0
    folders = []
    for part, samples in parts.items():
        folder = Path(destination) / _FOLDER_NAMES.get(part, part) if split else Path(destination)
        folders.append(folder)
        for sample, target in zip(samples, _targets(samples, folder), strict=True):
            _place(dataset.file(sample), target, link)
            done += 1
            if progress:
                progress(done, total)
    return tuple(folders)


def _parts(dataset: Dataset, split: Split | None) -> dict[str, tuple[Sample, ...]]:
    if split is None:
        return {"all": dataset.samples}
    return {part: split.samples(dataset, part) for part in split.names}


def _arrays(samples: Sequence[Sample], cache: PixelCache) -> dict[str, np.ndarray]:
    images = cache.pixels[cache.rows(samples)].astype(np.float32) / 255
    return {
        "images": images[..., None],
        "flat": images.reshape(len(samples), -1),
        "labels": np.array([LABEL_CODES[sample.label] for sample in samples], np.int64),
        "pneumonia": np.array([sample.label is not Label.NORMAL for sample in samples], np.int64),
        "label_names": np.array([str(sample.label) for sample in samples]),
        "patient_ids": np.array([sample.patient_id for sample in samples]),
        "paths": np.array([sample.path for sample in samples]),
    }


def _targets(samples: Sequence[Sample], folder: Path) -> list[Path]:
    """Where each image goes: its own name, or its path joined by ``-`` where two would collide."""
    wanted = [
        folder / ("NORMAL" if sample.label is Label.NORMAL else "PNEUMONIA") / Path(sample.path).name
        for sample in samples
    ]
    counts = Counter(wanted)
    return [
        target if counts[target] == 1 else target.with_name(sample.path.replace("/", "-"))
        for sample, target in zip(samples, wanted, strict=True)
    ]


def _place(film: Path, target: Path, link: bool) -> None:
    if target.exists():
        if os.path.samefile(film, target) or film.read_bytes() == target.read_bytes():
            return
        raise DatasetError(
            "the destination holds another image of this name",
            where=target,
            remedy="export into a new folder",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(film, target)
        except OSError:  # another file system, or one without hard links: copy
            pass
        else:
            return
    with atomic_path(target) as temporary:
        shutil.copyfile(film, temporary)
