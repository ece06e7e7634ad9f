"""Sentences of a result, and how those of the inference layer find their translation."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import numpy as np
import pytest

from pneumoscope.core.records import AnswerSet, Decision, OperatingPoint, Prediction, Radiograph
from pneumoscope.imaging.color import COLOR_WARNING
from pneumoscope.imaging.dicom_facts import header_warnings
from pneumoscope.imaging.radiograph import _INVERTED
from pneumoscope.inference import appearance, gate, source_rules
from pneumoscope.inference.answer import unsaid_warnings
from pneumoscope.inference.selection import explain_decision, explain_etiology
from pneumoscope.inference.zones import HEIGHTS, SIDES, ZoneShares, describe
from pneumoscope_clinic.results.wording import (
    NAMES,
    SENTENCES,
    answer_sentence,
    evidence_sentence,
    translated,
)
from tests.clinic.film_results import ABSTAINED, NEGATIVE, REFUSED, record


def _template(sentence: str) -> str:
    """The message that is looked up."""
    seen: list[str] = []
    translated(sentence, lambda message: seen.append(message) or message)  # type: ignore[func-returns-value]
    return seen[0]


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


def test_every_sentence_about_places_has_a_message() -> None:
    names = [f"{side} {height}" for side in SIDES for height in HEIGHTS]
    shares = [
        dict.fromkeys(names, 0.0) | dict.fromkeys(lit, 0.9 / count)
        for count in (1, 2, 3)
        for lit in itertools.combinations(names, count)
    ]
    shares += [dict.fromkeys(names, 0.0), dict.fromkeys(names, 1 / 6)]
    shares += [{name: 0.15 if name.startswith(side) else 0.02 for name in names} for side in SIDES]
    for zones, outside, target, mirrored in itertools.product(
        shares, (None, 0.1, 0.3, 0.7), ("bacterial", "viral", "pneumonia"), (True, None)
    ):
        for decision in Decision:
            prediction = Prediction((), {}, 0.9, OperatingPoint("p", 0.5), decision, None, (), "b")
            sentence = describe(ZoneShares(zones, outside), target, prediction, mirrored)
            again = evidence_sentence(record(explanation={"sentence": sentence}), _known)
            assert again == sentence


def _known(message: str) -> str:
    assert message in SENTENCES or message in NAMES or not any(letter.isalpha() for letter in message), (
        message
    )
    return message


def test_every_reason_of_the_selection_has_a_message() -> None:
    point = OperatingPoint("screening", 0.2)
    sets = [
        AnswerSet(answers, 0.025) for answers in ((), ("pneumonia",), ("normal",), ("normal", "pneumonia"))
    ]
    said = [
        one for found in sets for decision in Decision for one in explain_decision(decision, found, point)
    ]
    causes = ((), ("bacterial",), ("viral",), ("viral", "bacterial"))
    said += [explain_etiology(AnswerSet(one, 0.15)) for one in causes]
    assert {_template(sentence) for sentence in said} <= set(SENTENCES)


@pytest.mark.parametrize("module", [gate, source_rules, appearance], ids=lambda module: module.__name__)
def test_every_finding_of_the_gate_has_a_message(module: object) -> None:
    """Each text beside ``Verdict.WARN`` or ``Verdict.REFUSE`` in the source, and each of a table of texts."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))  # type: ignore[attr-defined]
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2 and _is_verdict(node.elts[0]):
            texts.append(_text(node.elts[1]))
        elif isinstance(node, ast.Dict):
            texts += [_text(value) for value in node.values if isinstance(value, ast.Constant)]
    found = [text for text in texts if text and " " in text and not text.startswith("probab")]
    assert found
    for text in found:
        assert _template(text) in SENTENCES, text


def _is_verdict(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "Verdict"


def _text(node: ast.expr) -> str | None:
    """The text with an example in place of each value; None for a name."""
    examples = {"modality": "CT", "part.lower()": "hip", "view": "LLD", "learnt": LEARNT, "age": "45"}
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = []
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                parts.append(examples.get(ast.unparse(part.value), "12%"))
            else:
                parts.append(str(ast.literal_eval(part)))
        return "".join(parts)
    return None


LEARNT = "the network learnt from patients of 1 to 5 years"


def test_an_unknown_sentence_and_braces_stay() -> None:
    assert translated("something new, 3 of {it}", str) == "something new, 3 of (it)"


@pytest.mark.parametrize(
    ("word", "source", "inverted", "warning"),
    [
        ("colour", {}, False, COLOR_WARNING),
        ("modality", {"format": "DICOM", "modality": "CT"}, False, header_warnings({"modality": "CT"})[0]),
        ("negative", {}, True, f"{_INVERTED}, although it is tagged MONOCHROME2"),
    ],
)
def test_what_a_reason_says_is_not_said_again_by_a_warning(
    monkeypatch: pytest.MonkeyPatch, word: str, source: dict[str, str], inverted: bool, warning: str
) -> None:
    monkeypatch.setattr(source_rules, "looks_inverted", lambda pixels: inverted)
    pixels = np.linspace(0, 1, 128 * 128, dtype=np.float32).reshape(128, 128)
    radiograph = Radiograph(pixels, (128, 128), None, source, (warning,))
    (reason,) = [text for _, text in source_rules.inspect_source(radiograph, 64) if word in text]
    gate_said = {"verdict": "WARN", "reasons": [reason], "scores": {}}
    warnings = [warning, "something else", "something else"]
    assert unsaid_warnings(record(gate=gate_said, warnings=warnings)) == ["something else"]
    assert unsaid_warnings(record(warnings=warnings)) == [warning, "something else"]
