"""Set-up of logging and warnings for one process of an installation, without data of patients.

Our own messages name random image numbers. Libraries for DICOM and HTTP quote values, UIDs and addresses in
what they log and warn of, and are silenced.
"""

from __future__ import annotations

import logging
import threading
import traceback
import warnings
from pathlib import Path
from types import TracebackType

_log = logging.getLogger(__name__)

OURS = ("pneumoscope", "pneumoscope_clinic")
QUOTING = (
    "pydicom",
    "pynetdicom",
    "highdicom",
    "dicomweb_client",
    "urllib3",
    "python_multipart",
    "multipart",
)
"""Libraries whose messages quote what they read or ask for."""


def log_to_stderr() -> None:
    """Log our own messages from INFO on to standard error, those of other libraries from WARNING on."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for package in OURS:
        logging.getLogger(package).setLevel(logging.INFO)
    silence()
    warnings.simplefilter("ignore")
    threading.excepthook = _thread_failed


def _thread_failed(given: threading.ExceptHookArgs) -> None:
    """Say what ended a thread and where, and not in its own words, which may quote what it read."""
    _log.error("a thread ended with %s%s", given.exc_type.__name__, place_of(given.exc_traceback))


def place_of(trace: TracebackType | None) -> str:
    """Where an error came up, `` at file:line``; empty where that is not known."""
    place = traceback.extract_tb(trace)[-1:]
    return f" at {Path(place[0].filename).name}:{place[0].lineno}" if place else ""


def silence() -> None:
    """Keep what :data:`QUOTING` libraries log and pydicom warns of from everybody."""
    for name in QUOTING:
        logger = logging.getLogger(name)
        logger.propagate = False  # a level would not do: pydicom sets its own when it is imported
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", module=r"(pydicom|pynetdicom)\b")
