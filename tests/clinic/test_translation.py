"""Every message is translated in every language, figures are written as they are written there."""

import doctest
import re
import string
from datetime import UTC, date, datetime

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from pneumoscope.core.errors import ERRORS, UnreadableFileError
from pneumoscope.core.findings import MESSAGES, WORDS, Finding, Severity, fill, message, to_dict
from pneumoscope.core.records import Decision, Etiology, Verdict
from pneumoscope_clinic.image_errors import CLINIC_ERRORS, image_error, problem, problem_sentence, rebuilt
from pneumoscope_clinic.monitoring.dashboard import NOTES
from pneumoscope_clinic.monitoring.drift import QUANTITIES
from pneumoscope_clinic.results.messages import answer_sentence, evidence_sentence
from pneumoscope_clinic.web import translation
from pneumoscope_clinic.web.translation import CATALOGUES, choose_language, languages, words

CLINIC = CATALOGUES.parent.parent
TABLES = {
    *MESSAGES.values(), *WORDS, *NOTES, *(quantity.title for quantity in QUANTITIES),
    *(text for texts in (*ERRORS.values(), *CLINIC_ERRORS.values()) for text in texts if text),
}  # fmt: skip
"""Templates and words that are translated from tables."""
MARKS = {"_": None, "N_": None, "of": None, "ngettext": (1, 2)}
METHODS = [
    ("**/web/*.py", "python"), ("**/results/*.py", "python"), ("**/monitoring/*.py", "python"),
    ("image_errors.py", "python"), ("**/templates/*.html", "jinja2"),
]  # fmt: skip
OTHERS = [language for language in languages() if language != "en"]


def messages():
    """Messages of templates and modules; a pair for one with a plural."""
    found = extract_from_dir(str(CLINIC), METHODS, {}, MARKS)
    return TABLES | {one if isinstance(one, str) else tuple(one) for _, _, one, _, _ in found}


def catalogue(language):
    with open(CATALOGUES / f"{language}.po", "rb") as stream:
        return read_po(stream, locale=language, abort_invalid=True)


def holes(text):
    """Placeholders with their specifications."""
    return {(name, kind) for _, name, kind, _ in string.Formatter().parse(text) if name is not None}


def test_languages():
    assert languages() == ("en", "es", "fr", "zh")
    assert [words(language).name for language in languages()] == ["English", "Español", "Français", "中文"]


@pytest.mark.parametrize("language", OTHERS)
def test_every_message_is_translated_and_none_is_left_over(language):
    known = {entry.id: entry.string for entry in catalogue(language) if entry.id}
    assert {key for key, text in known.items() if not text or not all(text)} == set()
    wanted = messages()
    assert wanted - set(known) == set()
    assert set(known) - wanted == set()
    assert len(wanted) > 300


@pytest.mark.parametrize("language", OTHERS)
def test_placeholders_survive_translation(language):
    for entry in catalogue(language):
        if not entry.id:
            continue
        originals = [entry.id] if isinstance(entry.id, str) else entry.id
        texts = [entry.string] if isinstance(entry.string, str) else entry.string
        for text in texts:
            assert holes(text) == holes(originals[-1]), entry.id
            assert text == text.strip()


def test_names_of_records_and_points_have_translations():
    from pneumoscope.reporting.bundle_card import _POINTS

    names = {str(name) for kind in (Decision, Etiology, Verdict) for name in kind}
    assert names | set(_POINTS) <= messages()


def test_limits_of_the_shipped_bundles_have_translations():
    from pneumoscope.inference.bundle import load_bundle

    known = messages()
    for name in ("reference", "reference-int8"):
        document = load_bundle(name).document
        assert {*document["limitations"], document["intended_use"]} <= known


def example(template):
    """Values for the parameters of a template, as inference and imaging give them."""
    kinds = {"percent": 0.43, "rate": 0.025, "probability": 0.9731, "number": 1.5, "age": 0.25, ",": 4711}
    found = {}
    for _, name, kind, _ in string.Formatter().parse(template):
        if name is not None:
            word = "viral pneumonia" if name == "kind" else "balanced" if "point" in name else "left lower"
            found[name] = word if kind == "word" else kinds.get(kind, "XYZ7")
    return found


@pytest.mark.parametrize("language", OTHERS)
@pytest.mark.parametrize("code", MESSAGES)
def test_every_finding_is_wholly_in_the_readers_language(language, code):
    """No English template and no unfilled placeholder; names of DICOM attributes stay as they are."""
    values = example(MESSAGES[code])
    of = words(language)
    said = message(Finding(code, Severity.WARNING, values), of)
    english = message(Finding(code, Severity.WARNING, values))
    assert "{" not in said
    if code != "library-warning":
        assert said != english
    for name in ("viral pneumonia", "left lower", "balanced", "months", "days", " the ", " is ", " not "):
        assert name not in f" {said} ", said


@pytest.mark.parametrize("language", OTHERS)
@pytest.mark.parametrize("code", [*ERRORS, *CLINIC_ERRORS])
def test_every_error_of_an_image_is_wholly_in_the_readers_language(language, code):
    texts = ERRORS.get(code) or CLINIC_ERRORS[code]
    values = {name: value for text in texts if text for name, value in example(text).items()}
    of = words(language)
    said = problem_sentence({"code": code, "params": values}, of)
    assert "{" not in said
    for text in filter(None, texts):
        assert fill(text, values) not in said or text.startswith("(H, W)")
    for word in (" the ", " is ", " not ", "expected:"):
        assert word not in f" {said} ", said


def test_an_error_survives_storage_and_says_the_same():
    error = image_error(UnreadableFileError, "not-deidentifiable", error="ValueError")
    assert problem(rebuilt(problem(error))) == problem(error)
    assert problem_sentence(problem(error), str) == (
        "the image cannot be de-identified (ValueError); expected: an image whose header is not damaged; "
        "export it again."
    )
    older = {"problem": "no reason of ours", "expected": None, "remedy": "try again"}
    assert problem_sentence(older, words("fr")) == "no reason of ours; try again."


def test_an_answer_in_french():
    of = words("fr")
    record = {"probability": 0.973, "decision": "POSITIVE", "threshold": 0.6, "forced": False}
    said = answer_sentence(record, of)
    assert re.sub(r"\s", " ", said) == (
        "Une pneumonie est probable : sa probabilité, 97,3 %, atteint le seuil, 60,0 %."
    )
    finding = Finding.note("evidence-one-zone", kind="viral pneumonia", zone1="left lower", share1=0.67)
    evidence = evidence_sentence({"findings": [to_dict(finding)]}, of)
    assert re.sub(r"\s", " ", evidence) == (
        "Les indices de pneumonie virale sont les plus forts dans la zone inférieure gauche (67 %)."
    )


@pytest.mark.parametrize(
    ("language", "share", "text"),
    [
        ("en", 0.9731, "97.3 %"),
        ("en", 0.00001, "< 0.1 %"),
        ("en", 0.99999, "> 99.9 %"),
        ("en", 1.0, "100.0 %"),
        ("en", None, "–"),
        ("fr", 0.9731, "97,3\xa0%"),
        ("fr", 0.99999, "> 99,9\xa0%"),
        ("es", 0.5, "50,0\xa0%"),
        ("zh", 0.9731, "97.3%"),
    ],
)
def test_percentages(language, share, text):
    assert words(language).percent(share) == text


def test_dates_and_numbers():
    day = date(2026, 11, 9)
    assert [words(language).day(day) for language in languages()] == [
        "Nov 9, 2026", "9 nov 2026", "9 nov. 2026", "2026年11月9日"
    ]  # fmt: skip
    assert [words(language).short_day(day) for language in languages()] == [
        "Nov 9", "9 nov", "9 nov.", "11月9日"
    ]  # fmt: skip
    assert words("en").number(5216.25, 1) == "5,216.2"
    assert words("es").number(15216) == "15.216"
    assert words("fr").number(None) == "–"
    assert words("en").time(datetime(2026, 11, 9, 12, tzinfo=UTC)).startswith("Nov 9, 2026 ")
    assert words("fr").enumeration(["a", "b", "c"]) == "a, b et c"


@pytest.mark.parametrize(
    ("wishes", "accepted", "default", "chosen"),
    [
        ((), "fr-CH, fr;q=0.9, en;q=0.8", "en", "fr"),
        ((), "de, es;q=0.3, fr;q=0.2", "en", "es"),
        ((), "zh-Hans-CN", "en", "zh"),
        ((), "de", "fr", "fr"),
        ((), "de", "tlh", "en"),
        ((), "es;q=0, fr;q=0.1", "en", "fr"),
        ((), ";;;q=,*;q=x,-", "en", "en"),
        (("es", "fr"), "zh", "en", "es"),
        (("../../etc/passwd", None, "fr"), "zh", "en", "fr"),
    ],
)
def test_choosing_a_language(wishes, accepted, default, chosen):
    assert choose_language(wishes, accepted, default) == chosen


def test_examples():
    assert doctest.testmod(translation).failed == 0
