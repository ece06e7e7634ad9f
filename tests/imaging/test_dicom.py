"""Whole DICOM files: facts, warnings, and everything that must end in a clean error."""

from __future__ import annotations

import base64
import io
import re
import zlib

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.core.findings import Finding, Severity
from pneumoscope.imaging.radiograph import image_format
from tests.imaging.dicom_builder import COMPRESSED, radiograph, ramp, read_dicom, write

WINDOW = {"WindowCenter": 128, "WindowWidth": 256}


def film(**elements):
    return radiograph(ramp(8), 8, **{**WINDOW, **elements})


def compressed(frame, syntax, **elements):
    """A data set whose only frame is ``frame``, whatever it says."""
    dataset = film(**elements)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame + b"\x00" * (len(frame) % 2)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def saved(dataset, path):
    dataset.save_as(path, enforce_file_format=True)
    return path


def jpeg(shape=(20, 24)):
    stream = io.BytesIO()
    Image.fromarray(ramp(8, shape=shape)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_source_spacing_and_size(tmp_path):
    path = write(film(PixelSpacing=[0.14, 0.15], Manufacturer="Maker"), tmp_path / "film.dcm")
    result = read_dicom(path)
    assert dict(result.source) == {
        "format": "DICOM",
        "transfer_syntax": "Explicit VR Little Endian",
        "modality": "CR",
        "body_part": "CHEST",
        "view_position": "PA",
        "photometric_interpretation": "MONOCHROME2",
        "bits_stored": "8",
        "bits_allocated": "8",
        "patient_id": "child-7",
        "patient_age": "003Y",
        "patient_sex": "F",
        "manufacturer": "Maker",
        "sop_class_uid": uid.ComputedRadiographyImageStorage,
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.1",
        "sop_instance_uid": "1.2.3.4",
    }
    assert result.original_size == (20, 24)
    assert result.pixel_spacing_mm == (0.14, 0.15)
    assert result.findings == ()
    assert not result.pixels.flags.writeable


@pytest.mark.parametrize(
    ("elements", "age"),
    [
        ({"PatientBirthDate": "19400305", "StudyDate": "20040826"}, "064Y"),
        ({"PatientBirthDate": "19400827", "StudyDate": "20040826"}, "063Y"),
        ({"PatientBirthDate": "20200229", "AcquisitionDate": "20200310", "StudyDate": "20250101"}, "010D"),
        ({"PatientBirthDate": "20200101", "StudyDate": "20211231"}, "730D"),
        ({"PatientBirthDate": "20200101", "StudyDate": "20191231"}, None),
        ({"PatientBirthDate": "18000101", "StudyDate": "20191231"}, None),
        ({"PatientBirthDate": "2020", "StudyDate": "20191231"}, None),
        ({"PatientBirthDate": "20200101"}, None),
        ({"PatientAge": "005Y", "PatientBirthDate": "19400305", "StudyDate": "20040826"}, "005Y"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR DA")
def test_the_age_follows_from_birth_date_and_day_of_the_film(tmp_path, elements, age):
    path = write(film(**{"PatientAge": None, **elements}), tmp_path / "film.dcm")
    source = read_dicom(path).source
    assert source.get("patient_age") == age
    assert "19400305" not in str(source)


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({}, None),
        ({"ImagerPixelSpacing": [0.1, 0.2]}, (0.1, 0.2)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.1, 0.2]}, (0.1, 0.2)),
        ({"PixelSpacing": [0.3, 0.4], "ImagerPixelSpacing": [0.1, 0.2]}, (0.3, 0.4)),
        ({"NominalScannedPixelSpacing": [0.5, 0.5]}, (0.5, 0.5)),
        ({"PixelSpacing": "0.3"}, None),
        ({"PixelSpacing": [0.3, 0.3, 0.3], "ImagerPixelSpacing": [0.1, 0.2]}, (0.1, 0.2)),
    ],
)
def test_pixel_spacing(tmp_path, elements, spacing):
    assert read_dicom(write(film(**elements), tmp_path / "film.dcm")).pixel_spacing_mm == spacing


@pytest.mark.parametrize(
    ("elements", "finding"),
    [
        ({"Modality": "CT"}, Finding.refusal("modality-not-projection", modality="CT")),
        ({"Modality": "OT"}, Finding.warning("modality-unspecific", modality="OT")),
        ({"Modality": None}, Finding.warning("modality-missing")),
        ({"BodyPartExamined": "HAND"}, Finding.refusal("body-part-not-chest", body_part="HAND")),
        ({"ViewPosition": "LL"}, Finding.refusal("view-lateral", view="LL")),
        ({"ViewPosition": "LATERAL"}, Finding.refusal("view-lateral", view="LATERAL")),
        ({"ViewPosition": "RLD"}, Finding.warning("view-decubitus-or-oblique", view="RLD")),
        (
            {"ViewPosition": None, "PatientOrientation": ["A", "F"]},
            Finding.warning("orientation-lateral"),
        ),
    ],
)
def test_what_speaks_against_a_frontal_chest_radiograph_is_a_finding(tmp_path, elements, finding):
    assert read_dicom(write(film(**elements), tmp_path / "film.dcm")).findings == (finding,)


@pytest.mark.parametrize(
    "elements",
    [
        {"Modality": "DX", "ViewPosition": "AP"},
        {"BodyPartExamined": None, "ViewPosition": None},
        {"BodyPartExamined": "PORT CHEST"},
        {"ViewPosition": None, "PatientOrientation": ["L", "F"]},
    ],
)
def test_ordinary_radiographs_have_no_finding(tmp_path, elements):
    assert read_dicom(write(film(**elements), tmp_path / "film.dcm")).findings == ()


def test_library_warnings_come_with_the_film(tmp_path):
    path = write(film(), tmp_path / "film.dcm")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"1.2.3.1", b"A.2.3.1"))
    (finding,) = read_dicom(path).findings
    assert (finding.code, finding.severity) == ("library-warning", Severity.NOTE)
    assert finding.params["library"] == "pydicom"
    assert "A.2.3.1" in finding.params["text"]


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("with_meta", [True, False])
def test_files_without_preamble(tmp_path, implicit, with_meta):
    syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
    dataset = film()
    whole = write(dataset, tmp_path / "whole.dcm", syntax)
    bare = tmp_path / "bare"
    if with_meta:
        bare.write_bytes(whole.read_bytes()[132:])
    else:
        plain = Dataset(dcmread(whole))
        plain.save_as(bare, implicit_vr=implicit, little_endian=True)
    assert image_format(bare) == "DICOM"
    np.testing.assert_array_equal(read_dicom(bare).pixels, read_dicom(whole).pixels)
    assert read_dicom(bare).source["transfer_syntax"] == syntax.name


def test_is_dicom_by_content(tmp_path):
    other = tmp_path / "film.dcm"
    for content in (b"\x08\x00", jpeg(), b"\x08\x00\x05\x00 not an element", b"text " * 40):
        other.write_bytes(content)
        assert image_format(other) != "DICOM"
    assert image_format(write(film(), tmp_path / "film.jpg")) == "DICOM"


def test_twelve_bit_lossy_jpeg_is_close_to_the_original(tmp_path):
    stored = ramp(12, shape=(64, 64))
    dataset = radiograph(stored, 12, WindowCenter=2048, WindowWidth=4096)
    result = read_dicom(write(dataset, tmp_path / "film.dcm", uid.JPEGExtended12Bit))
    assert result.source["transfer_syntax"] == uid.JPEGExtended12Bit.name
    assert np.abs(result.pixels - stored / 4095).max() < 0.01


# ramp(12, shape=(16, 16)), encoded losslessly by OpenJPH 0.26.3.
HTJ2K = (
    "/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wA"
    "EyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAKUAAf+TwAAmP/YFB3QAAMAAEsAA"
    "E0AAEYAiAYd0AFjyA4d0AABjAMAAE0AAE8AAEYAUyAECdAAmiZIAw1QAACMAwAAVUAAFbAABKACBZBiAS8CIdgAAQEhBCiLI"
    "gpQPeaYA44C+5ADAACugABa0AAJwvAMPvOf+3kU+LD2SyAAAIAAAAAAAAADg2ZCAe/ZCAeyw0ywAwfhgCcymAP/Z"
)


@pytest.mark.parametrize("syntax", [uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL])
def test_high_throughput_jpeg_2000_is_exact(tmp_path, syntax):
    stored = ramp(12, shape=(16, 16))
    dataset = radiograph(stored, 12, WindowCenter=2048, WindowWidth=4096)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([base64.b64decode(HTJ2K)])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    path = saved(dataset, tmp_path / "film.dcm")
    np.testing.assert_allclose(read_dicom(path).pixels, stored / 4095, atol=1e-6)


def test_baseline_jpeg_is_what_pillow_decodes(tmp_path):
    path = saved(compressed(jpeg(), uid.JPEGBaseline8Bit), tmp_path / "film.dcm")
    decoded = np.asarray(Image.open(io.BytesIO(jpeg())))
    np.testing.assert_allclose(read_dicom(path).pixels, decoded / 255, atol=1e-6)


class TestRefused:
    """Clean errors, never a wrong picture."""

    def refused(self, path, words):
        with pytest.raises(UnreadableFileError) as error:
            read_dicom(path)
        assert re.search(words, error.value.problem + f" (expected {error.value.expected})")
        assert error.value.where == str(path)

    def test_empty(self, tmp_path):
        (tmp_path / "film.dcm").write_bytes(b"")
        self.refused(tmp_path / "film.dcm", "empty")

    @pytest.mark.parametrize(
        "syntax", [uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, *COMPRESSED]
    )
    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.98])
    def test_truncated(self, tmp_path, syntax, share):
        noise = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
        path = write(radiograph(noise, 12), tmp_path / "film.dcm", syntax)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        self.refused(path, "decoded|no image")

    def test_several_frames(self, tmp_path):
        stored = np.concatenate([ramp(8), ramp(8)])
        dataset = radiograph(stored, 8, Rows=20, NumberOfFrames=2)
        self.refused(write(dataset, tmp_path / "film.dcm"), "2 frames")

    def test_no_picture(self, tmp_path):
        dataset = film(PixelData=None, SOPClassUID=uid.BasicTextSRStorage)
        self.refused(write(dataset, tmp_path / "film.dcm"), "no image .Basic Text SR")

    @pytest.mark.parametrize(("rows", "columns"), [(0, 24), (15, 24), (20, 3)])
    def test_too_small(self, tmp_path, rows, columns):
        dataset = film(Rows=rows, Columns=columns)
        self.refused(write(dataset, tmp_path / "film.dcm"), "at least 16")

    def test_absurd_size_before_decoding(self, tmp_path):
        dataset = film(Rows=65535, Columns=65535)
        self.refused(write(dataset, tmp_path / "film.dcm"), "65535 x 65535 pixels and was not decoded")

    def test_deflated_bomb(self, tmp_path, monkeypatch):
        monkeypatch.setattr("pneumoscope.imaging.dicom.MAX_FILE_BYTES", 1 << 20)
        path = write(film(), tmp_path / "film.dcm", uid.DeflatedExplicitVRLittleEndian)
        head = path.read_bytes()[: 144 + dcmread(path).file_meta.FileMetaInformationGroupLength]
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        path.write_bytes(head + deflater.compress(bytes(1 << 26)) + deflater.flush())
        self.refused(path, "decompression bomb")

    def test_more_than_16_bits(self, tmp_path):
        stored = np.zeros((20, 24), np.uint32)
        dataset = radiograph(stored, 32)
        self.refused(write(dataset, tmp_path / "film.dcm"), "32 bits")

    def test_pixel_data_shorter_than_the_header_says(self, tmp_path):
        self.refused(write(film(Rows=40), tmp_path / "film.dcm"), "decoded")

    def test_frame_of_another_size(self, tmp_path):
        path = saved(compressed(jpeg((40, 24)), uid.JPEGBaseline8Bit), tmp_path / "film.dcm")
        self.refused(path, "40 x 24 pixels.*header says 20 x 24")

    def test_frame_of_more_bits_than_allocated(self, tmp_path):
        stream = io.BytesIO()
        Image.fromarray(ramp(16)).save(stream, "JPEG2000", no_jp2=True)
        path = saved(compressed(stream.getvalue(), uid.JPEG2000Lossless), tmp_path / "film.dcm")
        self.refused(path, "16 bits per sample, the DICOM header allocates 8")

    def test_frame_that_is_no_jpeg(self, tmp_path):
        for syntax in (uid.JPEGBaseline8Bit, uid.JPEGLSLossless, uid.JPEG2000):
            path = saved(compressed(b"nonsense\xff\xd9", syntax), tmp_path / "film.dcm")
            self.refused(path, "does not start as JPEG")

    def test_rle_that_ends_early(self, tmp_path):
        path = saved(compressed(bytes(64) + b"\x01\x02", uid.RLELossless), tmp_path / "film.dcm")
        self.refused(path, "decoded")

    def test_unknown_photometric_interpretation(self, tmp_path):
        self.refused(write(film(PhotometricInterpretation="HSV"), tmp_path / "film.dcm"), "HSV|decoded")

    def test_segmented_palette(self, tmp_path):
        path = write(film(PhotometricInterpretation="PALETTE COLOR"), tmp_path / "film.dcm")
        self.refused(path, "palette")

    def test_short_look_up_table(self, tmp_path):
        item = Dataset()
        item.LUTDescriptor, item.LUTData = [50, 0, 16], [1, 2, 3]
        item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
        self.refused(write(film(VOILUTSequence=[item]), tmp_path / "film.dcm"), "3 entries")

    def test_random_content_behind_the_prefix(self, tmp_path):
        path = tmp_path / "film.dcm"
        for seed in range(30):
            noise = np.random.default_rng(seed).bytes(4000)
            path.write_bytes(bytes(128) + b"DICM" + noise)
            self.refused(path, "decoded|no image")


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, *COMPRESSED])
def test_flipped_bytes_give_a_film_or_a_clean_error(tmp_path, syntax):
    stored = ramp(12, shape=(32, 32))
    path = write(radiograph(stored, 12), tmp_path / "film.dcm", syntax)
    content = path.read_bytes()
    outcomes = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        for position in rng.integers(132, len(content), 8):
            damaged[position] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            result = read_dicom(path)
        except UnreadableFileError:
            outcomes.add("error")
        else:
            assert np.isfinite(result.pixels).all()
            assert result.pixels.min() >= 0
            assert result.pixels.max() <= 1
            outcomes.add("film")
    assert "error" in outcomes


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept", "PixelPaddingValue"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_that_is_none_is_refused(tmp_path, keyword, value):
    """It would make pixels that are none, and an answer about them."""
    dataset = radiograph(ramp(12), 12)
    dataset.add_new(keyword, "DS", "1")
    dataset[keyword]._value = value
    file = write(dataset, tmp_path / "film.dcm")
    with pytest.raises(UnreadableFileError, match="not a finite number"):
        read_dicom(file)
