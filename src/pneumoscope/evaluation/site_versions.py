"""Versions of a bundle at a site: each change is kept in its history and can be taken back.

In: a document of a bundle and what commissioning changes. Out: that of the next or the last version.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pneumoscope.core.errors import InputError

KEPT = ("calibration", "operating_points", "default_operating_point", "selection")
"""Keys of the bundle's document that a site changes, and that a rollback restores."""


def commissioned_document(
    document: Mapping[str, Any], result: Mapping[str, Any], dataset: Mapping[str, str]
) -> dict[str, Any]:
    """The bundle's document for the site: its version is one higher, its history says why and what was.

    Args:
        document: of the bundle as it is.
        result: of :func:`commission`.
        dataset: ``name`` and ``hash`` of the local films.
    """
    entry = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "what": "commissioned",
        "dataset": dict(dataset),
        **{key: result[key] for key in ("films", "patients", "ill", "verdict", "reasons")},
        "prevalence": result["limits"]["prevalence"],
        "figures": result["figures"],
        "before": {"id": document["id"], **{key: document[key] for key in KEPT if key in document}},
    }
    history = [*document.get("history", []), entry]
    new = {**document, **result["changed"], "history": history, "version": len(history) + 1}
    del new["created"]
    return new


def rolled_back_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document as it was before the last change, which leaves the history.

    Raises:
        InputError: the bundle is in its first version.
    """
    if not document.get("history"):
        raise InputError(
            "the bundle is in its first version", where=str(document["id"]), expected="a commissioned bundle"
        )
    *history, last = document["history"]
    kept = {
        key: value for key, value in document.items() if key not in (*KEPT, "history", "version", "created")
    }
    earlier = {key: value for key, value in last["before"].items() if key != "id"}
    return {**kept, **earlier} | ({"history": history, "version": len(history) + 1} if history else {})
