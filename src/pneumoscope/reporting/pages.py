"""Self-contained HTML pages and PDFs: the one Jinja environment of all reports.

A page needs nothing else: style and pictures are inside, there is no script, and its Content-Security-Policy
forbids to fetch anything. Values are escaped; only :func:`data_uri` puts pictures in. A page extends
``base.html`` (blocks ``title``, ``header``, ``content``) and takes its parts from the macros of
``parts.html``.
"""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pneumoscope import __version__
from pneumoscope.core.errors import MissingExtraError
from pneumoscope.core.files import write_bytes
from pneumoscope.core.format import decimals, duration, grouped, percent, probability

_SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def render(template: str, **context: Any) -> str:
    """The page ``templates/<template>`` filled with ``context``, as one self-contained HTML document.

    Text in ``context`` is escaped. ``version`` is always there. A name that the template uses and the context
    lacks raises ``jinja2.UndefinedError``: a page never shows a gap silently.
    """
    return environment("pneumoscope.reporting").get_template(template).render(version=__version__, **context)


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
def environment(package: str) -> Environment:
    """The Jinja environment of ``package``: its ``templates``, escaping, and the filters of ``core.format``.

    A name that a template uses and nobody gave is an error.
    """
    made = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["data_uri"] = data_uri
    for function in (percent, probability, decimals, grouped, duration):
        made.filters[function.__name__] = function
    return made


def write_pdf(html: str, file: Path) -> Path:
    """Set ``html`` as a PDF at ``file`` (written atomically) and return ``file``.

    Raises:
        MissingExtraError: WeasyPrint is not installed, or the system lacks the Pango library.
    """
    try:
        from PIL import ImageFile
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except ImportError as error:
        raise MissingExtraError(
            "a PDF needs WeasyPrint",
            remedy="pip install 'pneumoscope[pdf]', or print the HTML page from a browser",
        ) from error
    except OSError as error:
        raise MissingExtraError(
            f"WeasyPrint cannot load a system library ({error})",
            remedy="install Pango (Debian: apt-get install libpango-1.0-0 libpangoft2-1.0-0 "
            "libharfbuzz-subset0), or print the HTML page from a browser",
        ) from error

    # WeasyPrint lets Pillow fill up truncated pictures, in the whole process; a truncated image is refused.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    # A report holds all its parts; nothing may be fetched while it is set.
    fetcher = URLFetcher(allowed_protocols=("data",))
    write_bytes(file, HTML(string=html, url_fetcher=fetcher).write_pdf())
    return file
