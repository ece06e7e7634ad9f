"""A report as PDF, for the file of a meeting or a review.

In: a page made by :func:`pneumoscope.reporting.pages.render`. Out: an A4 PDF with page numbers, vector
figures and the page's headings as bookmarks. Needs the extra ``pdf`` (WeasyPrint, which needs Pango).
"""

from __future__ import annotations

from pathlib import Path

from pneumoscope.core.errors import MissingExtraError
from pneumoscope.core.files import write_bytes


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

    # WeasyPrint lets Pillow fill up truncated pictures, in the whole process; a truncated film is refused.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    # A report holds all its parts; nothing may be fetched while it is set.
    fetcher = URLFetcher(allowed_protocols=("data",))
    write_bytes(file, HTML(string=html, url_fetcher=fetcher).write_pdf())
    return file
