"""From the words that people use for a class to :class:`~pneumoscope.core.records.Label`.

In: a folder name or a cell of a table, and the user's own mapping. Out: a label, :data:`SKIP`, or None for a
word that nobody has explained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from pneumoscope.core.errors import ConfigError, DatasetError
from pneumoscope.core.records import Label


class Skip(Enum):
    """Marks a class whose films the user leaves out."""

    SKIP = "skip"


ClassMap = Mapping[str, Label | Skip]

# Names met in public sets: Kermany, PneumoniaMNIST, NIH ChestX-ray, RSNA 2018, CheXpert, COVID-19 Radiography
# Database.
_SYNONYMS: Final[Mapping[Label, tuple[str, ...]]] = {
    Label.NORMAL: ("normal", "no finding", "no findings", "healthy", "negative", "no pneumonia"),
    Label.BACTERIAL: ("bacterial", "bacteria", "bacterial pneumonia", "pneumonia bacterial"),
    Label.VIRAL: ("viral", "virus", "viral pneumonia", "pneumonia viral"),
    Label.PNEUMONIA: (
        "pneumonia", "pneumonia unspecified", "opacity", "lung opacity", "positive", "pnemonia",
    ),
}  # fmt: skip
_NAMES: Final = {name: label for label, names in _SYNONYMS.items() for name in names}
_NUMBERS: Final[Mapping[str, Label]] = {"0": Label.NORMAL, "1": Label.PNEUMONIA}


def _normalise(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name).strip().lower()


def to_label(name: str, class_map: ClassMap, *, numeric: bool = False) -> Label | Skip | None:
    """What ``name`` means; None when it is unknown.

    Args:
        name: a folder name or a cell. ``A|B`` (NIH ChestX-ray) is pneumonia when one of its parts is.
        class_map: the user's mapping, which wins; the key ``*`` catches everything that is not known.
        numeric: whether ``0`` and ``1`` (also ``0.0``, ``1.0``) mean normal and pneumonia.
    """
    key = _normalise(name)
    if key in class_map:
        return class_map[key]
    if key in _NAMES:
        return _NAMES[key]
    if numeric and (number := re.sub(r"\.0*$", "", key)) in _NUMBERS:
        return _NUMBERS[number]
    parts = [_NAMES.get(_normalise(part)) for part in name.split("|")] if "|" in name else []
    pneumonia = [part for part in parts if part not in (None, Label.NORMAL)]
    return pneumonia[0] if pneumonia else class_map.get("*")


def parse_class_map(entries: Iterable[str]) -> dict[str, Label | Skip]:
    """The mapping behind repeated ``NAME=label`` flags.

    Raises:
        ConfigError: an entry is not of that form or names no label.
    """
    meanings: dict[str, Label | Skip] = {**{str(label): label for label in Label}, "skip": Skip.SKIP}
    mapping: dict[str, Label | Skip] = {}
    for entry in entries:
        name, equals, meaning = entry.rpartition("=")
        label = meanings.get(meaning.strip().lower()) or _NAMES.get(_normalise(meaning))
        if not equals or not name.strip() or label is None:
            raise ConfigError(
                "not a class mapping",
                where=f"--map {entry}",
                expected=f"NAME=label with a label of {', '.join(meanings)}",
                remedy='for example --map "Lung Opacity=pneumonia-unspecified"',
            )
        mapping["*" if name.strip() == "*" else _normalise(name)] = label
    return mapping


def require_known(unknown: Iterable[str], where: str) -> None:
    """Refuse class names that nobody has explained.

    Raises:
        DatasetError: ``unknown`` is not empty.
    """
    names = sorted(set(unknown))
    if names:
        shown = ", ".join(repr(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
        raise DatasetError(
            f"unknown class name{'s' if len(names) > 1 else ''} {shown}",
            where=where,
            expected="normal, bacterial, viral, pneumonia or a usual synonym",
            remedy=f'say what it means with --map "{names[0]}=LABEL" (a label of '
            f"{', '.join(Label)}; or skip to leave its films out)",
        )
