"""Import any known layout: detect it, open every image once, write manifest, problems and pixel cache.

The layouts are read by ``layouts`` and ``tables``. A file that cannot be used is listed with its reason and
stops nothing; an import that was killed goes on where it stopped.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from pneumoscope.core.errors import ConfigError, DatasetError
from pneumoscope.core.files import sha256_bytes
from pneumoscope.core.records import Preprocessing, Progress, Sample
from pneumoscope.data import layouts, tables
from pneumoscope.data.cache import CacheWriter, cache_directory
from pneumoscope.data.dataset import Dataset, Header, Problem, locate, read_header, write_header
from pneumoscope.data.decoding import DecodedFilm, FilmFacts, decode_films
from pneumoscope.data.layouts import Candidate, ImportOptions, Listing
from pneumoscope.data.patients import guangzhou_patient
from pneumoscope.imaging.header import to_age, to_view

Reader = Callable[[Path, Path, ImportOptions], Listing]

LAYOUTS: Mapping[str, Reader] = MappingProxyType(
    {
        "kaggle": layouts.read_split_folders,
        "folders": layouts.read_class_folders,
        "csv": tables.read_table,
        "rsna": tables.read_rsna,
        "medmnist": layouts.read_medmnist,
    }
)
"""Readers by layout; each takes the source, the data set's directory and the options."""


def import_dataset(
    source: Path | str,
    destination: Path | str,
    options: ImportOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Dataset:
    """Import labelled images from ``source`` into the data-set directory ``destination``.

    Args:
        source: a folder of images, a table, or a MedMNIST ``.npz`` file.
        destination: a new directory, or that of an earlier import of the same source, which is finished or
            brought up to date.
        options: layout, class names, name, workers; found out when None.
        progress: called with the number of images opened.

    Raises:
        DatasetError: the layout is not understood, no image is usable, or ``destination`` holds other things.
    """
    options = options or ImportOptions()
    source, destination = Path(source), Path(destination)
    if not source.exists():
        raise DatasetError("no such file or folder", where=source)
    _claim(destination, source)
    layout = options.layout or detect_layout(source, options)
    if layout not in LAYOUTS:
        raise ConfigError(f"unknown layout '{layout}'", expected=f"one of {', '.join(LAYOUTS)}")
    name = options.name or source.resolve().stem
    listing = LAYOUTS[layout](source, destination, options)
    if not listing.candidates:
        raise DatasetError(
            f"no image found{_most_often(listing.problems)}",
            where=source,
            expected="JPEG, PNG, TIFF, BMP or DICOM files in class folders, or a table that lists them",
        )
    write_header(destination, Header(name, layout, source, listing.root))
    samples, problems, remarks = _open_films(listing, destination, options.workers, progress)
    if not samples:
        raise DatasetError(f"no usable image{_most_often(problems)}", where=source)
    dataset = Dataset(
        directory=destination,
        root=listing.root,
        name=name,
        layout=layout,
        samples=samples,
        problems=tuple(sorted(problems, key=lambda problem: problem.path)),
        notes=(*listing.notes, *remarks),
        source=source,
    )
    dataset.save()
    return dataset


def open_or_import(
    path: Path, *, workspace: Path = Path("datasets"), progress: Progress | None = None
) -> Dataset:
    """Open a data-set directory, or import anything else into ``workspace/<name>-<8 hex of its path>``.

    Args:
        path: a data-set directory, a folder of images, a table or an ``.npz`` file.
        workspace: where imported data sets go; an earlier import of the same path is used again.
        progress: called while images are decoded.

    Raises:
        DatasetError: nothing usable is there.
    """
    path = Path(path)
    if (path / "dataset.json").is_file():
        return Dataset.open(path)
    resolved = path.resolve()
    directory = Path(workspace) / f"{resolved.stem}-{sha256_bytes(str(resolved).encode())[:8]}"
    if (directory / "dataset.json").is_file() and read_header(directory).get("complete"):
        return Dataset.open(directory)
    return import_dataset(path, directory, progress=progress)


def detect_layout(source: Path, options: ImportOptions | None = None) -> str:
    """The name of the layout that ``source`` has.

    Raises:
        DatasetError: none fits.
    """
    options = options or ImportOptions()
    if source.is_file():
        if source.suffix.lower() == ".npz":
            return "medmnist"
        return tables.table_layout(source)
    if layouts.find_split_folder(source):
        return "kaggle"
    if layouts.has_known_class_folder(source, options.class_map):
        return "folders"
    if layouts.find_archive(source):
        return "medmnist"
    if table := tables.find_table(source):
        return tables.table_layout(table)
    return "folders"


def _claim(destination: Path, source: Path) -> None:
    """Refuse a destination that is something else than an import of ``source``."""
    if destination.resolve().is_relative_to(source.resolve()):
        raise DatasetError(
            "the data set would be written into its own source",
            where=destination,
            remedy="give a folder outside it with -o",
        )
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    if not (destination / "dataset.json").is_file():
        raise DatasetError(
            "the destination holds something else",
            where=destination,
            expected="a new folder or an earlier import of the same source",
            remedy="give another folder with -o",
        )
    earlier = locate(destination, read_header(destination)["source"])
    if earlier != source.resolve():
        raise DatasetError(
            f"the destination holds an import of {earlier}",
            where=destination,
            remedy="give another folder with -o",
        )


def _open_films(
    listing: Listing, destination: Path, workers: int | None, progress: Progress | None
) -> tuple[tuple[Sample, ...], list[Problem], tuple[str, ...]]:
    """Open every candidate and fill the cache; the manifest's rows, the problems and remarks on both."""
    preprocessing = Preprocessing()
    candidates = sorted(listing.candidates, key=lambda candidate: _relative(candidate.file, listing.root))
    names = _film_names(candidates, listing.root)
    samples: list[Sample] = []
    problems = list(listing.problems)
    warnings: Counter[str] = Counter()
    alone = 0
    with CacheWriter(cache_directory(destination, preprocessing), preprocessing) as writer:
        films = decode_films(
            [candidate.file for candidate in candidates],
            preprocessing,
            known=frozenset(writer.facts),
            workers=workers,
        )
        for done, (candidate, name, film) in enumerate(zip(candidates, names, films, strict=True), start=1):
            path = _relative(candidate.file, listing.root)
            if film.error or film.sha256 is None:
                problems.append(Problem(path, film.error or "cannot be read"))
            else:
                writer.add(film)
                facts = writer.facts[film.sha256]
                warnings.update(facts.warnings)
                samples.append(_to_sample(candidate, path, name, film, facts))
                recognised = guangzhou_patient(name).recognised
                alone += candidate.patient_id is None and samples[-1].patient_id == name and not recognised
            if progress:
                progress(done, len(candidates))
    return tuple(samples), problems, tuple(_notes(samples, alone, warnings))


def _to_sample(candidate: Candidate, path: str, name: str, film: DecodedFilm, facts: FilmFacts) -> Sample:
    """The manifest row; what the layout does not say, the image's header may."""
    header = facts.source
    declared = candidate.patient_id or header.get("patient_id")
    patient = guangzhou_patient(name)
    return Sample(
        path=path,
        sha256=facts.sha256,
        patient_id=declared or patient.full,
        group_id=declared or patient.group,
        label=candidate.label,
        publisher_split=candidate.publisher_split,
        view=candidate.view or to_view(header.get("view_position", "")),
        age_years=candidate.age_years
        if candidate.age_years is not None
        else to_age(header.get("patient_age", "")),
        sex=candidate.sex or tables.to_sex(header.get("patient_sex", "")),
        site=candidate.site,
        width=facts.width,
        height=facts.height,
        file_bytes=film.file_bytes,
    )


def _film_names(candidates: Sequence[Candidate], root: Path) -> Iterator[str]:
    """What names an image's patient: the stem, or the path where images of several folders share a stem."""
    stems = Counter(candidate.file.stem for candidate in candidates)
    for candidate in candidates:
        stem = candidate.file.stem
        alone = stems[stem] == 1 or guangzhou_patient(stem).recognised
        yield stem if alone else os.path.splitext(_relative(candidate.file, root))[0]


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _notes(samples: Sequence[Sample], alone: int, warnings: Counter[str]) -> Iterator[str]:
    """Remarks on what had to be assumed and on what the images' reader warned of."""
    if alone:
        yield f"{alone} of {len(samples)} file names tell no patient; each such image is its own patient"
    for warning, count in warnings.most_common(5):
        yield f"{count} image{'s' if count > 1 else ''}: {warning}"


def _most_often(problems: Sequence[Problem]) -> str:
    """The commonest reason and how often it was met, as the end of a sentence."""
    if not problems:
        return ""
    reason, count = Counter(problem.reason for problem in problems).most_common(1)[0]
    return f"; of {len(problems)} files, {count}: {reason}"
