"""Messages are made of codes and parameters at the edge; a fact is told once."""

from __future__ import annotations

import pickle
import re

import pytest

from pneumoscope.core.errors import ERRORS, UnreadableFileError
from pneumoscope.core.findings import (
    MESSAGES,
    WORDS,
    Finding,
    Severity,
    from_dict,
    message,
    to_dict,
    unique,
)
from pneumoscope.core.format import probability as format_probability

FRENCH = {
    "{share:percent} of it lies outside the lungs.": "{share:percent} sont hors des poumons.",
    "45 %": "45 %",
    "{count} months": "{count} mois",
    "the patient is {age:age} old; the network learnt from patients of {low:age} to {high:age}":
        "le patient a {age:age} ; le réseau a appris de patients de {low:age} à {high:age}",
    "{count} years": "{count} ans",
}  # fmt: skip


@pytest.mark.parametrize("code", MESSAGES)
def test_codes_are_in_kebab_case_and_templates_take_known_forms(code: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code)
    for _, spec in re.findall(r"\{(\w+):?(\w*)\}", MESSAGES[code]):
        assert spec in ("", "percent", "rate", "probability", "number", "age", "word")


@pytest.mark.parametrize(
    ("years", "words"),
    [
        (0.0, "0 days"), (1 / 365.25, "1 day"), (0.01, "4 days"), (0.08, "29 days"), (0.17, "2 months"),
        (0.25, "3 months"), (0.58, "7 months"), (0.92, "11 months"), (1.0, "12 months"), (1.5, "18 months"),
        (1.99, "23 months"), (2.0, "2 years"), (3.5, "3.5 years"), (45, "45 years"),
    ],
)  # fmt: skip
def test_ages_below_two_years_are_told_in_months_or_days(years: float, words: str) -> None:
    assert words in message(Finding.note("age-contradiction", age=years, stated=70))


def test_templates_words_and_figures_are_translated() -> None:
    def french(text: str) -> str:
        return FRENCH.get(text, text)

    assert message(Finding.note("evidence-partly-outside", share=0.45), french) == (
        "45 % sont hors des poumons."
    )
    unusual = Finding.warning("age-unusual", age=0.5, low=2, high=5)
    assert message(unusual, french).startswith("le patient a 6 mois ; le réseau")
    seen: list[str] = []
    kind = Finding.note("evidence-both-lungs", kind="viral pneumonia")
    message(kind, lambda text: seen.append(text) or text)  # type: ignore[func-returns-value]
    assert seen == [MESSAGES["evidence-both-lungs"], "viral pneumonia"]
    assert seen[1] in WORDS


def test_values_with_braces_stay_as_they_are() -> None:
    odd = Finding.warning("body-part-unknown", body_part="{0} {x}")
    assert message(odd).endswith("{0} {x}")


def test_json_and_pickle_there_and_back() -> None:
    finding = Finding.refusal("modality-not-projection", modality="CT")
    assert to_dict(finding) == {
        "code": "modality-not-projection",
        "severity": "refusal",
        "params": {"modality": "CT"},
        "message": message(finding),
    }
    assert from_dict(to_dict(finding)) == finding == pickle.loads(pickle.dumps(finding))


def test_a_fact_is_told_once_with_its_highest_severity_and_refusals_first() -> None:
    tagged = Finding.warning("looks-negative", photometric_interpretation="MONOCHROME1")
    found = unique([Finding.note("colour-16-bit"), tagged, Finding.refusal("looks-negative")])
    assert [finding.code for finding in found] == ["looks-negative", "colour-16-bit"]
    assert found[0].severity is Severity.REFUSAL
    assert found[0].params == {"photometric_interpretation": "MONOCHROME1"}
    warnings = [Finding.note("library-warning", library="Pillow", text=text) for text in ("a", "b", "a")]
    assert unique(warnings) == (warnings[0], warnings[1])


def test_an_error_of_the_table_has_code_parameters_and_text() -> None:
    error = UnreadableFileError.of("image-too-small", "film.png", rows=9, columns=8, limit=16)
    assert str(error) == "film.png: the image has 9 x 8 pixels; expected at least 16 rows and columns"
    assert (error.code, error.params) == ("image-too-small", {"rows": 9, "columns": 8, "limit": 16})
    back = pickle.loads(pickle.dumps(error))
    assert vars(back) == vars(error)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code) for code in ERRORS)


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0, "< 0.1 %"), (0.0009, "< 0.1 %"), (0.5, "50.0 %"), (0.9991, "> 99.9 %"), (1, "> 99.9 %")],
)
def test_probabilities_are_never_certain(probability: float, text: str) -> None:
    assert format_probability(probability) == text
