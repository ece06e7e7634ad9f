"""Data set layouts: class names, class folders with or without a split above them, MedMNIST archives.

A layout's reader returns a :class:`Listing`: the images it promises, with their labels, before any is opened.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from pneumoscope.core.errors import ConfigError, DatasetError
from pneumoscope.core.files import atomic_path
from pneumoscope.core.records import Label
from pneumoscope.data.dataset import Header, Problem, write_header
from pneumoscope.data.patients import guangzhou_etiology


class Skip(Enum):
    """Marks a class whose images the user leaves out."""

    SKIP = "skip"


ClassMap = Mapping[str, Label | Skip]

# Names met in public sets: Kermany, PneumoniaMNIST, NIH ChestX-ray, RSNA 2018, CheXpert, COVID-19 Radiography
# Database.
_SYNONYMS: Final[Mapping[Label, tuple[str, ...]]] = {
    Label.NORMAL: ("normal", "no finding", "no findings", "healthy", "negative", "no pneumonia"),
    Label.BACTERIAL: ("bacterial", "bacteria", "bacterial pneumonia", "pneumonia bacterial"),
    Label.VIRAL: ("viral", "virus", "viral pneumonia", "pneumonia viral"),
    Label.PNEUMONIA: (
        "pneumonia", "pneumonia unspecified", "opacity", "lung opacity", "positive", "pnemonia",
    ),
}  # fmt: skip
_NAMES: Final = {name: label for label, names in _SYNONYMS.items() for name in names}
_NUMBERS: Final[Mapping[str, Label]] = {"0": Label.NORMAL, "1": Label.PNEUMONIA}


def _normalise(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name).strip().lower()


def to_label(name: str, class_map: ClassMap, *, numeric: bool = False) -> Label | Skip | None:
    """What ``name`` means; None when it is unknown.

    Args:
        name: a folder name or a cell. ``A|B`` (NIH ChestX-ray) is pneumonia when one of its parts is.
        class_map: the user's mapping, which wins; the key ``*`` catches everything that is not known.
        numeric: whether ``0`` and ``1`` (also ``0.0``, ``1.0``) mean normal and pneumonia.
    """
    key = _normalise(name)
    if key in class_map:
        return class_map[key]
    if key in _NAMES:
        return _NAMES[key]
    if numeric and (number := re.sub(r"\.0*$", "", key)) in _NUMBERS:
        return _NUMBERS[number]
    parts = [_NAMES.get(_normalise(part)) for part in name.split("|")] if "|" in name else []
    pneumonia = [part for part in parts if part not in (None, Label.NORMAL)]
    return pneumonia[0] if pneumonia else class_map.get("*")


def parse_class_map(entries: Iterable[str]) -> dict[str, Label | Skip]:
    """The mapping behind repeated ``NAME=label`` flags.

    Raises:
        ConfigError: an entry is not of that form or names no label.
    """
    meanings: dict[str, Label | Skip] = {**{str(label): label for label in Label}, "skip": Skip.SKIP}
    mapping: dict[str, Label | Skip] = {}
    for entry in entries:
        name, equals, meaning = entry.rpartition("=")
        label = meanings.get(meaning.strip().lower()) or _NAMES.get(_normalise(meaning))
        if not equals or not name.strip() or label is None:
            raise ConfigError(
                "not a class mapping",
                where=f"--map {entry}",
                expected=f"NAME=label with a label of {', '.join(meanings)}",
                remedy='for example --map "Lung Opacity=pneumonia-unspecified"',
            )
        mapping["*" if name.strip() == "*" else _normalise(name)] = label
    return mapping


def require_known(unknown: Iterable[str], where: str) -> None:
    """Refuse class names that nobody has explained.

    Raises:
        DatasetError: ``unknown`` is not empty.
    """
    names = sorted(set(unknown))
    if names:
        shown = ", ".join(repr(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
        raise DatasetError(
            f"unknown class name{'s' if len(names) > 1 else ''} {shown}",
            where=where,
            expected="normal, bacterial, viral, pneumonia or a usual synonym",
            remedy=f'say what it means with --map "{names[0]}=LABEL" (a label of '
            f"{', '.join(Label)}; or skip to leave its images out)",
        )


FILM_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".dcm", ".dicom", ".dic", ".ima", "")
)
"""Endings that are tried as images; DICOM files often have none."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import.

    Attributes:
        layout: ``kaggle``, ``folders``, ``csv``, ``rsna`` or ``medmnist``; None finds out.
        class_map: the user's meanings of class names, keys normalised by ``parse_class_map``.
        name: the data set's name; None takes the source's.
        workers: processes that decode; None takes the number of processors.
    """

    layout: str | None = None
    class_map: ClassMap = field(default_factory=dict)
    name: str | None = None
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that a layout promises; the fields are those of Sample, before the file was opened.

    ``patient_id`` None means that the layout says nothing and the file name decides.
    """

    file: Path
    label: Label
    patient_id: str | None = None
    publisher_split: str | None = None
    view: str | None = None
    age_years: float | None = None
    sex: str | None = None
    site: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A layout read: the folder that paths are relative to, images, files that are none, and remarks."""

    root: Path
    layout: str
    candidates: tuple[Candidate, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def is_hidden(path: Path) -> bool:
    """Whether the system, not a person, put ``path`` there (``._x``, ``.DS_Store``, ``__MACOSX``)."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def visible_files(folder: Path) -> Iterator[Path]:
    """Every file under ``folder`` in sorted order, without hidden files and folders."""
    for path in sorted(folder.iterdir()):
        if is_hidden(path):
            continue
        if path.is_dir():
            yield from visible_files(path)
        elif path.is_file():
            yield path


SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Folder names and cells that mean a part of the publisher's split."""

_DEPTH = 3  # chest_xray/chest_xray/train: the archives of the Kaggle copy nest once


def read_split_folders(source: Path, destination: Path, options: ImportOptions) -> Listing:
    """``train|val|test / CLASS / *`` somewhere under ``source``.

    Raises:
        DatasetError: there is no such folder, or a class name is unknown.
    """
    del destination
    root = find_split_folder(source)
    if root is None:
        raise DatasetError(
            "no folder with train, val or test in it",
            where=source,
            expected="train/NORMAL, train/PNEUMONIA, ...",
        )
    listings: list[tuple[list[Candidate], list[Problem]]] = []
    loose = [path for path in _children(root) if path.is_file()]
    skipped = []
    for folder in (path for path in _children(root) if path.is_dir()):
        part = SPLIT_NAMES.get(folder.name.lower())
        if part:
            listings.append(_read_classes(folder, root, part, options.class_map))
        else:
            skipped.append(folder.name)
    notes = [f"folders beside the split were left out: {', '.join(skipped)}"] if skipped else []
    return Listing(
        root=root,
        layout="kaggle",
        candidates=tuple(candidate for found, _ in listings for candidate in found),
        problems=(*_not_films(loose, root), *(problem for _, others in listings for problem in others)),
        notes=tuple(notes),
    )


def read_class_folders(source: Path, destination: Path, options: ImportOptions) -> Listing:
    """``CLASS / *`` in ``source`` itself.

    Raises:
        DatasetError: a class name is unknown.
    """
    del destination
    if not source.is_dir():
        raise DatasetError("not a folder", where=source, expected="a folder with one folder a class")
    root = source.resolve()
    candidates, problems = _read_classes(root, root, None, options.class_map)
    return Listing(root, "folders", tuple(candidates), tuple(problems))


def find_split_folder(source: Path) -> Path | None:
    """The outermost folder whose children are parts of a split with class folders in them.

    The Kaggle archive holds ``chest_xray/train`` and a copy of it in ``chest_xray/chest_xray/train``: the
    outer one is read.
    """
    level = [source.resolve()] if source.is_dir() else []
    for _ in range(_DEPTH):
        for folder in level:
            if any(_is_split_part(child) for child in _children(folder)):
                return folder
        level = [child for folder in level for child in _children(folder) if child.is_dir()]
    return None


def has_known_class_folder(source: Path, class_map: ClassMap) -> bool:
    """Whether ``source`` has a folder whose name is a class."""
    return any(child.is_dir() and to_label(child.name, class_map) for child in _children(source))


def _is_split_part(folder: Path) -> bool:
    return (
        folder.is_dir()
        and folder.name.lower() in SPLIT_NAMES
        and any(child.is_dir() for child in _children(folder))
    )


def _children(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not is_hidden(path)]


def _read_classes(
    folder: Path, root: Path, part: str | None, class_map: ClassMap
) -> tuple[list[Candidate], list[Problem]]:
    """The images of ``folder``'s class folders, and what lies there besides."""
    children = _children(folder)
    classes = {child: to_label(child.name, class_map) for child in children if child.is_dir()}
    require_known((child.name for child, label in classes.items() if label is None), str(folder))
    candidates: list[Candidate] = []
    problems = list(_not_films([child for child in children if child.is_file()], root))
    for child, label in classes.items():
        for file in visible_files(child):
            path = file.relative_to(root).as_posix()
            if file.suffix.lower() not in FILM_SUFFIXES:
                problems.append(Problem(path, _wrong_type(file)))
            elif isinstance(label, Skip):
                problems.append(Problem(path, f"class '{child.name}' is left out by the class mapping"))
            elif label is not None:
                candidates.append(Candidate(file, _refine(label, file), publisher_split=part))
    return candidates, problems


def _refine(label: Label, file: Path) -> Label:
    """Bacterial or viral where the folder says pneumonia and the file name says more."""
    return (guangzhou_etiology(file.stem) or label) if label is Label.PNEUMONIA else label


def _not_films(files: list[Path], root: Path) -> Iterator[Problem]:
    for file in files:
        reason = (
            "lies outside the class folders" if file.suffix.lower() in FILM_SUFFIXES else _wrong_type(file)
        )
        yield Problem(file.relative_to(root).as_posix(), reason)


def _wrong_type(file: Path) -> str:
    return f"not an image file ({file.suffix.lower()})"


_PARTS = ("train", "val", "test")


def find_archive(folder: Path) -> Path | None:
    """The folder's only ``.npz`` file, or None."""
    archives = [path for path in sorted(folder.glob("*.npz")) if not path.name.startswith(".")]
    return archives[0] if len(archives) == 1 else None


def read_medmnist(source: Path, destination: Path, options: ImportOptions) -> Listing:
    """Write the archive's images under ``destination/films``; those that are there already are kept.

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
    note = "the archive tells no patients; each image counts as its own patient"
    return Listing(root, "medmnist", tuple(candidates), tuple(problems), (note,))


def _write_png(file: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write an image, unless an earlier import did."""
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
            f"labels of shape {labels.shape} for {count} images",
            where=archive,
            expected="one label an image (PneumoniaMNIST; ChestMNIST has several)",
        )
    return labels.reshape(count)
