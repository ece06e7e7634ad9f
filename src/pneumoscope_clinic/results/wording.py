"""What a result says in words, in the reader's language.

In: an answer's record and a function that translates a message (gettext). Out: sentences. What the inference
layer wrote (reasons, where the evidence lies) holds figures and names; they are taken out, the sentence that
remains is looked up, and they are put back. A sentence that no catalogue knows stays English.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pneumoscope.core.findings import percent

Texts = Callable[[str], str]
"""Translates an English message; ``str`` leaves it as it is."""

N_ = str  # marks messages for the extraction

_VARIABLE = re.compile(
    r"(?:< |> )?\d+(?:\.\d+)?(?: ?%)?"
    r"|(?:right|left) (?:upper|middle|lower)(?= zone)|(?:right|left)(?= lung\b)"
    r"|(?:bacterial|viral) pneumonia|(?<=for )pneumonia"
    r"|(?<=threshold of )\w+|(?<=modality is )[^,]+|(?<=that it shows )[^,]+|(?<=oblique view \()[^)]+"
)

SENTENCES = (
    # Where the evidence lies (inference.zones).
    N_("No place of the film speaks for {0}; the network answers from the film as a whole."),
    N_("Most of the evidence for {0} ({1}) lies outside the lungs: distrust this answer."),
    N_("The evidence for {0} is strongest in the {1} zone ({2})."),
    N_("The evidence for {0} is strongest in the {1} zone ({2}) and the {3} zone ({4})."),
    N_("The evidence for {0} is strongest in the {1} zone ({2}), the {3} zone ({4}) and the {5} zone ({6})."),
    N_("The evidence for {0} is spread over the {1} lung ({2})."),
    N_("The evidence for {0} is spread over both lungs."),
    N_("{0} of it lies outside the lungs."),
    N_("Zones are thirds of the film: the lungs were not found."),
    N_("The file says that the picture is mirrored."),
    N_("No zone stands out."),
    # Why no answer, or an uncertain one (inference.selection, inference.prediction).
    N_("called by the low threshold of {0}; at an error rate of {1} it would not be called pneumonia"),
    N_("below the threshold of {0}, but normal is excluded at an error rate of {1}"),
    N_("neither answer can be excluded at an error rate of {0}"),
    N_("neither answer fits at an error rate of {0}"),
    N_("neither bacterial nor viral can be excluded at an error rate of {0}"),
    N_("neither bacterial nor viral fits at an error rate of {0}"),
    N_("bacterial alone fits, though it is the less likely one, at an error rate of {0}"),
    N_("viral alone fits, though it is the less likely one, at an error rate of {0}"),
    N_("bacterial and viral are about equally likely ({0} and {1})"),
    # What the gate found (inference.gate, inference.source_rules, inference.appearance).
    N_("the picture is unlike the chest radiographs that the network learnt from"),
    N_("the film is unusual among those that the network learnt from"),
    N_("the picture is not composed like a frontal chest film"),
    N_("the film is composed unusually; check that it is frontal, whole and straight"),
    N_("the film is turned by {0} degrees; turn it upright"),
    N_("the film is upside down; turn it upright"),
    N_("the film is a negative (bone is dark); invert it"),
    N_("the sides of the picture do not match: not a frontal view, or cut off on one side"),
    N_("the sides of the film match badly; it may be oblique or cut off on one side"),
    N_("the film is too blurred to read"),
    N_("the film is blurred"),
    N_("the film is grainy or over-sharpened"),
    N_("the film is badly exposed: {0} of it is white"),
    N_("the film is badly exposed: {0} of it is black"),
    N_("the film may be badly exposed: {0} of it is white"),
    N_("the film may be badly exposed: {0} of it is black"),
    N_("the picture looks like a negative (bright lungs); check its polarity"),
    N_("the file does not say that it is a radiograph"),
    N_("the file says that its modality is {0}, not a projection radiograph"),
    N_("the file says that it shows {0}, not the chest"),
    N_("the file says that it is a lateral view; the network knows frontal views only"),
    N_("the file says that it is a decubitus or oblique view ({0})"),
    N_("the patient is an adult ({0} years); the network learnt from patients of {1} to {2} years"),
    N_("the patient is {0} years old; the network learnt from patients of {1} to {2} years"),
    # What contradicts itself (worker.sandbox_tasks).
    N_("the file says that the patient is {0} years old, not {1}; the file counts"),
    N_("the picture is blank"),
    N_("the picture is noise"),
    N_("the picture is too small to read ({0} pixels at its shorter side)"),
    N_("the picture is small ({0} pixels at its shorter side); detail is lost"),
    N_("the picture has too few shades of grey for a radiograph"),
    N_("the picture is in colour, and a radiograph has none; save a tinted film in grey"),
)
INTERVAL = N_(
    "95 % interval {low} to {high}, from validation films; films of another hospital can lie further off."
)
"""Of a probability."""

NAMES = (
    N_("right upper"), N_("right middle"), N_("right lower"), N_("left upper"), N_("left middle"),
    N_("left lower"), N_("right"), N_("left"), N_("bacterial pneumonia"), N_("viral pneumonia"),
    N_("pneumonia"),
)  # fmt: skip
"""What is put back into :data:`SENTENCES` and has a translation."""


def answer_sentence(record: Mapping[str, Any], texts: Texts = str) -> str:
    """What was answered, in one plain sentence; of a film that was forced, in two."""
    _ = texts
    if record["probability"] is None:
        return _("Not answered: the film is not suitable for this algorithm.")
    if record["decision"] == "ABSTAIN":
        sentence = _("No answer: the film singles out neither pneumonia nor its absence.")
    else:
        positive = record["decision"] == "POSITIVE"
        sentence = (
            _("Pneumonia is likely: its probability, {probability}, reaches the threshold, {threshold}.")
            if positive
            else _(
                "Pneumonia is unlikely: its probability, {probability}, is under the threshold, {threshold}."
            )
        ).format(probability=_(percent(record["probability"])), threshold=_(percent(record["threshold"])))
    if record["forced"]:
        sentence = f"{_('The film was refused and answered by force.')} {sentence}"
    return sentence


def interval_sentence(record: Mapping[str, Any], texts: Texts = str) -> str | None:
    """The interval of the probability; None where there is none."""
    ends = record.get("probability_interval")
    if ends is None:
        return None
    low, high = (texts(percent(end)) for end in ends)
    return texts(INTERVAL).format(low=low, high=high)


def explained(record: Mapping[str, Any]) -> list[str]:
    """In English: what was answered, why or why not, where the evidence lies, and the limits."""
    reasons = dict.fromkeys([*record["gate"]["reasons"], *record["reasons"]])
    found = (
        interval_sentence(record),
        *(f"Reason: {reason}." for reason in reasons),
        evidence_sentence(record),
    )
    return [answer_sentence(record), *filter(None, found), *record["limitations"]]


def evidence_sentence(record: Mapping[str, Any], texts: Texts = str) -> str | None:
    """Where on the film the evidence lies; None for a film that was not explained."""
    if record["explanation"] is None or not record["explanation"]["sentence"]:
        return None
    sentences = re.split(r"(?<=\.) (?=[A-Z0-9])", record["explanation"]["sentence"])
    return " ".join(translated(sentence, texts) for sentence in sentences)


def translated(sentence: str, texts: Texts) -> str:
    """``sentence`` of the inference layer in the language of ``texts``.

    >>> french = {"neither answer fits at an error rate of {0}": "aucune réponse (taux d'erreur : {0})"}
    >>> translated("neither answer fits at an error rate of 2.5 %", lambda text: french.get(text, text))
    "aucune réponse (taux d'erreur : 2.5 %)"
    """
    values: list[str] = []

    def take_out(found: re.Match[str]) -> str:
        values.append(found.group())
        return f"{{{len(values) - 1}}}"

    message = _VARIABLE.sub(take_out, sentence.replace("{", "(").replace("}", ")"))
    return texts(message).format(*(texts(value) for value in values))
