"""Circuit breaker of a destination, with exponential backoff and jitter.

After a failure the circuit is open: nothing is sent for a while, then one job probes. Whether an error is
the destination's or one result's cannot be told from the error itself (status 500, time-out), so another job
probes each time, and a job that fails right after another succeeded backs off alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
"""Between two attempts: a PACS that is back has its results five minutes later at most."""
_TURN_S = 1.0
"""After a pause: jobs that were not tried yet are due within it, the others after it."""


def pause_after(attempts: int, chance: Callable[[], float] = random.random) -> float:
    """Exponential backoff in seconds, up to LONGEST_PAUSE_S; half of it is random jitter."""
    longest = min(LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 30))
    return longest * (0.5 + 0.5 * chance())


@dataclass
class CircuitBreaker:
    """State of one destination in this process.

    Attributes:
        up: closed: the last attempt succeeded.
        until: open until that moment of ``time.monotonic``.
        problem: why.
        failures: in a row.
        tried: jobs that failed since the last success.
        suspects: jobs that failed just after another succeeded: the fault may be theirs alone.
    """

    up: bool = False
    until: float = 0.0
    problem: dict[str, Any] = field(default_factory=dict)
    failures: int = 0
    tried: set[int] = field(default_factory=set)
    suspects: set[int] = field(default_factory=set)

    def left(self) -> float:
        """Seconds until the next probe."""
        return self.until - time.monotonic()

    def turn(self, job_id: int) -> float:
        """Seconds after the pause when a job is due: those that have not been tried come first."""
        first = 0.0 if job_id not in self.tried | self.suspects else _TURN_S
        return first + _TURN_S * random.random()  # nosec B311

    def failed(self, job_id: int, problem: dict[str, Any], pause: float) -> float:
        """Nothing got through; the seconds until the job's next attempt, ``pause`` or more.

        A suspect that fails again says nothing of the destination, and holds no other up.
        """
        if job_id in self.suspects:
            return pause
        if self.up:
            self.suspects.add(job_id)
        self.up = False
        self.tried.add(job_id)
        self.failures += 1
        rest = pause_after(self.failures)
        self.until, self.problem = time.monotonic() + rest, problem
        return max(pause, rest + self.turn(job_id))

    def succeeded(self, job_id: int) -> None:
        """A result was taken: the pause is over."""
        self.up, self.until, self.failures = True, 0.0, 0
        self.tried.clear()
        self.suspects.discard(job_id)
