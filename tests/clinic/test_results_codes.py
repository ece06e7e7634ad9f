"""Codes: those of DICOM's context groups agree with pydicom's copy of PS3.16, all have a FHIR system."""

from __future__ import annotations

import re

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from pneumoscope.core.records import Decision, Etiology, Verdict
from pneumoscope_clinic.results import codes as ours


def _all() -> list[Code]:
    tables = (ours.PRESENCES, ours.DECISIONS, ours.ETIOLOGIES, ours.VERDICTS)
    single = [value for value in vars(ours).values() if isinstance(value, Code)]
    return single + [code for table in tables for code in table.values()]


def test_every_word_of_ours_has_a_code() -> None:
    assert set(ours.PRESENCES) == set(ours.DECISIONS) == {str(word) for word in Decision}
    assert set(ours.ETIOLOGIES) == {str(word) for word in Etiology}
    assert set(ours.VERDICTS) == {str(word) for word in Verdict}


def test_codes_agree_with_the_standard() -> None:
    presence = codes.cid240
    assert ours.PRESENCES["POSITIVE"] == presence.Present
    assert ours.PRESENCES["NEGATIVE"] == presence.Absent
    assert ours.PRESENCES["ABSTAIN"] == presence.Undetermined
    assert ours.DECISIONS["POSITIVE"] == codes.cid250.Positive
    assert ours.DECISIONS["NEGATIVE"] == codes.cid250.Negative
    assert ours.DECISIONS["ABSTAIN"] == codes.cid4220.Indeterminate
    assert codes.SCT.Etiology == ours.ETIOLOGY
    assert (ours.PROBABILITY.value, ours.PROBABILITY.meaning) == ("122157", "Probability")
    assert (ours.THRESHOLD.value, ours.UNITY.value) == ("122411", "1")


def test_codes_fit_their_elements_and_systems() -> None:
    for code in _all():
        assert len(code.value) <= 16  # Code Value is SH
        assert len(code.scheme_designator) <= 16
        assert len(code.meaning) <= 64  # Code Meaning is LO
        assert code.scheme_designator in ours.FHIR_SYSTEMS


def test_snomed_and_loinc_codes_have_their_check_digits() -> None:
    for code in _all():
        if code.scheme_designator == "SCT":
            assert _verhoeff(code.value) == 0, code
        elif code.scheme_designator == "LN":
            number, check = re.fullmatch(r"(\d+)-(\d)", code.value).groups()  # type: ignore[union-attr]
            assert _mod10(number) == int(check), code


def _verhoeff(number: str) -> int:
    """0 for a valid identifier (SNOMED CT Release File Specification, appendix on check digits)."""
    check = 0
    for position, digit in enumerate(reversed(number)):
        check = _D[check][_permuted(position, int(digit))]
    return check


_D = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 0, 6, 7, 8, 9, 5], [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
    [3, 4, 0, 1, 2, 8, 9, 5, 6, 7], [4, 0, 1, 2, 3, 9, 5, 6, 7, 8], [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
    [6, 5, 9, 8, 7, 1, 0, 4, 3, 2], [7, 6, 5, 9, 8, 2, 1, 0, 4, 3], [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
    [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
]  # fmt: skip
_P = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]


def _permuted(position: int, digit: int) -> int:
    for _ in range(position % 8):
        digit = _P[digit]
    return digit


def _mod10(number: str) -> int:
    """LOINC's check digit (Luhn over the number, LOINC Users' Guide, appendix on check digits)."""
    total = 0
    for position, character in enumerate(reversed(number)):
        digit = int(character) * (2 if position % 2 == 0 else 1)
        total += digit // 10 + digit % 10
    return -total % 10
