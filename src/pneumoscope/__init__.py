"""pneumoscope reads chest radiographs for pneumonia; this module is its Python API, loaded lazily."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# ONNX Runtime (since 1.30) notes what it does in the user's home and sends it to its maker; only this, before
# it is imported, keeps it from that. Films stay here, and so does the news that somebody reads films here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PUBLIC = {
    "examine": "pneumoscope.inference.pipeline",
    "examine_many": "pneumoscope.inference.pipeline",
    "load_bundle": "pneumoscope.inference.bundle",
    "overlay": "pneumoscope.inference.overlay",
    "read_radiograph": "pneumoscope.imaging.radiograph",
}

__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'pneumoscope' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
