"""One HTML page in one file: every report of the project is rendered here.

In: a template of ``templates/`` and its values. Out: HTML that needs nothing else: style and pictures are
inside, there is no script, and its Content-Security-Policy forbids to fetch anything, so it can be mailed,
archived or opened without a network. Values are escaped; only :func:`data_uri` puts pictures in.

A page extends ``base.html`` (blocks ``title``, ``header``, ``content``) and takes its parts from the macros
of ``parts.html``: ``figure``, ``card``, ``note``, ``table``, ``estimate``.
"""

from __future__ import annotations

import base64
import math
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pneumoscope import __version__

_SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def render(template: str, **context: Any) -> str:
    """The page ``templates/<template>`` filled with ``context``, as one self-contained HTML document.

    Text in ``context`` is escaped. ``version`` is always there. A name that the template uses and the context
    lacks raises ``jinja2.UndefinedError``: a page never shows a gap silently.
    """
    return _environment().get_template(template).render(version=__version__, **context)


def data_uri(picture: str | bytes) -> str:
    """``picture`` (SVG text, or the bytes of a PNG or JPEG file) as a ``data:`` address for ``<img src>``.

    Raises:
        ValueError: the bytes are neither PNG nor JPEG.
    """
    if isinstance(picture, str):
        return "data:image/svg+xml;base64," + base64.b64encode(picture.encode()).decode()
    for signature, kind in _SIGNATURES.items():
        if picture.startswith(signature):
            return f"data:{kind};base64," + base64.b64encode(picture).decode()
    raise ValueError("neither PNG nor JPEG")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pneumoscope.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "data_uri": data_uri,
        "percent": _percent,
        "decimals": _decimals,
        "grouped": _grouped,
        "duration": _duration,
    }
    return environment


def _percent(value: float | None, digits: int = 1) -> str:
    """0.973 as ``97.3 %``; None and not-a-number as a dash."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def _decimals(value: float | None, digits: int = 3) -> str:
    """0.97342 as ``0.973``; None and not-a-number as a dash."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _grouped(value: float | None) -> str:
    """5216 as ``5,216``; None as a dash."""
    return "–" if value is None else f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    """3725 as ``1 h 2 min``, 65 as ``1 min 5 s``, 3.21 as ``3.2 s``; None as a dash."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
