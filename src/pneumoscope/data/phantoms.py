"""Write a data set of synthetic chest radiographs (JPEG, PNG or DICOM) for demos and tests.

Lesion masks lie in the sibling folder ``<folder>-masks`` (same relative paths, ``.png``, only for images with
a lesion) beside a README that says what they are. Every file carries a watermark in its metadata.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin
from pydantic import Field as Limits
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)
from scipy import ndimage

from pneumoscope.core.config import Config
from pneumoscope.core.errors import DatasetError
from pneumoscope.core.files import atomic_path, write_text
from pneumoscope.core.records import FloatArray, Label, Progress
from pneumoscope.data.phantom_drawing import Phantom, PhantomConfig, draw_phantom, sample_anatomy

WATERMARK = "SYNTHETIC PHANTOM, drawn by pneumoscope; not a patient, no medical content"

_FILM_HEIGHT_MM = 300.0
"""Height of image that a phantom stands for (a 24 x 30 cm cassette, a usual size for small children)."""


@dataclass(frozen=True)
class FilmIdentity:
    """What an image's metadata claims; a phantom's age and sex are drawn at random and mean nothing."""

    patient_id: str
    film_id: str
    age_years: int
    sex: str
    view: str = "AP"


def write_jpeg(file: Path, pixels: FloatArray, quality: int) -> None:
    """Write 8-bit grey JPEG with the watermark as comment and EXIF image description (tag 0x010E)."""
    exif = Image.Exif()
    exif[0x010E] = WATERMARK
    with atomic_path(file) as temporary:
        Image.fromarray(_to_uint8(pixels)).save(
            temporary, format="JPEG", quality=quality, comment=WATERMARK.encode(), exif=exif
        )


def write_png(file: Path, pixels: FloatArray) -> None:
    """Write 8-bit grey PNG with the watermark as text."""
    _save_png(file, _to_uint8(pixels))


def write_mask(file: Path, mask: npt.NDArray[np.bool_]) -> None:
    """Write a mask as PNG: 255 in the lesion, 0 elsewhere."""
    _save_png(file, mask.astype(np.uint8) * 255)


def _save_png(file: Path, pixels: npt.NDArray[np.uint8]) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", WATERMARK)
    with atomic_path(file) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=text)


def write_dicom(file: Path, pixels: FloatArray, identity: FilmIdentity, *, inverted: bool = False) -> None:
    """Write a digital radiograph (DX for presentation, PS3.3 A.26), 12 bits, uncompressed.

    Args:
        file: path ending in ``.dcm``.
        pixels: (H, W) in [0, 1], bright = dense.
        identity: patient and image.
        inverted: store as MONOCHROME1, with the values turned round, so that a correct reader shows the same.
    """
    stored = np.round(pixels * 4095).astype(np.uint16)
    dataset = _dicom_header(identity)
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.Rows, dataset.Columns = stored.shape
    spacing = _FILM_HEIGHT_MM / stored.shape[0]
    dataset.ImagerPixelSpacing = [f"{spacing:.6g}", f"{spacing:.6g}"]
    dataset.PixelData = (4095 - stored if inverted else stored).astype("<u2").tobytes()
    with atomic_path(file) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def _dicom_header(identity: FilmIdentity) -> FileDataset:
    uid = {kind: generate_uid(entropy_srcs=[WATERMARK, identity.film_id, kind]) for kind in ("1", "2", "3")}
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid["1"]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "PRIMARY"],
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": uid["1"],
        "SeriesInstanceUID": uid["2"],
        "StudyInstanceUID": uid["3"],
        "Modality": "DX",
        "PresentationIntentType": "FOR PRESENTATION",
        "Manufacturer": "pneumoscope phantom",
        "StudyDescription": "SYNTHETIC PHANTOM",
        "ImageComments": WATERMARK,
        "PatientName": "PHANTOM^SYNTHETIC",
        "PatientID": identity.patient_id,
        "PatientSex": identity.sex,
        "PatientAge": f"{identity.age_years:03d}Y",
        "BodyPartExamined": "CHEST",
        "ViewPosition": identity.view,
        "BurnedInAnnotation": "YES",
        "InstanceNumber": 1,
        "SamplesPerPixel": 1,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelIntensityRelationship": "LOG",
        "PixelIntensityRelationshipSign": 1,
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "RescaleType": "US",
        "WindowCenter": 2048,
        "WindowWidth": 4096,
        "LossyImageCompression": "00",
    }
    empty = (
        "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "StudyID",
        "SeriesNumber", "PatientOrientation",
    )  # fmt: skip
    for name, value in (values | dict.fromkeys(empty)).items():
        setattr(dataset, name, value)
    return dataset


def _to_uint8(pixels: FloatArray) -> npt.NDArray[np.uint8]:
    return np.round(pixels * 255).astype(np.uint8)


class WriteConfig(Config):
    """What to write.

    Attributes:
        count: images in all.
        size: height of an image in pixels.
        seed: of everything; the same seed gives the same images.
        films_per_patient: each patient has 1 to this many images, all of one label. The ``dicom`` layout has
            one image a patient, as the RSNA set has.
        layout: ``kaggle`` (train and test folders of NORMAL and PNEUMONIA, JPEG, patient and etiology in the
            file names), ``csv`` (PNG and labels.csv) or ``dicom`` (DICOM and an RSNA-style CSV with boxes).
        test_fraction: share of the patients that the ``kaggle`` layout puts into ``test``.
        shares: relative number of normal, bacterial and viral patients.
        aspect_range: images are this many times as wide as high, whatever their label.
        phantom: how the images vary; its ``aspect`` is not used.
    """

    count: int = Limits(default=300, ge=1)
    size: int = Limits(default=224, ge=16, le=4096)
    seed: int = Limits(default=0, ge=0)
    films_per_patient: int = Limits(default=2, ge=1, le=20)
    layout: Literal["kaggle", "csv", "dicom"] = "kaggle"
    test_fraction: float = Limits(default=0.2, ge=0, lt=1)
    shares: tuple[float, float, float] = (0.34, 0.33, 0.33)
    aspect_range: tuple[float, float] = (1.0, 1.3)
    phantom: PhantomConfig = PhantomConfig()


@dataclass(frozen=True)
class _Film:
    """One image of the plan. Patient numbers start at 1 and are unique in the whole data set."""

    patient: int
    number: int
    index: int
    label: Label
    part: str
    age_years: int
    sex: str


def write_phantoms(
    folder: Path, config: WriteConfig | None = None, *, progress: Progress | None = None
) -> Path:
    """Write a data set of phantoms and return ``folder``.

    Raises:
        DatasetError: ``folder`` or its masks folder exists and is not empty.
    """
    config = config or WriteConfig()
    folder = Path(folder)
    masks = folder.with_name(f"{folder.name}-masks")
    for directory in (folder, masks):
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise DatasetError(
                "the folder for the phantoms is not empty", where=directory, remedy="name a new folder"
            )
    plan = _plan(config)
    write_text(masks / "README.txt", _readme(config))
    boxes: list[list[tuple[int, int, int, int]]] = []
    for done, film in enumerate(plan, start=1):
        phantom = _draw(film, config)
        name = _relative_path(film, config.layout)
        _write_film(folder / name, phantom, film, config)
        if phantom.lesion_mask.any():
            write_mask((masks / name).with_suffix(".png"), phantom.lesion_mask)
        boxes.append(_boxes(phantom.lesion_mask))
        if progress:
            progress(done, len(plan))
    if config.layout == "csv":
        write_text(folder / "labels.csv", _labels_csv(plan))
    if config.layout == "dicom":
        write_text(folder / "stage_2_train_labels.csv", _rsna_csv(plan, boxes))
    return folder


def _plan(config: WriteConfig) -> tuple[_Film, ...]:
    """Who gets which images: patients are dealt their label and part before anything is drawn."""
    rng = np.random.default_rng([config.seed, 0])
    labels = (Label.NORMAL, Label.BACTERIAL, Label.VIRAL)
    weights = np.array(config.shares) / sum(config.shares)
    most = 1 if config.layout == "dicom" else config.films_per_patient
    films: list[_Film] = []
    given = np.zeros(3)
    tested = np.zeros(3)
    patients = np.zeros(3)
    while len(films) < config.count:
        kind = int(np.argmax(weights * (given.sum() + 1) - given))
        patients[kind] += 1
        test = tested[kind] + 0.5 < config.test_fraction * patients[kind]
        tested[kind] += test
        number = min(int(rng.integers(1, most + 1)), config.count - len(films))
        given[kind] += number
        age, sex = int(rng.integers(1, 6)), str(rng.choice(["F", "M"]))
        films += [
            _Film(
                int(patients.sum()),
                film,
                len(films) + film,
                labels[kind],
                "test" if test else "train",
                age,
                sex,
            )
            for film in range(1, number + 1)
        ]
    return tuple(films)


def _draw(film: _Film, config: WriteConfig) -> Phantom:
    patient_rng = np.random.default_rng([config.seed, 1, film.patient])
    film_rng = np.random.default_rng([config.seed, 2, film.index])
    variation = config.phantom.model_copy(update={"aspect": film_rng.uniform(*config.aspect_range)})
    return draw_phantom(
        film.label, film_rng, config.size, config=variation, anatomy=sample_anatomy(patient_rng)
    )


def _patient_id(film: _Film) -> str:
    return f"PHANTOM-{film.patient:05d}"


def _relative_path(film: _Film, layout: str) -> str:
    """File name as the layout's publisher has it (Guangzhou names for ``kaggle``)."""
    if layout == "csv":
        return f"images/phantom-{film.index:05d}.png"
    if layout == "dicom":
        return f"stage_2_train_images/{_patient_id(film)}.dcm"
    if film.label is Label.NORMAL:
        return f"{film.part}/NORMAL/IM-{film.patient:04d}-{film.number:04d}.jpeg"
    cause = "bacteria" if film.label is Label.BACTERIAL else "virus"
    return f"{film.part}/PNEUMONIA/person{film.patient}_{cause}_{film.index}.jpeg"


def _write_film(file: Path, phantom: Phantom, film: _Film, config: WriteConfig) -> None:
    rng = np.random.default_rng([config.seed, 3, film.index])
    if config.layout == "kaggle":
        write_jpeg(file, phantom.pixels, quality=int(rng.integers(80, 96)))
    elif config.layout == "csv":
        write_png(file, phantom.pixels)
    else:
        identity = FilmIdentity(
            _patient_id(film), f"{config.seed}/{config.size}/{film.index}", film.age_years, film.sex
        )
        write_dicom(file, phantom.pixels, identity, inverted=bool(rng.random() < 0.3))


def _labels_csv(plan: Sequence[_Film]) -> str:
    return _csv(
        ("file", "patient_id", "label", "age_years", "sex", "view"),
        ((_relative_path(f, "csv"), _patient_id(f), f.label.value, f.age_years, f.sex, "AP") for f in plan),
    )


def _rsna_csv(plan: Sequence[_Film], boxes: Sequence[Sequence[tuple[int, int, int, int]]]) -> str:
    """One row a box, or one row without a box for an image without a lesion, as the RSNA challenge has it."""
    rows: list[tuple[object, ...]] = []
    for film, own in zip(plan, boxes, strict=True):
        target = int(film.label is not Label.NORMAL)
        rows += [(_patient_id(film), *box, target) for box in own] or [(_patient_id(film), *[""] * 4, target)]
    return _csv(("patientId", "x", "y", "width", "height", "Target"), rows)


def _boxes(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """(x, y, width, height) in pixels of each connected part of a mask."""
    parts = ndimage.find_objects(ndimage.label(mask)[0])
    return [(int(c.start), int(r.start), int(c.stop - c.start), int(r.stop - r.start)) for r, c in parts]


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _readme(config: WriteConfig) -> str:
    return (
        f"{WATERMARK}.\n\n"
        "These pictures were computed from random numbers to try software out. They show nobody. Ages and\n"
        "sexes are random. What holds on them says nothing about real radiographs.\n\n"
        f"layout {config.layout}, {config.count} images, {config.size} pixels high, seed {config.seed}\n"
        "Lesion masks lie in the sibling folder that ends in -masks (255 in the lesion).\n"
    )
