"""Any image file: the content decides, the import is cheap, real images of every flavour."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.core.findings import Finding
from pneumoscope.imaging.decoding import collected_warnings
from pneumoscope.imaging.radiograph import image_format, read_radiograph
from tests.imaging.dicom_builder import radiograph, ramp, write

MODALITY = {"modality-not-projection", "modality-unspecific", "modality-missing"}


@pytest.fixture
def picture(chest):
    return Image.fromarray(np.rint(chest * 255).astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_content_decides_not_the_name(tmp_path, picture, kind):
    path = tmp_path / "film.dcm"
    picture.save(path, kind)
    film = read_radiograph(path)
    assert image_format(path) == film.source["format"] == kind
    assert film.original_size == (240, 200)
    assert film.findings == ()


def test_dicom_under_any_name(tmp_path):
    path = write(radiograph(ramp(12), 12), tmp_path / "film.png")
    assert image_format(path) == "DICOM"
    assert read_radiograph(str(path)).source["format"] == "DICOM"


def test_min_size_reaches_the_jpeg_decoder(tmp_path, picture):
    picture.resize((1000, 1200)).save(tmp_path / "film.jpg")
    assert read_radiograph(tmp_path / "film.jpg", min_size=100).pixels.shape == (300, 250)


def test_negative_is_noticed_and_not_changed(tmp_path, chest):
    negative = np.rint((1 - chest) * 255).astype(np.uint8)
    Image.fromarray(negative).save(tmp_path / "film.png")
    film = read_radiograph(tmp_path / "film.png")
    np.testing.assert_allclose(film.pixels, negative / 255, atol=1e-6)
    assert film.findings == (Finding.warning("looks-negative"),)
    tagged = radiograph(
        255 - negative, 8, PhotometricInterpretation="MONOCHROME1", WindowCenter=128, WindowWidth=256
    )
    film = read_radiograph(write(tagged, tmp_path / "film.dcm"))
    np.testing.assert_allclose(film.pixels, negative / 255, atol=1e-6)
    assert film.findings == (Finding.warning("looks-negative", photometric_interpretation="MONOCHROME1"),)


def test_files_that_are_no_image(tmp_path):
    def code(path):
        with pytest.raises(UnreadableFileError) as caught:
            read_radiograph(path)
        return caught.value.code

    file = tmp_path / "film.png"
    for content in (b"%PDF-1.7", b"GIF89a" + bytes(200), b"PK\x03\x04", b"just text\n" * 30, b"\x00" * 500):
        file.write_bytes(content)
        assert code(file) == "not-an-image"
    assert code(tmp_path / "missing.png") == "file-missing"
    assert code(tmp_path) == "file-is-folder"
    file.write_bytes(b"")
    assert code(file) == "file-empty"


def test_every_source_of_one_image_is_one_radiograph(tmp_path, picture):
    picture.save(tmp_path / "film.png")
    content = (tmp_path / "film.png").read_bytes()
    film = read_radiograph(tmp_path / "film.png")
    assert film.sha256 == hashlib.sha256(content).hexdigest()
    assert read_radiograph(content).sha256 == film.sha256
    pixels = np.asarray(picture)
    sources = [content, picture, pixels, pixels / 255, np.repeat(pixels[..., None], 3, axis=2)]
    for source in sources:
        again = read_radiograph(source)
        np.testing.assert_allclose(again.pixels, film.pixels, atol=1e-6)
        assert (again.findings, again.original_size) == ((), film.original_size)
        assert not again.pixels.flags.writeable
    assert read_radiograph(pixels).sha256 is None


def test_a_data_set_in_memory_is_read_and_not_changed(tmp_path):
    dataset = radiograph(ramp(12), 12)
    film = read_radiograph(write(dataset, tmp_path / "film.dcm"))
    before = dataset.to_json()
    again = read_radiograph(dataset)
    np.testing.assert_array_equal(again.pixels, film.pixels)
    assert again.source["modality"] == "CR"
    assert dataset.to_json() == before
    del dataset.file_meta
    np.testing.assert_array_equal(read_radiograph(dataset).pixels, film.pixels)
    assert not hasattr(dataset, "file_meta")


def test_arrays_of_16_bits_and_colour_are_read_as_files_are():
    values = np.tile(np.arange(64, dtype=np.uint16) * 50, (64, 1))
    film = read_radiograph(values)
    np.testing.assert_allclose(film.pixels, values / 4095, atol=1e-6)
    assert film.findings == (Finding.note("bits-in-use", bits=12, full_scale=4095),)
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[..., 1] = 200
    assert read_radiograph(colours).findings == (Finding.refusal("colour"),)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (np.zeros((4, 64, 64)), "array-unusable"),
        (np.zeros(64), "array-unusable"),
        (np.full((64, 64), "x"), "array-unusable"),
        (np.zeros((8, 64)), "image-too-small"),
        (np.full((64, 64), np.nan), "image-undecodable"),
        (b"", "file-empty"),
        (b"just text", "not-an-image"),
    ],
)
def test_what_is_no_image_in_memory(source, code):
    with pytest.raises(UnreadableFileError) as caught:
        read_radiograph(source)
    assert (caught.value.code, caught.value.where) == (code, None)


def test_a_file_is_opened_once(tmp_path, picture, monkeypatch):
    picture.save(tmp_path / "film.png")
    opened = []
    monkeypatch.setattr("builtins.open", lambda *args, _open=open: opened.append(args) or _open(*args))
    read_radiograph(tmp_path / "film.png")
    assert len([args for args in opened if str(args[0]).endswith("film.png")]) == 1


def test_import_is_cheap():
    code = (
        "import sys, pneumoscope.imaging.radiograph;"
        "print([name for name in ('pydicom', 'gdcm', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_raster_film_needs_no_pydicom(tmp_path, picture):
    picture.save(tmp_path / "film.jpg")
    code = (
        "import sys; from pneumoscope.imaging.radiograph import read_radiograph;"
        "read_radiograph(sys.argv[1]); print('pydicom' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "film.jpg")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_one_thread_at_a_time_collects_warnings():
    entered = threading.Event()

    def collect():
        with collected_warnings():
            entered.set()

    other = threading.Thread(target=collect)
    with collected_warnings():
        other.start()
        assert not entered.wait(0.05)
    other.join()
    assert entered.is_set()


def test_collected_warnings_are_complete_and_leave_the_filters_alone():
    before = list(warnings.filters)
    barrier = threading.Barrier(4)
    results = {}

    def collect(name):
        barrier.wait()
        for _ in range(50):
            with collected_warnings() as messages:
                warnings.warn(f"from {name}", stacklevel=1)
                warnings.warn(f"from {name}", stacklevel=1)
            results.setdefault(name, set()).add(tuple(messages))

    threads = [threading.Thread(target=collect, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {name: {(f"from {name}",)} for name in range(4)}
    assert warnings.filters == before


@pytest.mark.films
def test_real_dicom_files_of_every_flavour(films):
    with open(films / "dicom" / "manifest.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 16
    for row in rows:
        path = films / "dicom" / row["file"]
        if row["decodes"] == "no":
            with pytest.raises(UnreadableFileError, match="cannot be decoded"):
                read_radiograph(path)
            continue
        film = read_radiograph(path)
        assert film.original_size == film.pixels.shape == (int(row["rows"]), int(row["columns"]))
        assert film.source["modality"] == row["modality"]
        assert film.source["transfer_syntax"] == row["transfer_syntax"]
        assert film.source["bits_stored"] == row["bits_stored"]
        assert film.pixels.std() > 0.02
        codes = {finding.code for finding in film.findings}
        assert (not codes.isdisjoint(MODALITY)) is (row["modality"] != "CR")
        if row["modality"] == "CR":
            assert ("looks-negative" in codes) is ("fake_mono1" in row["file"])


@pytest.mark.films
def test_real_film_in_several_compressions_is_one_film(films):
    folder = films / "dicom" / "other_radiograph"
    lossless = read_radiograph(folder / "wg04_CR_hip_mono2_10bit_JPLL.dcm").pixels
    lossy = read_radiograph(folder / "wg04_CR_hip_mono2_10bit_JPLY_fixed.dcm").pixels
    assert np.corrcoef(lossless.ravel(), lossy.ravel())[0, 1] > 0.999
    rle = read_radiograph(folder / "wg04_CR_extremity_mono1_10bit_RLE.dcm").pixels
    jpeg_ls = read_radiograph(folder / "wg04_CR_extremity_mono1_10bit_JLSL.dcm").pixels
    np.testing.assert_array_equal(rle, jpeg_ls)


@pytest.mark.films
def test_real_monochrome1_film_by_hand(films):
    path = films / "dicom" / "chest" / "gdcm_CR_chest_mono1_10bit_uncompressed.dcm"
    stored = np.frombuffer(dcmread(path).PixelData, "<u2").reshape(440, 440)
    expected = 1 - np.clip((stored - 549.5) / 1023 + 0.5, 0, 1)  # window 550, 1024
    np.testing.assert_allclose(read_radiograph(path).pixels, expected, atol=1e-6)


@pytest.mark.films
def test_pictures_that_are_no_chest_film_still_decode(films):
    paths = sorted((films / "not_chest_xray").iterdir())
    assert len(paths) == 36
    for path in paths[::4]:
        pixels = read_radiograph(path).pixels
        assert pixels.min() >= 0
        assert pixels.max() <= 1
