"""Finding codes and the message table: what is said of an image is a code with parameters, never a sentence.

Imaging, gate and prediction emit :class:`Finding`; the edge (terminal, page, report) turns it into a message
with :func:`message`, in the reader's language. Decisions are made on codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from string import Formatter
from types import MappingProxyType
from typing import Any, Self

from pneumoscope.core.format import probability

Value = str | int | float
Translate = Callable[[str], str]
"""Translates an English message template, word or figure (gettext); ``str`` leaves it as it is."""


class Severity(StrEnum):
    """How much a finding weighs: a note leaves the verdict alone, a warning and a refusal decide it."""

    NOTE = "note"
    WARNING = "warning"
    REFUSAL = "refusal"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say of an image: ``code`` is a key of :data:`MESSAGES`, ``params`` are its raw values."""

    code: str
    severity: Severity
    params: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def note(cls, code: str, **params: Value) -> Self:
        """A finding that leaves the verdict alone."""
        return cls(code, Severity.NOTE, MappingProxyType(params))

    @classmethod
    def warning(cls, code: str, **params: Value) -> Self:
        """A finding to warn of."""
        return cls(code, Severity.WARNING, MappingProxyType(params))

    @classmethod
    def refusal(cls, code: str, **params: Value) -> Self:
        """A finding that forbids an answer."""
        return cls(code, Severity.REFUSAL, MappingProxyType(params))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with plain parameters: a mapping proxy cannot pass between processes."""
        return _finding, (self.code, self.severity, dict(self.params))


def _finding(code: str, severity: Severity, params: dict[str, Value]) -> Finding:
    return Finding(code, severity, MappingProxyType(params))


MESSAGES: Mapping[str, str] = MappingProxyType(
    {
        # What the header says (imaging.header).
        "modality-missing": "the file does not say that it is a radiograph",
        "modality-unspecific": "the modality is {modality}, which does not say that this is a radiograph",
        "modality-not-projection": "the modality is {modality}, not that of a projection radiograph",
        "body-part-not-chest": "the file says that it shows another body part than the chest: {body_part}",
        "body-part-ribs": "the file says that it shows the ribs ({body_part}), which are exposed otherwise",
        "body-part-unknown": "the body part of the file is not known to be the chest: {body_part}",
        "view-lateral": "the file says that it is a lateral view; the network knows frontal views only",
        "view-decubitus-or-oblique": "the file says that it is a decubitus or oblique view ({view})",
        "orientation-lateral": "the patient orientation is that of a lateral view, not a frontal one",
        # How the pixels were read (imaging).
        "looks-negative": "the image looks like a negative (bright lungs, dark bones); check its polarity",
        "photograph": (
            "this is a photograph of a radiograph: the camera changed exposure and outline, so trust the "
            "answer less"
        ),
        "colour": "the image is in colour, and a radiograph has none; save a tinted radiograph in grey",
        "colour-16-bit": "16-bit colour was read as 8 bits",
        "bits-in-use": "{bits} bits are in use of a 16-bit file; {full_scale} was taken as full scale",
        "full-scale-unknown": (
            "the values {low:number} to {high:number} have no known full scale; they were mapped to 0 to 1"
        ),
        "rescale-slope-zero": "Rescale Slope is 0 and was ignored",
        "window-ignored": (
            "the window of the file cannot be used ({reason}); the image was scaled to its own percentiles"
        ),
        "presentation-shape-contradiction": (
            "Presentation LUT Shape {shape} contradicts {photometric_interpretation}; the shape was followed"
        ),
        "library-warning": "{library}: {text}",
        # What the pixels show (inference.gate).
        "blank": "the image is blank",
        "noise": "the image is noise",
        "too-small": "the image is too small to read ({pixels} pixels at its shorter side)",
        "small": "the image is small ({pixels} pixels at its shorter side); detail is lost",
        "few-grey-levels": "the image has too few shades of grey for a radiograph",
        # Whose image it is.
        "age-adult": (
            "the patient is an adult ({age:age}); the network learnt from patients of {low:age} to {high:age}"
        ),
        "age-unusual": (
            "the patient is {age:age} old; the network learnt from patients of {low:age} to {high:age}"
        ),
        "age-contradiction": (
            "the file says that the patient is {age:age} old, not {stated:age}; the file counts"
        ),
        # What the model input looks like (inference.appearance).
        "turned": "the radiograph is turned by 90 degrees; turn it upright",
        "upside-down": "the radiograph is upside down; turn it upright",
        "not-composed": "the image is not composed like a frontal chest radiograph",
        "composed-unusually": (
            "the radiograph is composed unusually; check that it is frontal, whole and straight"
        ),
        "sides-differ": (
            "the sides of the image do not match: not a frontal view, or cut off on one side"
        ),
        "sides-differ-somewhat": (
            "the sides of the radiograph match badly; it may be oblique or cut off on one side"
        ),
        "too-blurred": "the radiograph is too blurred to read",
        "blurred": "the radiograph is blurred",
        "grainy": "the radiograph is grainy or over-sharpened",
        "overexposed": "the radiograph is badly exposed: {share:percent} of it is white",
        "underexposed": "the radiograph is badly exposed: {share:percent} of it is black",
        "bright": "the radiograph may be badly exposed: {share:percent} of it is white",
        "dark": "the radiograph may be badly exposed: {share:percent} of it is black",
        # How far its features lie from the training images' (inference.gate).
        "out-of-distribution": "the image is unlike the chest radiographs that the network learnt from",
        "unusual-features": "the radiograph is unusual among those that the network learnt from",
        # Why an answer was given or withheld (inference.selection).
        "low-threshold-only": (
            "called by the low threshold of {operating_point:word}; at an error rate of {error_rate:rate} it "
            "would not be called pneumonia"
        ),
        "normal-excluded": (
            "below the threshold of {operating_point:word}, but normal is excluded at an error rate of "
            "{error_rate:rate}"
        ),
        "both-answers-fit": "neither answer can be excluded at an error rate of {error_rate:rate}",
        "no-answer-fits": "neither answer fits at an error rate of {error_rate:rate}",
        "both-causes-fit": (
            "neither bacterial nor viral can be excluded at an error rate of {error_rate:rate}"
        ),
        "no-cause-fits": "neither bacterial nor viral fits at an error rate of {error_rate:rate}",
        "only-bacterial-fits": (
            "bacterial alone fits, though it is the less likely one, at an error rate of {error_rate:rate}"
        ),
        "only-viral-fits": (
            "viral alone fits, though it is the less likely one, at an error rate of {error_rate:rate}"
        ),
        "causes-equally-likely": (
            "bacterial and viral are about equally likely ({bacterial:percent} and {viral:percent})"
        ),
        "probability-interval": (
            "95 % interval {low:probability} to {high:probability}, from validation images; images of "
            "another hospital can lie further off."
        ),
        # What the network looks at (imaging.lungs).
        "no-frontal-lungs": "nothing is shaped and placed as lungs are on a frontal chest radiograph",
        "unusual-lungs": "the lungs are shaped or placed unlike those of the training images",
        "no-lung-field": "the lungs were not found; the whole radiograph was looked at instead",
        "lung-completed": "one lung was found in part only; its field was completed by that of the other",
        # Where the evidence lies (inference.explanation).
        "no-zone": "No zone stands out.",
        "evidence-nowhere": (
            "No place of the radiograph speaks for {kind:word}; the network answers from the radiograph as a "
            "whole."
        ),
        "evidence-outside": (
            "Most of the evidence for {kind:word} ({share:percent}) lies outside the lungs: distrust this "
            "answer."
        ),
        "evidence-one-zone": (
            "The evidence for {kind:word} is strongest in the {zone1:word} zone ({share1:percent})."
        ),
        "evidence-two-zones": (
            "The evidence for {kind:word} is strongest in the {zone1:word} zone ({share1:percent}) and the "
            "{zone2:word} zone ({share2:percent})."
        ),
        "evidence-three-zones": (
            "The evidence for {kind:word} is strongest in the {zone1:word} zone ({share1:percent}), the "
            "{zone2:word} zone ({share2:percent}) and the {zone3:word} zone ({share3:percent})."
        ),
        "evidence-right-lung": (
            "The evidence for {kind:word} is spread over the right lung ({share:percent})."
        ),
        "evidence-left-lung": (
            "The evidence for {kind:word} is spread over the left lung ({share:percent})."
        ),
        "evidence-both-lungs": "The evidence for {kind:word} is spread over both lungs.",
        "evidence-partly-outside": "{share:percent} of it lies outside the lungs.",
        "lungs-not-found": "Zones are thirds of the radiograph: the lungs were not found.",
        "mirrored": "The file says that the image is mirrored.",
    }
)  # fmt: skip
"""English message template by code, the msgid of the catalogues. After a parameter's colon: ``percent`` (0.43
is 43 %), ``rate`` (0.025 is 2.5 %), ``probability`` (never 0 % or 100 %), ``number``, ``age`` (in years),
``word`` (one of :data:`WORDS`)."""

WORDS = (
    "bacterial pneumonia", "viral pneumonia", "pneumonia",
    "right upper", "right middle", "right lower", "left upper", "left middle", "left lower",
    "balanced", "screening", "rule-in", "cost",
    "1 day", "{count} days", "{count} months", "{count} years",
)  # fmt: skip
"""What parameters put into messages and has a translation."""


_FIGURES: Mapping[str, Callable[[Any], str]] = MappingProxyType(
    {
        "percent": lambda value: f"{100 * value:.0f} %",
        "rate": lambda value: f"{100 * value:.3g} %",
        "probability": probability,
        "number": lambda value: f"{value:g}",
        "word": str,
    }
)


class _MessageFormatter(Formatter):
    """``str.format`` with the specifications that :data:`MESSAGES` names."""

    def __init__(self, translate: Translate) -> None:
        self._translate = translate

    def format_field(self, value: Any, format_spec: str) -> Any:
        if format_spec == "age":
            return self._age(float(value))
        if format_spec in _FIGURES:
            return self._translate(_FIGURES[format_spec](value))
        return super().format_field(value, format_spec)

    def _age(self, years: float) -> str:
        """Below two months in days, below two years in months."""
        days, months = round(years * 365.25), int(years * 12 + 0.05)
        if months < 2:
            text, count = "1 day" if days == 1 else "{count} days", str(days)
        elif years < 2:
            text, count = "{count} months", str(months)
        else:
            text, count = "{count} years", f"{years:.4g}"
        return self._translate(text).format(count=self._translate(count))


def fill(template: str, params: Mapping[str, Value], translate: Translate = str) -> str:
    """``template`` in the language of ``translate``, with ``params`` in it."""
    return _MessageFormatter(translate).vformat(translate(template), (), params)


def message(finding: Finding, translate: Translate = str) -> str:
    """The message of ``finding`` in the language of ``translate``.

    >>> message(Finding.warning("age-unusual", age=0.25, low=1, high=5))
    'the patient is 3 months old; the network learnt from patients of 12 months to 5 years'
    """
    return fill(MESSAGES[finding.code], finding.params, translate)


def messages(findings: Iterable[Finding]) -> tuple[str, ...]:
    """The English messages of ``findings``."""
    return tuple(message(finding) for finding in findings)


def unique(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Each fact once, with its highest severity; refusals first, notes last.

    Two findings tell one fact when their messages are the same.
    """
    order = list(Severity)
    known: dict[str, Finding] = {}
    for finding in findings:
        text = message(finding)
        first = known.get(text, finding)
        weight = max(first.severity, finding.severity, key=order.index)
        known[text] = Finding(finding.code, weight, MappingProxyType({**finding.params, **first.params}))
    return tuple(sorted(known.values(), key=lambda finding: -order.index(finding.severity)))


def to_dict(finding: Finding) -> dict[str, Any]:
    """Plain values for JSON: code, severity, params, and the English message beside them."""
    return {
        "code": finding.code,
        "severity": str(finding.severity),
        "params": dict(finding.params),
        "message": message(finding),
    }


def from_dict(values: Mapping[str, Any]) -> Finding:
    """The finding of :func:`to_dict`."""
    return _finding(values["code"], Severity(values["severity"]), dict(values["params"]))
