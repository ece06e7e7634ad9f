"""Kinds of values in the settings: what is wrong is refused at the start, not when it is first needed.

In: what the configuration says. Out: the same, or an error of pydantic that says what was expected.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError


def is_web_address(value: str) -> bool:
    """``http://`` or ``https://`` and a host, no space; a port is a number."""
    if re.search(r"\s", value):
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _web_address(value: str) -> str:
    if not is_web_address(value):
        raise PydanticCustomError("web_address", "not an address; expected http:// or https:// and a host")
    return value


def _network(value: str) -> str:
    try:
        ip_network(value)
    except ValueError as error:
        raise PydanticCustomError(
            "network", "not an address or network; expected for instance 10.0.0.5 or 10.0.0.0/24"
        ) from error
    return value


def _ae_title(value: str) -> str:
    """PS3.5 section 6.2, VR AE."""
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", value) or not value.strip():
        raise PydanticCustomError(
            "ae_title", "not an AE title; expected 1 to 16 ASCII characters, neither backslash nor control"
        )
    return value.strip()


def _language(value: str) -> str:
    from pneumoscope_clinic.web.translation import languages

    if value not in languages():
        raise PydanticCustomError(
            "language", "no such language; expected one of {known}", {"known": ", ".join(languages())}
        )
    return value


Language = Annotated[str, AfterValidator(_language)]
"""Code of a catalogue, or English."""
WebAddress = Annotated[str, AfterValidator(_web_address)]
"""``http://`` or ``https://`` with a host."""
Network = Annotated[str, AfterValidator(_network)]
"""IP address or network (CIDR)."""
AeTitle = Annotated[str, AfterValidator(_ae_title)]
"""Title of an application entity, without the spaces around it, which do not count."""
