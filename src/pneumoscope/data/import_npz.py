"""MedMNIST archives: films as arrays, written out as PNG files so that everything downstream sees files.

In: an ``.npz`` with ``train|val|test_images`` and ``_labels`` (PneumoniaMNIST of any size; Yang et al.,
MedMNIST v2, Scientific Data 10:41, 2023). Out: a :class:`Listing` of ``DATASET/films/<part>/<number>.png``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.files import atomic_path
from pneumoscope.core.records import Label
from pneumoscope.data.class_names import require_known, to_label
from pneumoscope.data.dataset import Header, Problem, write_header
from pneumoscope.data.listing import Candidate, ImportOptions, Listing

_PARTS = ("train", "val", "test")


def find_archive(folder: Path) -> Path | None:
    """The folder's only ``.npz`` file, or None."""
    archives = [path for path in sorted(folder.glob("*.npz")) if not path.name.startswith(".")]
    return archives[0] if len(archives) == 1 else None


def read_medmnist(source: Path, destination: Path, options: ImportOptions) -> Listing:
    """Write the archive's films under ``destination/films``; those that are there already are kept.

    Labels are 0 (normal) and 1 (pneumonia) unless the class mapping says otherwise.

    Raises:
        DatasetError: the archive is damaged, has other arrays, or a label is unknown.
    """
    archive = source if source.is_file() else find_archive(source)
    if archive is None:
        raise DatasetError("no single .npz file", where=source, expected="one MedMNIST archive")
    root = destination.resolve() / "films"
    parts = list(_parts(archive))
    names = {str(value) for _, _, labels in parts for value in labels}
    meanings = {name: to_label(name, options.class_map, numeric=True) for name in names}
    require_known((name for name, label in meanings.items() if label is None), str(archive))
    # From here on files are written: mark the directory as this source's, so that a killed import goes on.
    name = options.name or archive.stem
    write_header(destination, Header(name, "medmnist", source, root))
    candidates: list[Candidate] = []
    problems: list[Problem] = []
    for part, images, labels in parts:
        for number, (image, value) in enumerate(zip(images, labels, strict=True)):
            file = root / part / f"{part}-{number:06d}.png"
            label = meanings[str(value)]
            if isinstance(label, Label):
                _write_png(file, image)
                candidates.append(Candidate(file, label, patient_id=file.stem, publisher_split=part))
            else:
                reason = f"class '{value}' is left out by the class mapping"
                problems.append(Problem(f"{part}/{file.name}", reason))
    note = "the archive tells no patients; each film counts as its own patient"
    return Listing(root, "medmnist", tuple(candidates), tuple(problems), (note,))


def _write_png(file: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write a film, unless an earlier import did."""
    if not file.exists():
        with atomic_path(file) as temporary:
            Image.fromarray(image).save(temporary, format="PNG")


def _parts(archive: Path) -> Iterator[tuple[str, npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    """Part, images (N, H, W) uint8 and labels (N,) of each part that the archive has."""
    try:
        with open(archive, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            parts = [part for part in _PARTS if f"{part}_images" in arrays]
            if not parts:
                raise DatasetError(
                    f"the archive holds {', '.join(arrays) or 'nothing'}",
                    where=archive,
                    expected="train_images, train_labels, val_images, ... as in MedMNIST",
                )
            for part in parts:
                images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
                yield part, _grey(images, archive), _flat(labels, len(images), archive)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"not a readable .npz archive ({error})", where=archive) from error


def _grey(images: npt.NDArray[np.uint8], archive: Path) -> npt.NDArray[np.uint8]:
    """(N, H, W) from (N, H, W) or (N, H, W, 1 or 3); ITU-R BT.601 luma for colour, as Pillow's ``L``."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
        raise DatasetError(
            f"images are {images.dtype} of shape {images.shape}",
            where=archive,
            expected="uint8 of shape (N, H, W) or (N, H, W, 3)",
        )
    if images.ndim == 3:
        return images
    if images.shape[3] == 1:
        return np.asarray(images[..., 0])
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(images.astype(np.float32) @ weights).astype(np.uint8)


def _flat(labels: npt.NDArray[np.int64], count: int, archive: Path) -> npt.NDArray[np.int64]:
    if labels.size != count:
        raise DatasetError(
            f"labels of shape {labels.shape} for {count} films",
            where=archive,
            expected="one label a film (PneumoniaMNIST; ChestMNIST has several)",
        )
    return labels.reshape(count)
