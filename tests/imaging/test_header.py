"""One table of modality, body part, view and age words: what is accepted, warned of and refused."""

from __future__ import annotations

import pytest

from pneumoscope.core.findings import Finding
from pneumoscope.imaging.header import header_findings, to_age, to_view

CHEST = [
    "CHEST", "Chest", "PORT CHEST", "CHEST PA", "CHESTABDOMEN", "THORAX", "THORAX PA", "TORAX", "TÓRAX",
    "TORACE", "CXR", "LUNG", "LUNGS", "LUNGE", "PULMON", "PULMÓN", "POUMON", "POUMONS", "BRUST", "TRUNK",
    "胸部", "胸部正面", "흉부", "ГРУДНАЯ КЛЕТКА", "",
]  # fmt: skip
OTHER = [
    "ABDOMEN", "ABDOMINAL", "HAND", "LEFT HAND", "SKULL", "KNEE", "Knie links", "PELVIS", "SPINE", "TSPINE",
    "LSPINE", "THORACIC SPINE", "BRUSTWIRBELSAEULE", "COLUMNA", "HIP", "ARM", "FOOT 2", "腹部", "胸椎",
]  # fmt: skip


def codes(**facts: str) -> list[str]:
    return [finding.code for finding in header_findings({"modality": "CR", **facts})]


@pytest.mark.parametrize("part", CHEST)
def test_words_of_the_chest_pass(part: str) -> None:
    assert codes(body_part=part) == []


@pytest.mark.parametrize("part", OTHER)
def test_words_of_another_part_are_refused(part: str) -> None:
    refused = Finding.refusal("body-part-not-chest", body_part=part)
    assert header_findings({"modality": "CR", "body_part": part}) == [refused]


@pytest.mark.parametrize("part", ["RIBS", "RIB", "LEFT RIBS", "RIPPEN"])
def test_ribs_are_warned_of(part: str) -> None:
    assert header_findings({"modality": "CR", "body_part": part}) == [
        Finding.warning("body-part-ribs", body_part=part)
    ]


@pytest.mark.parametrize("part", ["HEART", "WHOLEBODY", "XYZ 3", "42", "unbekannt", "HARMONY", "SHIPMENT"])
def test_an_unknown_word_is_warned_of_and_not_refused(part: str) -> None:
    assert header_findings({"modality": "CR", "body_part": part}) == [
        Finding.warning("body-part-unknown", body_part=part)
    ]


@pytest.mark.parametrize(
    ("modality", "expected"),
    [
        *((one, []) for one in ("CR", "DX", "RG", "DR", "XR", "dx")),
        *((one, ["modality-unspecific"]) for one in ("OT", "SC", "ZZ")),
        *((one, ["modality-not-projection"]) for one in ("CT", "MR", "US", "XA", "MG", "RF", "PT")),
        ("", ["modality-missing"]),
    ],
)
def test_modalities(modality: str, expected: list[str]) -> None:
    assert codes(modality=modality) == expected


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        *((one, []) for one in ("AP", "PA", "pa", "AP LLD", "SITTING", "")),
        *((one, ["view-lateral"]) for one in ("LL", "RL", "LAT", "LATERAL", "lat")),
        *((one, ["view-decubitus-or-oblique"]) for one in ("LLD", "RLD", "LLO", "RLO")),
    ],
)
def test_views(view: str, expected: list[str]) -> None:
    assert codes(view_position=view) == expected


def test_a_lateral_orientation_counts_only_without_a_view() -> None:
    assert header_findings({"modality": "CR"}, ("A", "F")) == [Finding.warning("orientation-lateral")]
    assert header_findings({"modality": "CR"}, ("L", "F")) == []
    assert header_findings({"modality": "CR", "view_position": "PA"}, ("A", "F")) == []


@pytest.mark.parametrize(
    ("text", "years"),
    [("7", 7.0), ("7.5", 7.5), ("018M", 1.5), ("007Y", 7.0), ("010D", 0.03), ("130Y", None), ("old", None)],
)
def test_ages(text: str, years: float | None) -> None:
    assert to_age(text) == years


def test_views_of_tables() -> None:
    words = ("pa", "AP", "LL", "Lateral", "oblique", "")
    assert [to_view(word) for word in words] == ["PA", "AP", "LATERAL", "LATERAL", None, None]
