"""Translation with gettext catalogues (``catalogues/*.po``) and Babel formats of dates and numbers.

English is the message itself and needs no file. A language is one file: it holds pages, reports and findings.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from functools import cache

from babel import Locale, UnknownLocaleError, dates, lists, numbers
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import NullTranslations, Translations

from pneumoscope_clinic.settings import CATALOGUES, SOURCE_LANGUAGE, languages

_FIGURE = re.compile(r"([<>] )?(\d+(?:\.\d+)?)( ?%)?")


class Words:
    """One language.

    Attributes:
        language: its code, as in ``<html lang>``.
        locale: its rules for dates and numbers.
        translations: its messages, for the template engine.
    """

    def __init__(self, language: str, translations: NullTranslations) -> None:
        self.language = language
        self.locale = Locale.parse(language, sep="-")
        self.translations = translations

    def __call__(self, message: str) -> str:
        """``message`` in this language, English where the catalogue lacks it; a figure as it is written here.

        >>> words("en")("97.3 %")
        '97.3 %'
        """
        figure = _FIGURE.fullmatch(message)
        return self.translations.gettext(message) if figure is None else self._figure(message, figure)

    def _figure(self, message: str, figure: re.Match[str]) -> str:
        """A figure that a sentence of the inference layer holds, such as ``< 0.1 %``."""
        if self.language == SOURCE_LANGUAGE:
            return message
        sign, value, percent = figure.groups()
        digits = len(value.partition(".")[2])
        shown = self._percent(float(value) / 100, digits) if percent else self.number(float(value), digits)
        return f"{sign or ''}{shown}"

    @property
    def name(self) -> str:
        """What its speakers call it."""
        return (self.locale.get_display_name(self.locale) or self.language).capitalize()

    def day(self, moment: datetime | date) -> str:
        """``19 Nov 2026``, in the machine's time zone."""
        day = _local(moment) if isinstance(moment, datetime) else moment
        return dates.format_date(day, "medium", self.locale)

    def short_day(self, day: date) -> str:
        """``Nov 19``, for the axis of a chart."""
        return str(dates.format_skeleton("MMMd", day, locale=self.locale))

    def time(self, moment: datetime) -> str:
        """Day and time to the minute, in the machine's time zone."""
        local = _local(moment)
        clock = dates.format_time(local, "short", locale=self.locale)
        return f"{dates.format_date(local, 'medium', self.locale)} {clock}"

    def percent(self, share: float | None, digits: int = 1) -> str:
        """0.9731 as ``97.3 %``; a dash for None. What is not quite 0 or 1 is not rounded to it."""
        if share is None:
            return "–"
        smallest = 10.0 ** -(digits + 2)
        if 0 < share < smallest:
            return f"< {self._percent(smallest, digits)}"
        if 1 - smallest < share < 1:
            return f"> {self._percent(1 - smallest, digits)}"
        return self._percent(share, digits)

    def _percent(self, share: float, digits: int) -> str:
        if self.language == SOURCE_LANGUAGE:  # as the rest of the project writes it
            return f"{100 * share:.{digits}f} %"
        pattern = self.locale.percent_formats[None].pattern
        form = pattern.replace("#,##0", "0." + "0" * digits if digits else "0")
        return numbers.format_percent(share, form, self.locale)

    def number(self, value: float | None, digits: int = 0) -> str:
        """5216 as ``5,216``; a dash for None."""
        if value is None:
            return "–"
        form = "#,##0" + ("." + "0" * digits if digits else "")
        return numbers.format_decimal(value, form, self.locale)

    def enumeration(self, parts: Sequence[str]) -> str:
        """``a, b and c``."""
        return lists.format_list(list(parts), locale=self.locale)


@cache
def words(language: str) -> Words:
    """The language of code ``language``, one of :func:`languages`."""
    if language == SOURCE_LANGUAGE:
        return Words(language, NullTranslations())
    with open(CATALOGUES / f"{language}.po", "rb") as stream:
        catalogue = read_po(stream, locale=language.replace("-", "_"), abort_invalid=True)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return Words(language, Translations(compiled))


def choose_language(wishes: Iterable[str | None], accepted: str, default: str) -> str:
    """The language to answer in.

    Args:
        wishes: what the reader chose, strongest first; None and unknown codes are passed over.
        accepted: the request's Accept-Language (RFC 9110, 12.5.4).
        default: for a reader who asks for none of ours.
    """
    ours = languages()
    for wish in (*wishes, *_accepted(accepted)):
        if wish in ours:
            return wish
    return default if default in ours else SOURCE_LANGUAGE


def _accepted(header: str) -> list[str]:
    """Codes of a header, best first, each followed by its bare language (``fr-CH``, ``fr``)."""
    weighted = []
    for number, part in enumerate(header[:500].split(",")):
        code, _, parameter = part.strip().partition(";")
        try:
            weight = float(parameter.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        if weight > 0:
            weighted.append((-weight, number, code.strip()))
    codes: list[str] = []
    for _, _, code in sorted(weighted):
        try:
            codes += [code, Locale.parse(code, sep="-").language]
        except (ValueError, UnknownLocaleError):
            continue
    return codes


def _local(moment: datetime) -> datetime:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone()
