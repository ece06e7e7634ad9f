"""Messages of a result in the reader's language: the answer, why, where the evidence lies.

Findings carry codes and parameters; their templates are those of ``core.findings``, translated by gettext.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from pneumoscope.core.findings import MESSAGES, Finding, Severity, fill, from_dict, message
from pneumoscope.core.format import probability

Translate = Callable[[str], str]
"""Translates an English message, word or figure; ``str`` leaves it as it is."""

SELECTION = frozenset(
    {
        "low-threshold-only", "normal-excluded", "both-answers-fit", "no-answer-fits", "both-causes-fit",
        "no-cause-fits", "only-bacterial-fits", "only-viral-fits", "causes-equally-likely",
    }
)  # fmt: skip
"""Codes that say why an answer was given or withheld."""
EVIDENCE = frozenset(code for code in MESSAGES if code.startswith("evidence-")) | {
    "no-zone", "lungs-not-found", "mirrored",
}  # fmt: skip
"""Codes that say where the evidence lies; all others are about the image."""


def answer_sentence(document: Mapping[str, Any], translate: Translate = str) -> str:
    """The decision in one plain sentence; in two where the image was refused and answered by force."""
    _ = translate
    if document["probability"] is None:
        return _("Not answered: the image is not suitable for this algorithm.")
    if document["decision"] == "ABSTAIN":
        sentence = _("No answer: the image singles out neither pneumonia nor its absence.")
    else:
        positive = document["decision"] == "POSITIVE"
        sentence = (
            _("Pneumonia is likely: its probability, {probability}, reaches the threshold, {threshold}.")
            if positive
            else _(
                "Pneumonia is unlikely: its probability, {probability}, is under the threshold, {threshold}."
            )
        ).format(
            probability=_(probability(document["probability"])),
            threshold=_(probability(document["threshold"])),
        )
    if document["forced"]:
        sentence = f"{_('The image was refused and answered by force.')} {sentence}"
    return sentence


def interval_sentence(document: Mapping[str, Any], translate: Translate = str) -> str | None:
    """The interval of the probability; None where there is none."""
    ends = document.get("probability_interval")
    if ends is None:
        return None
    low, high = ends
    return fill(MESSAGES["probability-interval"], {"low": low, "high": high}, translate)


def image_messages(
    document: Mapping[str, Any],
    translate: Translate = str,
    severities: Collection[Severity] = tuple(Severity),
) -> list[str]:
    """What is said of the image (header, pixels, gate), refusals first."""
    if "findings" not in document:  # written before there were findings: English sentences
        return list(dict.fromkeys((*document["gate"]["reasons"], *document["warnings"])))
    found = (one for one in _findings(document) if one.code not in SELECTION | EVIDENCE)
    return [message(one, translate) for one in found if one.severity in severities]


def selection_messages(document: Mapping[str, Any], translate: Translate = str) -> list[str]:
    """Why there is no answer, or an uncertain one."""
    if "findings" not in document:
        return list(document["reasons"])
    return [message(one, translate) for one in _findings(document) if one.code in SELECTION]


def evidence_sentence(document: Mapping[str, Any], translate: Translate = str) -> str | None:
    """Where on the image the evidence lies; None for one that was not explained."""
    if "findings" not in document:
        return (document["explanation"] or {}).get("sentence") or None
    found = [message(one, translate) for one in _findings(document) if one.code in EVIDENCE]
    return " ".join(found) or None


def reasons(document: Mapping[str, Any], translate: Translate = str) -> list[str]:
    """Why refused, warned of, abstained or uncertain."""
    weighty = (Severity.REFUSAL, Severity.WARNING)
    return [*image_messages(document, translate, weighty), *selection_messages(document, translate)]


def explained(document: Mapping[str, Any]) -> list[str]:
    """In English: what was answered, why or why not, where the evidence lies, and the limits."""
    found = (
        interval_sentence(document),
        *(f"Reason: {reason}." for reason in reasons(document)),
        evidence_sentence(document),
    )
    return [answer_sentence(document), *filter(None, found), *document["limitations"]]


def _findings(document: Mapping[str, Any]) -> list[Finding]:
    return [from_dict(one) for one in document["findings"]]
