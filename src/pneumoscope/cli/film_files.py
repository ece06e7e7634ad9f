"""Image files on a command line: files as given, folders by extension or as DICOM by content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pneumoscope.core.errors import UnreadableFileError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".dcm", ".dicom"})


class FilmFiles:
    """The images among ``paths``, in the order given, folders sorted by name.

    A file is taken as it is, so that a wrong one is reported; a folder gives its images, and ``skipped``
    counts what else lay in it (hidden files are not counted). ``empty`` lists folders without an image.

    Args:
        paths: files and folders.
        recursive: enter subfolders.
    """

    def __init__(self, paths: Iterable[Path], *, recursive: bool = False) -> None:
        self.paths = tuple(paths)
        self.recursive = recursive
        self.skipped = 0
        self.empty: list[Path] = []
        self.has_folder = any(path.is_dir() for path in self.paths)

    def __iter__(self) -> Iterator[Path]:
        self.skipped = 0
        self.empty.clear()
        for path in self.paths:
            if path.is_dir():
                yield from self._films_of(path)
            else:
                yield path

    def count(self) -> int:
        """Images there are now; looks at every file."""
        return sum(1 for _ in self)

    def _films_of(self, folder: Path) -> Iterator[Path]:
        found = False
        for parent, folders, names in os.walk(folder):
            if not self.recursive:
                folders.clear()
            folders.sort()
            for name in sorted(name for name in names if not name.startswith(".")):
                file = Path(parent, name)
                if _is_film(file):
                    found = True
                    yield file
                else:
                    self.skipped += 1
        if not found:
            self.empty.append(folder)


def _is_film(file: Path) -> bool:
    extension = file.suffix.lower()
    if extension in EXTENSIONS:
        return True
    # Names of DICOM files are often UIDs, whose last number looks like an extension.
    if extension and not extension[1:].isdecimal():
        return False
    from pneumoscope.imaging.radiograph import image_format

    try:
        return file.is_file() and image_format(file) == "DICOM"
    except UnreadableFileError:
        return False
