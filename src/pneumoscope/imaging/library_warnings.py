"""Python warnings of decoding libraries, collected as findings of the image instead of printed."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pneumoscope.core.findings import Finding

# warnings.catch_warnings swaps process-wide state; two threads inside it at once would leave it swapped.
_lock = threading.RLock()


def library_findings(library: str, texts: Iterable[str]) -> list[Finding]:
    """What ``library`` warned of."""
    return [Finding.note("library-warning", library=library, text=text) for text in texts]


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the Python warnings of a block; the list is filled when the block ends."""
    messages: list[str] = []
    with _lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield messages
        finally:
            messages.extend(dict.fromkeys(str(warning.message) for warning in caught))
