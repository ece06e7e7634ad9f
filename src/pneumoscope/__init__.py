"""pneumoscope reads chest radiographs for pneumonia; this module is its Python API, loaded lazily."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# ONNX Runtime (since 1.30) has telemetry that writes to the user's home and reports to its maker. Only this
# variable, set before the import, switches it off: nothing about images or their readers leaves the machine.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PUBLIC = {
    "Dataset": "pneumoscope.data.dataset",
    "commission": "pneumoscope.workflows.commissioning",
    "compare": "pneumoscope.workflows.evaluation",
    "cross_validate": "pneumoscope.workflows.training",
    "evaluate": "pneumoscope.workflows.evaluation",
    "examine": "pneumoscope.inference.pipeline",
    "examine_many": "pneumoscope.inference.pipeline",
    "figures": "pneumoscope.workflows",
    "import_dataset": "pneumoscope.data.importers",
    "load_bundle": "pneumoscope.inference.bundle",
    "overlay": "pneumoscope.inference.overlay",
    "read_radiograph": "pneumoscope.imaging.radiograph",
    "train": "pneumoscope.workflows.training",
}

__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str) -> Any:
    if name == "figures":
        return import_module("pneumoscope.workflows.figures")
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'pneumoscope' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
