"""Sentences of a result, and how those of the inference layer find their translation."""

from __future__ import annotations

from pneumoscope_clinic.results.wording import (
    answer_sentence,
    evidence_sentence,
    translated,
)
from tests.clinic.film_results import ABSTAINED, NEGATIVE, REFUSED, record


def test_the_answer_in_plain_words() -> None:
    positive = "Pneumonia is likely: its probability, 90.0 %, reaches the threshold, 60.0 %."
    assert answer_sentence(record()) == positive
    assert answer_sentence(record(**NEGATIVE)).startswith("Pneumonia is unlikely: its probability, 2.0 %,")
    assert answer_sentence(record(**ABSTAINED)).startswith("No answer")
    assert answer_sentence(record(**REFUSED)).startswith("Not answered")
    assert answer_sentence(record(forced=True)) == f"The film was refused and answered by force. {positive}"


def test_the_evidence() -> None:
    assert evidence_sentence(record(**REFUSED)) is None
    assert evidence_sentence(record()) == record()["explanation"]["sentence"]
    french = {
        "The evidence for {0} is strongest in the {1} zone ({2}).": "{0} : surtout la zone {1} ({2}).",
        "right lower": "inférieure droite",
        "bacterial pneumonia": "Pneumonie bactérienne",
    }
    sentence = evidence_sentence(record(), lambda message: french.get(message, message))
    assert sentence == "Pneumonie bactérienne : surtout la zone inférieure droite (80%)."


def test_an_unknown_sentence_and_braces_stay() -> None:
    assert translated("something new, 3 of {it}", str) == "something new, 3 of (it)"
