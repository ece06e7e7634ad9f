"""Ages as they are stored, so that they name nobody.

In: an age in years. Out: the same, or 90 for all who are older.
"""

from __future__ import annotations

_OLDEST = 90.0


def coarse_age(years: float) -> float:
    """The age; ages above 89 name people (HIPAA, 45 CFR 164.514(b)(2)(i)(C)), and are one."""
    return min(float(years), _OLDEST)
