"""Finding codes and the message table: what is said of an image is a code with parameters, never a sentence.

Imaging, gate and prediction emit :class:`Finding`; the edge (terminal, page, report) turns it into a message
with :func:`message`, in the reader's language. Decisions are made on codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from string import Formatter
from types import MappingProxyType
from typing import Any

Value = str | int | float
Translate = Callable[[str], str]
"""Translates an English message template or word (gettext); ``str`` leaves it as it is."""


class Severity(StrEnum):
    """How much a finding weighs."""

    NOTE = "note"
    WARNING = "warning"
    REFUSAL = "refusal"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say of an image: ``code`` is a key of :data:`MESSAGES`, ``params`` are its raw values."""

    code: str
    severity: Severity
    params: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))


MESSAGES: Mapping[str, str] = MappingProxyType({})
"""English message template by code, the msgid of the catalogues. ``{share:percent}`` formats 0.43 as 43 %,
``{zone:word}`` is translated, ``{years:number}`` is a short number."""


class _MessageFormatter(Formatter):
    """``str.format`` with the specifications ``percent``, ``number`` and ``word``."""

    def __init__(self, translate: Translate) -> None:
        self._translate = translate

    def format_field(self, value: Any, format_spec: str) -> Any:
        if format_spec == "percent":
            return f"{100 * value:.0f} %"
        if format_spec == "number":
            return f"{value:g}"
        if format_spec == "word":
            return self._translate(str(value))
        return super().format_field(value, format_spec)


def message(finding: Finding, translate: Translate = str) -> str:
    """The message of ``finding`` in the language of ``translate``."""
    return _MessageFormatter(translate).vformat(translate(MESSAGES[finding.code]), (), finding.params)


def to_dict(finding: Finding) -> dict[str, Any]:
    """Plain values for JSON: code, severity, params, and the English message beside them."""
    return {
        "code": finding.code,
        "severity": str(finding.severity),
        "params": dict(finding.params),
        "message": message(finding),
    }
