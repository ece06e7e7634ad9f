"""What is stored shows the same pixels and names nobody."""

import io
import struct
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian, JPEGBaseline8Bit

from pneumoscope.imaging.radiograph import image_format, read_radiograph
from pneumoscope_clinic.worker.deidentification import (
    _drop_unknown,
    deidentified,
    identifying_texts,
    identity_header,
    scrubbed,
)
from tests.clinic.films import dicom_film, jpeg_film, pixels, png_film


def after(tmp_path, content):
    """Pixels before and after, and the bytes after."""
    file, clean = tmp_path / "film", tmp_path / "clean"
    file.write_bytes(content)
    stored = deidentified(file.read_bytes(), image_format(file))
    clean.write_bytes(stored)
    return read_radiograph(file).pixels, read_radiograph(clean).pixels, stored


def tiff_film():
    out = io.BytesIO()
    Image.fromarray(pixels()).save(out, "TIFF", description="Canary description")
    return out.getvalue()


def bmp_film():
    out = io.BytesIO()
    Image.fromarray(pixels()).save(out, "BMP")
    return out.getvalue() + b"Canary trailer"


def deep_tiff():
    out = io.BytesIO()
    Image.fromarray(pixels().astype(np.uint16) * 257).save(out, "TIFF")
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        dicom_film(),
        jpeg_film(),
        jpeg_film(orientation=6),
        png_film(),
        tiff_film(),
        bmp_film(),
        deep_tiff(),
    ],
    ids=["dicom", "jpeg", "turned-jpeg", "png", "tiff", "bmp", "16-bit-tiff"],
)
def test_the_pixels_stay_and_the_names_go(tmp_path, content):
    before, stored_pixels, stored = after(tmp_path, content)
    tolerance = 0.02 if content[:2] == b"\xff\xd8" else 0
    assert np.abs(before - stored_pixels).max() <= tolerance
    assert b"anary" not in stored
    assert b"ANARY" not in stored


def test_an_upright_jpeg_is_not_compressed_again(tmp_path):
    before, stored_pixels, _ = after(tmp_path, jpeg_film())
    np.testing.assert_array_equal(before, stored_pixels)


def test_the_basic_profile_is_applied_to_dicom(tmp_path):
    original = pydicom.dcmread(io.BytesIO(dicom_film()))
    _, _, stored = after(tmp_path, dicom_film(SOPInstanceUID=original.SOPInstanceUID))
    clean = pydicom.dcmread(io.BytesIO(stored))
    assert clean.get("PatientName", "") == ""
    assert clean.SOPInstanceUID != original.SOPInstanceUID
    assert clean.file_meta.MediaStorageSOPInstanceUID == clean.SOPInstanceUID
    assert clean.get("InstitutionName", "") in ("", "ANONYMIZED")
    assert "PatientBirthDate" not in clean or clean.PatientBirthDate in ("", "00010101")
    assert not [element for element in clean if element.tag.is_private]
    assert (clean.Modality, clean.Rows, clean.Columns) == ("CR", 120, 160)


def test_a_dataset_without_a_file_header(tmp_path):
    dataset = pydicom.dcmread(io.BytesIO(dicom_film()))
    del dataset.file_meta
    out = io.BytesIO()
    dataset.save_as(out, implicit_vr=True, little_endian=True)
    before, stored_pixels, stored = after(tmp_path, out.getvalue())
    np.testing.assert_array_equal(before, stored_pixels)
    assert b"anary" not in stored


def test_the_header_for_results_has_the_patient_and_no_pixels():
    dataset = pydicom.dcmread(io.BytesIO(dicom_film()))
    header = identity_header(dataset)
    again = pydicom.Dataset.from_json(header)
    assert str(again.PatientName) == "Canary^Coalmine"
    assert again.StudyInstanceUID == dataset.StudyInstanceUID
    assert "PixelData" not in again
    assert not [element for element in again if element.tag.is_private]


def test_a_damaged_element_costs_only_itself():
    dataset = pydicom.dcmread(io.BytesIO(dicom_film()))
    damaged = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag("BitsStored"), "US", 3, b"\x01\x02\x03", 0, False, True, True
    )
    dataset._dict[damaged.tag] = damaged
    header = identity_header(dataset)
    assert "00280101" not in header
    assert header["00100020"]["Value"] == ["CANARY-0815"]


def test_names_are_taken_out_of_texts():
    header = identity_header(pydicom.dcmread(io.BytesIO(dicom_film())))
    names = identifying_texts(header)
    assert {"Canary^Coalmine", "Coalmine", "CANARY-0815", "CANARY-INNER", "20211224"} <= names
    text = "The value 'Canary^Coalmine' of CANARY-0815 (20211224) is odd; the modality is CR"
    assert scrubbed(text, names) == "The value '…' of … (…) is odd; the modality is CR"


def saved(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


GREY = Image.fromarray(pixels())
DEEP = Image.fromarray(pixels().astype(np.uint16) * 257)


@pytest.mark.parametrize(
    "content",
    [
        saved(Image.fromarray(pixels() / np.float32(255)), "TIFF"),
        saved(GREY.convert("CMYK"), "TIFF"),
        saved(DEEP, "TIFF", tiffinfo={262: 0}),
        saved(GREY, "TIFF", exif=turned()),
        saved(GREY, "PNG", exif=turned()),
        saved(GREY.convert("CMYK"), "JPEG", exif=turned()),
    ],
    ids=[
        "real",
        "cmyk",
        "white-is-zero",
        "turned-tiff",
        "turned-png",
        "turned-cmyk-jpeg",
    ],
)
def test_every_kind_of_picture_stays_what_it_is(tmp_path, content):
    before, stored_pixels, stored = after(tmp_path, content)
    np.testing.assert_array_equal(before, stored_pixels)
    assert b"anary" not in stored


def test_a_png_whose_chunks_are_out_of_order_is_written_anew(tmp_path):
    content = saved(GREY, "PNG")
    head = content[8:33]
    before, stored_pixels, stored = after(tmp_path, content[:8] + head + head + content[33:])
    np.testing.assert_array_equal(before, stored_pixels)
    assert stored.count(b"IHDR") == 1


def test_indices_beyond_the_palette_stay_black(tmp_path):
    content = bytearray(saved(GREY, "BMP"))
    content[46:50] = struct.pack("<I", 2)  # colours in the palette, which begins at byte 54
    before, stored_pixels, stored = after(tmp_path, bytes(content))
    assert before.max() < pixels().max() / 255
    np.testing.assert_array_equal(before, stored_pixels)
    assert stored.startswith(b"\x89PNG")


def test_transparent_indices_beyond_the_palette(tmp_path):
    picture = Image.fromarray(pixels() // 64, "P")
    picture.putpalette([0, 0, 0] * 256)
    picture.info["transparency"] = bytes((0, 128))
    content = saved(picture, "PNG")
    start = content.index(b"PLTE") - 4
    end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    white = b"PLTE" + b"\xff" * 6  # two colours
    palette = struct.pack(">I", 6) + white + struct.pack(">I", zlib.crc32(white))
    before, stored_pixels, stored = after(tmp_path, content[:start] + palette + palette + content[end:])
    assert len(np.unique(before)) > 1
    np.testing.assert_array_equal(before, stored_pixels)
    assert stored.count(b"PLTE") == 0


def test_a_compressed_film_whose_end_is_inside_a_comment_stays_what_it_is(tmp_path):
    dataset = pydicom.dcmread(io.BytesIO(dicom_film()))
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    frame = saved(GREY, "JPEG", comment=b"Canary comment")
    dataset.PixelData = encapsulate([frame[:-2] + b"\xff\xfe\x7f\xffCanary" + frame[-2:]])
    out = io.BytesIO()
    dataset.save_as(out)
    before, stored_pixels, stored = after(tmp_path, out.getvalue())
    np.testing.assert_array_equal(before, stored_pixels)
    assert b"anary" not in stored


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.replace(b"\x20\x00\x0d\x00UI", b"\x20\x00\x0d\x00LO"),
        lambda content: content.replace(b"\x10\x00\x10\x00PN", b"\x10\x00\x10\x00DS"),
        lambda content: content.replace(b"\x08\x00\x05\x00", b"\x02\x00\x02\x00"),
    ],
    ids=["a UID as text", "a name as a number", "meta information inside"],
)
def test_elements_that_are_not_what_they_say_go(tmp_path, change):
    content = dicom_film(SpecificCharacterSet="ISO_IR 100")
    assert change(content) != content
    before, stored_pixels, stored = after(tmp_path, change(content))
    np.testing.assert_array_equal(before, stored_pixels)
    assert b"anary" not in stored
    assert b"ANARY" not in stored


def test_a_number_does_not_become_a_word(tmp_path):
    """A file of implicit representations with one that is explicit: read as a number, written as a word."""
    dataset = pydicom.dcmread(io.BytesIO(dicom_film()))
    dataset.PresentationLUTShape = "INVERSE"
    out = io.BytesIO()
    dataset.save_as(out)
    content = out.getvalue().replace(b"\x50\x20\x20\x00CS", b"\x50\x20\x20\x00FD")
    content = content.replace(b"INVERSE ", struct.pack("<d", 1.5))
    number = pydicom.dcmread(io.BytesIO(content))
    assert number.PresentationLUTShape == 1.5
    _drop_unknown(number)
    assert "PresentationLUTShape" not in number
    before, stored_pixels, _ = after(tmp_path, content)
    np.testing.assert_array_equal(before, stored_pixels)


@pytest.mark.films
def test_real_dicom_films(films_folder, tmp_path):
    files = sorted((films_folder / "dicom" / "chest").rglob("*.dcm"))[:4]
    assert files
    for file in files:
        before, stored_pixels, stored = after(tmp_path, file.read_bytes())
        np.testing.assert_array_equal(before, stored_pixels)
        name = str(pydicom.dcmread(file).get("PatientID", "")).strip()
        assert len(name) < 4 or name.encode() not in stored


def test_implicit_little_endian_stays_readable(tmp_path):
    dataset = pydicom.dcmread(io.BytesIO(dicom_film()))
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    out = io.BytesIO()
    dataset.save_as(out, implicit_vr=True, little_endian=True, enforce_file_format=True)
    before, stored_pixels, _ = after(tmp_path, out.getvalue())
    np.testing.assert_array_equal(before, stored_pixels)
