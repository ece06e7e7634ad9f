"""What a decoding library warns about, as sentences that go with the film instead of to the terminal.

In: a block that calls a library. Out: the warnings it raised, in order, each once.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# warnings.catch_warnings swaps process-wide state; two threads inside it at once would leave it swapped.
_lock = threading.RLock()


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
