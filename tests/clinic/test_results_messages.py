"""Messages of a result: the answer in plain words, the evidence, reasons by severity."""

from __future__ import annotations

from pneumoscope.core.findings import MESSAGES, Finding, Severity
from pneumoscope_clinic.results.messages import (
    EVIDENCE,
    SELECTION,
    answer_sentence,
    evidence_sentence,
    explained,
    image_messages,
    reasons,
    selection_messages,
)
from tests.clinic.film_results import ABSTAINED, NEGATIVE, REFUSED, findings, record


def test_the_answer_in_plain_words() -> None:
    positive = "Pneumonia is likely: its probability, 90.0 %, reaches the threshold, 60.0 %."
    assert answer_sentence(record()) == positive
    assert answer_sentence(record(**NEGATIVE)).startswith("Pneumonia is unlikely: its probability, 2.0 %,")
    assert answer_sentence(record(**ABSTAINED)).startswith("No answer")
    assert answer_sentence(record(**REFUSED)).startswith("Not answered")
    assert answer_sentence(record(forced=True)) == f"The image was refused and answered by force. {positive}"


def test_the_evidence() -> None:
    assert evidence_sentence(record(**REFUSED)) is None
    french = {
        MESSAGES["evidence-one-zone"]: "{kind:word} : surtout la zone {zone1:word} ({share1:percent}).",
        "right lower": "inférieure droite",
        "bacterial pneumonia": "Pneumonie bactérienne",
    }
    sentence = evidence_sentence(record(), lambda message: french.get(message, message))
    assert sentence == "Pneumonie bactérienne : surtout la zone inférieure droite (80 %)."


def test_each_finding_stands_in_one_place() -> None:
    """Refusals and warnings of the image are reasons, notes are not; selection and evidence apart."""
    said = record(
        findings=findings(
            Finding.refusal("body-part-not-chest", body_part="HAND2"),
            Finding.warning("blurred"),
            Finding.note("photograph"),
            Finding.note("both-answers-fit", error_rate=0.1),
            Finding.note("evidence-both-lungs", kind="pneumonia"),
        )
    )
    assert len(image_messages(said)) == 3
    assert "HAND2" in image_messages(said)[0]
    assert len(image_messages(said, severities=[Severity.NOTE])) == 1
    assert len(selection_messages(said)) == 1
    assert reasons(said) == [*image_messages(said)[:2], *selection_messages(said)]
    assert evidence_sentence(said) == "The evidence for pneumonia is spread over both lungs."
    text = " ".join(explained(said))
    assert all(text.count(one) == 1 for one in reasons(said))


def test_the_groups_are_of_known_codes() -> None:
    assert set(MESSAGES) >= SELECTION | EVIDENCE
    assert not SELECTION & EVIDENCE


def test_a_document_from_before_there_were_findings_keeps_its_english_sentences() -> None:
    older = record(warnings=["decoded at 8 bits"])
    del older["findings"]
    assert image_messages(older) == ["decoded at 8 bits"]
    assert selection_messages(older) == older["reasons"]
    assert evidence_sentence(older) == older["explanation"]["sentence"]
