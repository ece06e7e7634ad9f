"""Every message is translated in every language, figures are written as they are written there."""

import doctest
import re
import string
from datetime import UTC, date, datetime

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from pneumoscope.core.records import Decision, Etiology, Verdict
from pneumoscope_clinic.results import wording
from pneumoscope_clinic.results.wording import SENTENCES, answer_sentence, evidence_sentence, translated
from pneumoscope_clinic.web import translation, vocabulary
from pneumoscope_clinic.web.translation import CATALOGUES, choose_language, languages, words

CLINIC = CATALOGUES.parent.parent
MARKS = {"_": None, "N_": None, "of": None, "ngettext": (1, 2)}
METHODS = [("**/web/*.py", "python"), ("**/results/*.py", "python"), ("**/templates/*.html", "jinja2")]
OTHERS = [language for language in languages() if language != "en"]


def messages():
    """Messages of templates and modules; a pair for one with a plural."""
    found = extract_from_dir(str(CLINIC), METHODS, {}, MARKS)
    return {message if isinstance(message, str) else tuple(message) for _, _, message, _, _ in found}


def catalogue(language):
    with open(CATALOGUES / f"{language}.po", "rb") as stream:
        return read_po(stream, locale=language, abort_invalid=True)


def holes(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_languages():
    assert languages() == ("en", "es", "fr", "zh")
    assert [words(language).name for language in languages()] == ["English", "Español", "Français", "中文"]


@pytest.mark.parametrize("language", OTHERS)
def test_every_message_is_translated_and_none_is_left_over(language):
    known = {message.id: message.string for message in catalogue(language) if message.id}
    assert {key for key, text in known.items() if not text or not all(text)} == set()
    wanted = messages()
    assert wanted - set(known) == set()
    assert set(known) - wanted == set()
    assert len(wanted) > 300


@pytest.mark.parametrize("language", OTHERS)
def test_placeholders_survive_translation(language):
    for message in catalogue(language):
        if not message.id:
            continue
        originals = [message.id] if isinstance(message.id, str) else message.id
        texts = [message.string] if isinstance(message.string, str) else message.string
        for text in texts:
            assert holes(text) == holes(originals[-1]), message.id
            assert text == text.strip()


def test_names_of_records_have_translations():
    names = {str(name) for kind in (Decision, Etiology, Verdict) for name in kind}
    assert names <= set(vocabulary.WORDS)


def test_drift_and_points_have_translations():
    from pneumoscope.reporting.bundle_card import _POINTS
    from pneumoscope_clinic.monitoring.quantities import QUANTITIES

    assert {quantity.title for quantity in QUANTITIES} <= set(vocabulary.WORDS)
    assert set(_POINTS) <= set(vocabulary.WORDS)


def test_limits_of_the_shipped_bundles_have_translations():
    from pneumoscope.inference.bundle import load_bundle

    known = messages()
    for name in ("reference", "reference-int8"):
        document = load_bundle(name).document
        assert {*document["limitations"], document["intended_use"]} <= known


@pytest.mark.parametrize("language", OTHERS)
@pytest.mark.parametrize(
    "sentence",
    [
        "the patient is an adult (45 years); the network learnt from patients of 0.5 to 5 years",
        "neither answer can be excluded at an error rate of 2.5 %",
        "the file says that its modality is CT, not a projection radiograph",
        "10 bits are in use of a 16-bit file; 1023 was taken as full scale",
        "the picture looks like a negative (lungs bright, bones dark); nothing was changed, although it is "
        "tagged MONOCHROME2",
        "Readers agreed with 40 of 60 answers; at least 85% is wanted (exact binomial, p = 0.012)",
        *(sentence for sentence in SENTENCES if "{" not in sentence),
    ],
)
def test_sentences_of_other_layers_are_found_in_the_catalogue(language, sentence):
    assert translated(sentence, words(language)) != sentence
    assert translated(sentence, words("en")) == sentence


def test_what_monitoring_notes_is_found():
    from pneumoscope_clinic.monitoring import dashboard

    for note in (dashboard._SELECTIVE, dashboard._BASELINE, dashboard._NO_BUNDLE):
        text = note.format(reviewed=7, films=120, missing=387)
        assert translated(text, words("fr")) != text


def test_an_answer_in_french():
    of = words("fr")
    record = {"probability": 0.973, "decision": "POSITIVE", "threshold": 0.6, "forced": False}
    said = answer_sentence(record, of)
    assert re.sub(r"\s", " ", said) == (
        "Une pneumonie est probable : sa probabilité, 97,3 %, atteint le seuil, 60,0 %."
    )
    explanation = "The evidence for viral pneumonia is strongest in the left lower zone (67%)."
    evidence = evidence_sentence({"explanation": {"sentence": explanation}}, of)
    assert re.sub(r"\s", " ", evidence) == (
        "Les indices de pneumonie virale sont les plus forts dans la zone inférieure gauche (67 %)."
    )


def test_what_no_catalogue_knows_stays_english():
    text = "pydicom: a warning about {braces} and 12 % of it"
    assert translated(text, words("zh")).startswith("pydicom: a warning about (braces)")


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
    assert doctest.testmod(wording).failed == 0
