"""Zones: hand-made lungs and evidence with known shares, and the findings that say where it lies."""

from types import MappingProxyType

import numpy as np
import pytest

from pneumoscope.core.findings import Finding
from pneumoscope.core.records import Decision, OperatingPoint, Prediction
from pneumoscope.inference.explanation import HEIGHTS, SIDES, ZoneShares, describe, is_mirrored, zone_shares

SIZE = 90
NAMES = [f"{side} {height}" for side in SIDES for height in HEIGHTS]


def lungs():
    """Two rectangles: rows 15 to 74, so zones are 20 rows high; columns 10 to 34 and 55 to 79."""
    masks = np.zeros((2, SIZE, SIZE), bool)
    masks[0, 15:75, 10:35] = True
    masks[1, 15:75, 55:80] = True
    return masks


def evidence(*spots):
    """1 in squares of 3 x 3 pixels round (row, column); the rest is 0."""
    values = np.zeros((SIZE, SIZE), np.float32)
    for row, column in spots:
        values[row - 1 : row + 2, column - 1 : column + 2] = 1
    return values


def shares(**zones):
    found = dict.fromkeys(NAMES, 0.0) | {name.replace("_", " "): share for name, share in zones.items()}
    return MappingProxyType(found)


def prediction(decision=Decision.POSITIVE):
    point = OperatingPoint("balanced", 0.5)
    return Prediction((0.0, 1.0, 0.0), {}, 0.9, point, decision, None, (), "tiny@0")


@pytest.mark.parametrize(
    ("row", "column", "zone"),
    [
        (20, 20, "right upper"), (45, 20, "right middle"), (70, 20, "right lower"),
        (20, 60, "left upper"), (45, 60, "left middle"), (70, 60, "left lower"),
    ],
)  # fmt: skip
def test_zones_are_thirds_of_each_lung_and_the_left_of_the_picture_is_the_right_lung(row, column, zone):
    found = zone_shares(evidence((row, column)), lungs(), 0)
    assert found.zones == shares(**{zone.replace(" ", "_"): 1.0})
    assert found.outside == 0
    mirrored = zone_shares(evidence((row, column)), lungs(), 0, mirrored=True)
    side, height = zone.split()
    other = {"right": "left", "left": "right"}[side]
    assert mirrored.zones[f"{other} {height}"] == 1
    assert list(mirrored.zones) == NAMES


def test_what_lies_beside_a_lung_within_reach_is_counted_as_the_lungs():
    beside = evidence((45, 38))  # columns 37 to 39; the lung ends at 34: distances 3, 4 and 5
    shared = [zone_shares(beside, lungs(), reach) for reach in (2, 3, 4, 5)]
    assert [one.outside for one in shared] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert [one.zones["right middle"] for one in shared] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_only_what_exceeds_half_of_the_strongest_counts():
    values = np.full((SIZE, SIZE), 0.5, np.float32)
    values[20, 20], values[70, 60] = 1, 0.75
    found = zone_shares(values, lungs(), 0)
    assert found.zones["right upper"] == pytest.approx(2 / 3)
    assert found.zones["left lower"] == pytest.approx(1 / 3)


def test_without_lungs_zones_are_thirds_of_the_film():
    one_lung = lungs()
    one_lung[1] = False
    for missing in (None, one_lung):
        found = zone_shares(evidence((5, 5), (45, 85), (88, 85), (88, 50)), missing, 0)
        expected = shares(right_upper=0.25, left_middle=0.25, left_lower=0.5)
        assert found.zones == pytest.approx(dict(expected))
        assert found.outside is None


def test_no_evidence_has_no_zone():
    for values in (np.zeros((SIZE, SIZE)), np.full((SIZE, SIZE), -1.0)):
        found = zone_shares(values, lungs(), 0)
        assert set(found.zones.values()) == {0.0}
        nowhere = Finding.note("evidence-nowhere", kind="viral pneumonia")
        assert describe(found, "viral", prediction()) == (nowhere,)


def note(code, **params):
    return Finding.note(code, kind="bacterial pneumonia", **params)


@pytest.mark.parametrize(
    ("zones", "outside", "findings"),
    [
        ({"right_lower": 0.9}, 0.1, [note("evidence-one-zone", zone1="right lower", share1=0.9)]),
        (
            {"left_upper": 0.25, "right_lower": 0.45},
            0.3,
            [
                note(
                    "evidence-two-zones", zone1="right lower", share1=0.45, zone2="left upper", share2=0.25
                ),
                Finding.note("evidence-partly-outside", share=0.3),
            ],
        ),
        (
            {"left_upper": 0.3, "left_middle": 0.4, "left_lower": 0.3},
            0.0,
            [
                note(
                    "evidence-three-zones", zone1="left middle", share1=0.4, zone2="left upper", share2=0.3,
                    zone3="left lower", share3=0.3,
                )
            ],
        ),
        (
            dict.fromkeys((name.replace(" ", "_") for name in NAMES), 1 / 6),
            0.0,
            [note("evidence-both-lungs")],
        ),
        (
            {"right_upper": 0.19, "right_middle": 0.19, "right_lower": 0.19, "left_lower": 0.1},
            0.33,
            [
                note("evidence-right-lung", share=pytest.approx(0.57)),
                Finding.note("evidence-partly-outside", share=0.33),
            ],
        ),
        (
            {"right_upper": 1.0},
            None,
            [note("evidence-one-zone", zone1="right upper", share1=1.0), Finding.note("lungs-not-found")],
        ),
    ],
)  # fmt: skip
def test_findings_name_the_zones_that_are_lit(zones, outside, findings):
    assert list(describe(ZoneShares(shares(**zones), outside), "bacterial", prediction())) == findings


def test_evidence_outside_the_lungs_is_a_reason_for_distrust():
    (said,) = describe(ZoneShares(shares(right_lower=0.4), 0.6), "pneumonia", prediction())
    assert said == Finding.warning("evidence-outside", kind="pneumonia", share=0.6)


def test_a_negative_image_has_no_zone_that_stands_out():
    found = ZoneShares(shares(right_lower=1.0), 0.0)
    assert describe(found, "viral", prediction(Decision.NEGATIVE)) == (Finding.note("no-zone"),)


def test_a_mirrored_image_is_said():
    said = describe(ZoneShares(shares(left_lower=1.0), 0.0), "viral", prediction(), True)
    assert [finding.code for finding in said] == ["evidence-one-zone", "mirrored"]


@pytest.mark.parametrize(
    ("orientation", "mirrored"),
    [("L\\F", False), ("R\\F", True), ("LP\\F", False), ("A\\F", None), ("", None)],
)
def test_sides_come_from_patient_orientation(orientation, mirrored):
    assert is_mirrored({"patient_orientation": orientation}) is mirrored
    assert is_mirrored({}) is None
