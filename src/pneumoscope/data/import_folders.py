"""Films in class folders, with the publisher's split above them or without.

In: ``train|val|test / NORMAL|PNEUMONIA / *`` as on Kaggle and Mendeley Data (in any case, at any depth,
beside a nested copy of itself), or ``CLASS / *``. Out: a :class:`Listing`. In a pneumonia folder the file
name may tell the etiology (``person1_bacteria_1``, ``VIRUS-1980593-0001``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.records import Label
from pneumoscope.data.class_names import ClassMap, Skip, require_known, to_label
from pneumoscope.data.dataset import Problem
from pneumoscope.data.listing import (
    FILM_SUFFIXES,
    Candidate,
    ImportOptions,
    Listing,
    is_hidden,
    visible_files,
)
from pneumoscope.data.patients import guangzhou_etiology

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
    """The films of ``folder``'s class folders, and what lies there besides."""
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
