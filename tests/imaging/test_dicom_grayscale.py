"""Exact pixel values over the grid that DICOM allows, against the formulas of PS3.3 written out singly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import uid
from pydicom.pixels.processing import apply_modality_lut, apply_windowing

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.core.findings import Finding
from pneumoscope.imaging.dicom_grayscale import LookupTable, palette_to_rgb, to_display, window
from tests.imaging.dicom_builder import COMPRESSED, NATIVE, lut_item, radiograph, ramp, read_dicom, write

SLOPE, INTERCEPT = 0.5, -100.0


def modality_table(bits, signed):
    """A falling 12-bit table that covers the middle half of the stored range."""
    low = -(2 ** (bits - 1)) if signed else 0
    count = 2 ** (bits - 1)
    return low + 2 ** (bits - 2), np.linspace(4095, 0, count).astype(np.int64), 12


def voi_table(values):
    """A 10-bit square-root table over the upper three quarters of ``values``."""
    low, high = math.floor(min(values)), math.ceil(max(values))
    first = low + (high - low) // 4
    count = min(high - first + 1, 65535)
    return first, np.rint(1023 * np.sqrt(np.linspace(0, 1, count))).astype(np.int64), 10


def look_up(value, first, table):
    index = round(value) - first  # round half to even, as numpy does
    return float(table[min(max(index, 0), len(table) - 1)])


def expected_value(value, voi, center, width, low, high, table):
    """One value through PS3.3 C.11.2, as the standard writes it, to [0, 1]."""
    if voi == "LINEAR":
        if value <= center - 0.5 - (width - 1) / 2:
            return 0.0
        if value > center - 0.5 + (width - 1) / 2:
            return 1.0
        return (value - (center - 0.5)) / (width - 1) + 0.5
    if voi == "LINEAR_EXACT":
        if value <= center - width / 2:
            return 0.0
        if value > center + width / 2:
            return 1.0
        return (value - center) / width + 0.5
    if voi == "SIGMOID":
        return 1 / (1 + math.exp(-4 * (value - center) / width))
    if voi == "LUT":
        return look_up(value, table[0], table[1]) / 1023
    return min(max((value - low) / (high - low), 0.0), 1.0)


def expected_pixels(stored, modality, voi, inverse, center, width, table):
    flat = [int(value) for value in stored.ravel()]
    if modality == "rescale":
        flat = [value * SLOPE + INTERCEPT for value in flat]
    elif modality != "none":
        flat = [look_up(value, modality[0], modality[1]) for value in flat]
    ordered = sorted(flat)
    low, high = (ordered[math.ceil(q * len(flat)) - 1] for q in (0.005, 0.995))
    shown = [expected_value(value, voi, center, width, low, high, table) for value in flat]
    return np.reshape([1 - value for value in shown] if inverse else shown, stored.shape)


GRID = list(
    itertools.product(
        ("MONOCHROME1", "MONOCHROME2"),
        ("none", "rescale", "lut"),
        ("none", "LINEAR", "LINEAR_EXACT", "SIGMOID", "LUT"),
        (8, 10, 12, 15, 16),
        (False, True),
    )
)


@pytest.mark.parametrize(("photometric", "modality", "voi", "bits", "signed"), GRID)
def test_every_pixel_over_the_grid(tmp_path, photometric, modality, voi, bits, signed):
    stored = ramp(bits, signed)
    elements = {"PhotometricInterpretation": photometric}
    values = stored.astype(float)
    if modality == "rescale":
        elements |= {"RescaleSlope": SLOPE, "RescaleIntercept": INTERCEPT, "RescaleType": "US"}
        values = values * SLOPE + INTERCEPT
    elif modality == "lut":
        modality = modality_table(bits, signed)
        elements["ModalityLUTSequence"] = [lut_item(*modality)]
        values = np.array([0.0, 4095.0])
    center, width = float(np.mean([values.min(), values.max()])), float(np.ptp(values) / 2)
    table = None
    if voi == "LUT":
        table = voi_table([values.min(), values.max()])
        elements["VOILUTSequence"] = [lut_item(*table)]
    elif voi != "none":
        elements |= {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": voi}
    film = read_dicom(write(radiograph(stored, bits, **elements), tmp_path / "film.dcm"))
    expected = expected_pixels(stored, modality, voi, photometric == "MONOCHROME1", center, width, table)
    np.testing.assert_allclose(film.pixels, expected, atol=1e-6)
    assert film.pixels.dtype == np.float32
    assert film.findings == ()


@pytest.mark.parametrize("syntax", NATIVE + COMPRESSED, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize(
    ("bits", "signed"), [(8, False), (10, False), (12, True), (15, False), (16, False), (16, True)]
)
def test_every_transfer_syntax_gives_the_same_pixels(tmp_path, syntax, bits, signed):
    stored = ramp(bits, signed)
    elements = {
        "WindowCenter": float(stored.mean()),
        "WindowWidth": 2.0**bits,
        "PhotometricInterpretation": "MONOCHROME1",
    }
    film = read_dicom(write(radiograph(stored, bits, **elements), tmp_path / "film.dcm", syntax))
    expected = expected_pixels(stored, "none", "LINEAR", True, float(stored.mean()), 2.0**bits, None)
    np.testing.assert_allclose(film.pixels, expected, atol=1e-6)
    assert film.source["transfer_syntax"] == syntax.name
    assert film.findings == ()


def test_agrees_with_pydicom_where_pydicom_is_right():
    dataset = radiograph(
        ramp(12, shape=(64, 64)),
        12,
        RescaleSlope=1.5,
        RescaleIntercept=-7,
        WindowCenter=2000,
        WindowWidth=1500,
    )
    stored = ramp(12, shape=(64, 64))
    theirs = apply_windowing(apply_modality_lut(stored, dataset), dataset)
    low, high = -7, 4095 * 1.5 - 7
    ours, _ = to_display(stored, dataset)
    np.testing.assert_allclose(ours, (theirs - low) / (high - low), atol=1e-6)


def test_known_window_values():
    # PS3.3 C.11.2.1.2.1, Note 4: center 2048, width 4096 maps 0 to 0 and 4095 to full scale.
    np.testing.assert_allclose(window(np.array([0.0, 4095.0]), 2048, 4096), [0, 1])
    # Note 4: center 2048, width 1 is a threshold: 2047 is dark, 2048 bright.
    assert window(np.array([2047.0, 2048.0]), 2048, 1).tolist() == [0, 1]
    assert window(np.array([0.0]), 0, 10, "SIGMOID")[0] == 0.5
    assert window(np.array([-5.0, 0.0, 5.0]), 0, 10, "LINEAR_EXACT").tolist() == [0, 0.5, 1]


@given(st.floats(-1e4, 1e4), st.floats(2, 1e4), st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]))
def test_windows_rise_and_stay_in_range(center, width, function):
    shown = window(np.linspace(-2e4, 2e4, 501), center, width, function)
    assert shown.min() >= 0
    assert shown.max() <= 1
    assert (np.diff(shown) >= 0).all()


@pytest.mark.parametrize(
    ("width", "function"), [(0, "LINEAR"), (0.5, "LINEAR"), (0, "SIGMOID"), (-1, "LINEAR_EXACT")]
)
def test_impossible_window_falls_back_to_percentiles_with_a_warning(width, function):
    stored = ramp(12)
    plain, _ = to_display(stored, radiograph(stored, 12))
    dataset = radiograph(stored, 12, WindowCenter=100, WindowWidth=width, VOILUTFunction=function)
    shown, notes = to_display(stored, dataset)
    np.testing.assert_array_equal(shown, plain)
    assert [note.code for note in notes] == ["window-ignored"]


def test_unknown_window_function_is_a_warning():
    stored = ramp(12)
    _, notes = to_display(
        stored, radiograph(stored, 12, WindowCenter=1, WindowWidth=9, VOILUTFunction="CUBIC")
    )
    assert "CUBIC" in notes[0].params["reason"]


def test_window_that_shows_nothing_is_replaced():
    stored = ramp(12)
    shown, notes = to_display(stored, radiograph(stored, 12, WindowCenter=60000, WindowWidth=10))
    assert np.ptp(shown) == 1
    assert "shows nothing" in notes[0].params["reason"]


def test_first_of_several_windows_counts_and_a_table_comes_before_it():
    stored = ramp(12)
    first, _ = to_display(stored, radiograph(stored, 12, WindowCenter=2000, WindowWidth=1000))
    several = radiograph(stored, 12, WindowCenter=[2000, 50], WindowWidth=[1000, 3])
    np.testing.assert_array_equal(to_display(stored, several)[0], first)
    table = [lut_item(0, np.arange(4096), 12)]
    both = radiograph(stored, 12, WindowCenter=2000, WindowWidth=1000, VOILUTSequence=table)
    np.testing.assert_allclose(to_display(stored, both)[0], stored / 4095, atol=1e-6)


def test_window_applies_after_rescale_to_fractional_values():
    stored = np.arange(16 * 16, dtype=np.uint8).reshape(16, 16)
    dataset = radiograph(
        stored, 8, RescaleSlope=0.25, RescaleIntercept=10, WindowCenter=42.375, WindowWidth=64.75
    )
    np.testing.assert_allclose(to_display(stored, dataset)[0], stored / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("photometric", "shape", "inverse", "warns"),
    [
        ("MONOCHROME1", "INVERSE", True, False),
        ("MONOCHROME2", "IDENTITY", False, False),
        ("MONOCHROME1", "IDENTITY", False, True),
        ("MONOCHROME2", "INVERSE", True, True),
        ("MONOCHROME1", "", True, False),
        ("MONOCHROME2", "LIN OD", False, False),
    ],
)
def test_presentation_lut_shape_inverts_once(photometric, shape, inverse, warns):
    stored = ramp(8)
    dataset = radiograph(
        stored,
        8,
        PhotometricInterpretation=photometric,
        PresentationLUTShape=shape,
        WindowCenter=128,
        WindowWidth=256,
    )
    shown, notes = to_display(stored, dataset)
    np.testing.assert_allclose(shown, 1 - stored / 255 if inverse else stored / 255, atol=1e-6)
    assert bool(notes) is warns


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_takes_no_part_in_the_percentiles(photometric):
    stored = ramp(12).astype(np.int16)
    padded = np.full((24, 24), -2000, np.int16)
    padded[2:22] = stored
    plain, _ = to_display(stored, radiograph(stored, 16, PhotometricInterpretation=photometric))
    dataset = radiograph(padded, 16, PhotometricInterpretation=photometric, PixelPaddingValue=-2000)
    shown, _ = to_display(padded, dataset)
    np.testing.assert_array_equal(shown[2:22], plain)
    assert (shown[:2] == 0).all()
    assert (shown[22:] == 0).all()


def test_padding_range_and_padding_written_as_unsigned():
    stored = ramp(12, signed=True).copy()
    stored[:2] = np.arange(48, dtype=np.int16).reshape(2, 24) % 3 - 2000
    dataset = radiograph(stored, 16, WindowCenter=0, WindowWidth=65536)
    dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)
    dataset.add_new("PixelPaddingRangeLimit", "US", 65536 - 1998)
    shown, _ = to_display(stored, dataset)
    assert (shown[:2] == 0).all()
    assert shown[5:].min() > 0.4


def test_film_of_padding_only_is_shown_as_it_is():
    stored = np.full((16, 16), 7, np.uint8)
    shown, _ = to_display(
        stored, radiograph(stored, 8, PixelPaddingValue=7, WindowCenter=128, WindowWidth=256)
    )
    np.testing.assert_allclose(shown, 7 / 255, atol=1e-6)


def test_blank_film_without_window_is_black_and_a_tiny_spread_uses_its_extremes():
    blank = np.full((16, 16), 700, np.uint16)
    assert (to_display(blank, radiograph(blank, 12))[0] == 0).all()
    one = blank.copy()
    one[3, 3] = 900
    shown, _ = to_display(one, radiograph(one, 12))
    assert shown[3, 3] == 1
    assert shown.sum() == 1


def test_rescale_slope_zero_is_ignored_with_a_warning():
    stored = ramp(8)
    shown, notes = to_display(stored, radiograph(stored, 8, RescaleSlope=0, RescaleIntercept=5))
    np.testing.assert_array_equal(shown, to_display(stored, radiograph(stored, 8))[0])
    assert notes == [Finding.note("rescale-slope-zero")]


def test_empty_rescale_and_window_count_as_absent():
    stored = ramp(8)
    dataset = radiograph(stored, 8)
    for keyword in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"):
        dataset.add_new(keyword, "DS", None)
    shown, notes = to_display(stored, dataset)
    np.testing.assert_array_equal(shown, to_display(stored, radiograph(stored, 8))[0])
    assert notes == []


def test_window_with_a_decimal_comma_is_a_warning_and_such_a_rescale_an_error(tmp_path):
    path = write(radiograph(ramp(8), 8, WindowCenter=128.5, WindowWidth=256), tmp_path / "film.dcm")
    path.write_bytes(path.read_bytes().replace(b"128.5", b"128,5"))
    reason = "WindowCenter is not a number"
    assert Finding.note("window-ignored", reason=reason) in read_dicom(path).findings
    path = write(radiograph(ramp(8), 8, RescaleSlope=1.5, RescaleIntercept=0), tmp_path / "film.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.5 ", b"1,5 "))
    with pytest.raises(UnreadableFileError, match="RescaleSlope is not a number"):
        read_dicom(path)


class TestLookupTable:
    """PS3.3 C.11.1.1.1."""

    def of(self, descriptor, data, **options):
        return LookupTable.of(descriptor, data, **{"little_endian": True, "signed": False, **options})

    def test_ends_are_repeated(self):
        table = self.of([3, 10, 8], [5, 6, 7])
        assert table(np.array([-4.0, 9, 10, 11, 12, 13, 900])).tolist() == [5, 5, 5, 6, 7, 7, 7]

    def test_more_than_256_entries_of_8_bits(self):
        # An index held in the type of the entries would wrap at 256.
        table = self.of([1024, 0, 8], (np.arange(1024) // 4).tolist())
        assert table(np.array([300.0, 1023])).tolist() == [75, 255]

    def test_zero_entries_stand_for_65536(self):
        table = self.of([0, 0, 16], np.arange(65536).tolist())
        assert table(np.array([65535.0])).tolist() == [65535]

    @pytest.mark.parametrize("descriptor_first", [-5, 65531])
    def test_negative_first_value(self, descriptor_first):
        table = self.of([3, descriptor_first, 8], [1, 2, 3], signed=True)
        assert table(np.array([-5.0, -4, -3])).tolist() == [1, 2, 3]

    def test_bytes_of_both_orders_and_packed_entries(self):
        words = np.array([1, 500, 1000])
        assert self.of([3, 0, 10], words.astype("<u2").tobytes()).values.tolist() == [1, 500, 1000]
        assert self.of([3, 0, 10], words.astype(">u2").tobytes(), little_endian=False).values.tolist() == [
            1,
            500,
            1000,
        ]
        assert self.of([4, 0, 8], bytes([9, 8, 7, 6])).values.tolist() == [9, 8, 7, 6]
        assert self.of([3, 0, 8], [0x0809, 0x0007]).values.tolist() == [9, 8, 7]

    def test_entries_larger_than_the_descriptor_says_widen_the_full_scale(self):
        assert self.of([2, 0, 8], [0, 4095]).bits == 12

    def test_too_few_entries(self):
        with pytest.raises(ValueError, match="2 entries, its descriptor says 5"):
            self.of([5, 0, 16], [1, 2])


def test_palette_gives_colours_in_0_to_1(tmp_path):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    dataset = radiograph(stored, 8, PhotometricInterpretation="PALETTE COLOR")
    for colour, step in (("Red", 1), ("Green", 1), ("Blue", 1)):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(
            dataset,
            f"{colour}PaletteColorLookupTableData",
            (np.arange(256, dtype="<u2") * 257 * step).tobytes(),
        )
    np.testing.assert_allclose(palette_to_rgb(stored, dataset), np.stack([stored / 255] * 3, -1), atol=1e-6)
    film = read_dicom(write(dataset, tmp_path / "film.dcm"))
    np.testing.assert_allclose(film.pixels, stored / 255, atol=1e-6)
    assert film.findings == ()


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless])
def test_rgb_becomes_luminance_and_warns_when_coloured(tmp_path, syntax):
    grey = np.repeat(ramp(8)[..., None], 3, axis=-1)
    film = read_dicom(
        write(radiograph(grey, 8, PhotometricInterpretation="RGB"), tmp_path / "grey.dcm", syntax)
    )
    np.testing.assert_allclose(film.pixels, grey[..., 0] / 255, atol=1e-6)
    assert film.findings == ()
    red = grey.copy()
    red[..., 1:] = 0
    film = read_dicom(
        write(radiograph(red, 8, PhotometricInterpretation="RGB"), tmp_path / "red.dcm", syntax)
    )
    np.testing.assert_allclose(film.pixels, 0.299 * red[..., 0] / 255, atol=1e-6)
    assert film.findings == (Finding.refusal("colour"),)


def test_ybr_is_converted(tmp_path):
    ybr = np.full((16, 16, 3), 128, np.uint8)
    ybr[..., 0] = ramp(8, shape=(16, 16))
    film = read_dicom(write(radiograph(ybr, 8, PhotometricInterpretation="YBR_FULL"), tmp_path / "film.dcm"))
    np.testing.assert_allclose(film.pixels, ybr[..., 0] / 255, atol=1e-6)
