"""JPEG, PNG, TIFF and BMP in every mode that images come in."""

from __future__ import annotations

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.core.findings import Finding
from pneumoscope.imaging import raster

GREY = (np.arange(40 * 30) % 256).reshape(40, 30).astype(np.uint8)
UNIT = GREY / 255


def read_raster(path, **options):
    return raster.read_raster(path.read_bytes(), path, **options)


def saved(picture, path, **options):
    picture.save(path, **options)
    return path


def smooth(rows, columns):
    """A smooth picture (rows, columns) uint8, without detail that a reduced decode would lose."""
    y, x = np.mgrid[0:rows, 0:columns]
    return np.rint(127 + 80 * np.sin(y / rows * 5) * np.cos(x / columns * 7)).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_8_bit_grey_is_exact(tmp_path, suffix):
    film = read_raster(saved(Image.fromarray(GREY), tmp_path / f"film.{suffix}"))
    np.testing.assert_allclose(film.pixels, UNIT, atol=1e-7)
    assert film.pixels.dtype == np.float32
    assert not film.pixels.flags.writeable
    assert film.original_size == (40, 30)
    assert film.pixel_spacing_mm is None
    assert film.findings == ()
    assert film.source["bits_stored"] == "8"
    assert film.source["format"] == {"png": "PNG", "bmp": "BMP", "tif": "TIFF"}[suffix]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_grey_in_other_modes(tmp_path, mode):
    source = Image.fromarray(GREY)
    expected = UNIT
    if mode == "1":
        expected = (GREY > 127).astype(float)
        source = Image.fromarray(GREY > 127)
    film = read_raster(saved(source.convert(mode), tmp_path / "film.png"))
    np.testing.assert_allclose(film.pixels, expected, atol=1e-6)
    assert film.findings == ()


def test_palette_in_any_order(tmp_path):
    picture = Image.fromarray(GREY, mode=None).convert("P")
    picture.putpalette([value for level in range(256) for value in [255 - level] * 3])
    film = read_raster(saved(picture, tmp_path / "film.png"))
    np.testing.assert_allclose(film.pixels, 1 - np.asarray(picture) / 255, atol=1e-6)


def test_palette_with_transparency(tmp_path):
    picture = Image.fromarray(GREY).convert("P")
    path = saved(picture, tmp_path / "film.png", transparency=bytes([0] + [255] * 255))
    film = read_raster(path)
    np.testing.assert_allclose(film.pixels, UNIT, atol=1e-6)  # level 0 is black anyway


def test_transparent_parts_are_black_and_a_transparent_film_is_opaque(tmp_path):
    pixels = np.dstack([GREY] * 3 + [np.full_like(GREY, 255)])
    pixels[:20, :, 3] = 0
    pixels[20:30, :, 3] = 51
    film = read_raster(saved(Image.fromarray(pixels), tmp_path / "film.png"))
    np.testing.assert_allclose(film.pixels[30:], UNIT[30:], atol=1e-6)
    np.testing.assert_allclose(film.pixels[20:30], UNIT[20:30] * 0.2, atol=1e-6)
    assert (film.pixels[:20] == 0).all()
    pixels[..., 3] = 0
    film = read_raster(saved(Image.fromarray(pixels), tmp_path / "film.png"))
    np.testing.assert_allclose(film.pixels, UNIT, atol=1e-6)


def test_colour_becomes_luminance_with_a_warning(tmp_path):
    pixels = np.zeros((40, 30, 3), np.uint8)
    pixels[..., 1] = 200
    film = read_raster(saved(Image.fromarray(pixels), tmp_path / "film.png"))
    np.testing.assert_allclose(film.pixels, 0.587 * 200 / 255, atol=1e-6)
    assert film.findings == (Finding.refusal("colour"),)


@pytest.mark.parametrize(
    ("suffix", "bits"), [(s, b) for s in ("png", "tif") for b in (8, 10, 12, 14, 15, 16)]
)
def test_16_bit_container_scales_to_the_bits_in_use(tmp_path, suffix, bits):
    values = np.rint(np.linspace(0, 2**bits - 1, 1200)).astype(np.uint16).reshape(40, 30)
    film = read_raster(saved(Image.fromarray(values), tmp_path / f"film.{suffix}"))
    np.testing.assert_allclose(film.pixels, values / (2**bits - 1), atol=1e-6)
    assert film.source["bits_stored"] == str(bits)
    note = Finding.note("bits-in-use", bits=bits, full_scale=2**bits - 1)
    assert film.findings == ((note,) if bits < 16 else ())


def test_full_scale_is_the_next_power_of_two(tmp_path):
    values = np.full((20, 20), 3000, np.uint16)
    film = read_raster(saved(Image.fromarray(values), tmp_path / "film.png"))
    np.testing.assert_allclose(film.pixels, 3000 / 4095, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_tiff_is_inverted(tmp_path, bits):
    values = GREY if bits == 8 else GREY.astype(np.uint16) * 257
    path = saved(Image.fromarray(values), tmp_path / "film.tif")
    content = bytearray(path.read_bytes())
    entry = content.index(struct.pack("<HHI", 262, 3, 1))
    content[entry + 8 : entry + 10] = b"\x00\x00"
    path.write_bytes(bytes(content))
    np.testing.assert_allclose(read_raster(path).pixels, 1 - UNIT, atol=1e-6)


def test_float_tiff(tmp_path):
    film = read_raster(saved(Image.fromarray(UNIT.astype(np.float32)), tmp_path / "unit.tif"))
    np.testing.assert_allclose(film.pixels, UNIT, atol=1e-6)
    assert film.findings == ()
    film = read_raster(saved(Image.fromarray((UNIT * 3000 - 500).astype(np.float32)), tmp_path / "wide.tif"))
    np.testing.assert_allclose(film.pixels, UNIT, atol=1e-6)
    assert film.findings == (Finding.note("full-scale-unknown", low=-500, high=2500),)
    broken = UNIT.astype(np.float32)
    broken[3, 3] = np.nan
    with pytest.raises(UnreadableFileError, match="not finite"):
        read_raster(saved(Image.fromarray(broken), tmp_path / "nan.tif"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation_is_undone(tmp_path, orientation, suffix):
    upright = smooth(48, 64)
    # What the camera stored: the inverse of what Exif 2.32 table 4.6.4 asks a viewer to do.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if suffix == "jpg" else {}
    path = saved(
        Image.fromarray(np.ascontiguousarray(stored)), tmp_path / f"film.{suffix}", exif=exif, **options
    )
    film = read_raster(path)
    assert film.original_size == (48, 64)
    assert film.pixels.shape == (48, 64)
    np.testing.assert_allclose(film.pixels, upright / 255, atol=0.02)


def test_reduced_decoding_keeps_the_size_and_the_picture(tmp_path):
    pixels = smooth(1500, 2000)
    path = saved(Image.fromarray(pixels), tmp_path / "film.jpg", quality=92)
    full, reduced = read_raster(path), read_raster(path, min_size=180)
    assert full.pixels.shape == (1500, 2000)
    assert reduced.pixels.shape == (375, 500)
    assert reduced.original_size == full.original_size == (1500, 2000)
    blocks = full.pixels.reshape(375, 4, 500, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(reduced.pixels, blocks, atol=0.01)


@pytest.mark.parametrize("min_size", [64, 100, 224, 500, 2000])
def test_both_sides_stay_at_least_min_size(tmp_path, min_size):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(Image.fromarray(smooth(600, 1100)), tmp_path / "film.jpg", exif=exif)
    film = read_raster(path, min_size=min_size)
    assert min(film.pixels.shape) >= min(min_size, 600)
    assert film.original_size == (1100, 600)
    assert (film.pixels.shape[0] > film.pixels.shape[1]) is True


def test_only_jpeg_is_decoded_at_reduced_size(tmp_path):
    assert read_raster(
        saved(Image.fromarray(smooth(600, 600)), tmp_path / "film.png"), min_size=50
    ).pixels.shape == (
        600,
        600,
    )


def test_jpeg_with_more_pictures_is_read_at_the_first(tmp_path):
    first, second = Image.fromarray(smooth(48, 64)), Image.fromarray(255 - smooth(48, 64))
    path = saved(
        first, tmp_path / "film.jpg", format="MPO", save_all=True, append_images=[second], quality=95
    )
    film = read_raster(path)
    np.testing.assert_allclose(film.pixels, smooth(48, 64) / 255, atol=0.02)
    assert film.source["format"] == "JPEG"


def test_16_bit_colour_warns(tmp_path):
    rows = b"".join(b"\x00" + struct.pack(">" + "H" * 60, *([1000 * y] * 60)) for y in range(20))
    film = read_raster(png(tmp_path / "film.png", 20, 20, 16, 2, rows))
    np.testing.assert_allclose(film.pixels[:, 0], [(1000 * y >> 8) / 255 for y in range(20)], atol=1e-6)
    assert Finding.note("colour-16-bit") in film.findings


def png(path, columns, rows, depth, color, data):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", columns, rows, depth, color, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )
    return path


class TestRefused:
    """Clean errors, never a partly grey picture."""

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp"])
    @pytest.mark.parametrize("share", [0.03, 0.5, 0.95])
    def test_truncated(self, tmp_path, suffix, share):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
        path = saved(Image.fromarray(noise), tmp_path / f"film.{suffix}")
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(UnreadableFileError) as error:
            read_raster(path)
        assert error.value.where == str(path)
        assert error.value.code in ("image-unidentified", "image-undecodable")

    @pytest.mark.parametrize(
        ("columns", "rows"), [(20_000, 20_000), (12_000, 10_000), (1_000_000, 1_000), (65_536, 20)]
    )
    def test_bombs_are_refused_by_their_header(self, tmp_path, columns, rows):
        path = png(tmp_path / "bomb.png", columns, rows, 8, 0, bytes(100))
        with pytest.raises(UnreadableFileError) as error:
            read_raster(path)
        assert re.search("was not decoded|decompression bomb", error.value.problem)

    def test_too_small(self, tmp_path):
        with pytest.raises(UnreadableFileError, match="at least 16"):
            read_raster(saved(Image.fromarray(GREY[:15]), tmp_path / "film.png"))
        assert read_raster(saved(Image.fromarray(GREY[:16, :16]), tmp_path / "film.png")).pixels.shape == (
            16,
            16,
        )

    def test_several_pages(self, tmp_path):
        page = Image.fromarray(GREY)
        path = saved(page, tmp_path / "film.tif", save_all=True, append_images=[page])
        with pytest.raises(UnreadableFileError, match="holds 2 pages"):
            read_raster(path)

    def test_other_formats(self, tmp_path):
        for suffix in ("gif", "webp", "jp2"):
            path = saved(Image.fromarray(GREY), tmp_path / f"film.{suffix}")
            with pytest.raises(UnreadableFileError, match="cannot be identified"):
                read_raster(path)

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp"])
    def test_flipped_bytes_give_a_film_or_a_clean_error(self, tmp_path, suffix):
        path = saved(Image.fromarray(GREY), tmp_path / f"film.{suffix}")
        content = path.read_bytes()
        outcomes = {"error": 0, "film": 0}
        for seed in range(60):
            rng = np.random.default_rng(seed)
            damaged = bytearray(content)
            for position in rng.integers(8, min(len(content), 300), 4):
                damaged[position] = rng.integers(256)
            path.write_bytes(bytes(damaged))
            try:
                film = read_raster(path)
            except UnreadableFileError:
                outcomes["error"] += 1
            else:
                assert film.pixels.min() >= 0
                assert film.pixels.max() <= 1
                outcomes["film"] += 1
        assert outcomes["error"] > 0
