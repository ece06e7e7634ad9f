"""What a run was: inputs with hashes, versions, seeds, durations and outcome, in one JSON file.

In: the command and its configuration. Out: ``run.json`` in the run's folder, written at the start, after
every stage and at the end, so that a killed run can be told from a finished one.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pneumoscope.core.files import write_json

__all__ = ["RunManifest", "library_versions"]

_LIBRARIES = (
    "pneumoscope", "numpy", "scipy", "scikit-learn", "pillow", "pydicom", "onnxruntime", "torch", "lightning",
    "transformers",
)  # fmt: skip


def library_versions() -> dict[str, str]:
    """Versions of Python, of this package and of the libraries whose numbers end in its results."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


class RunManifest:
    """The record of one run; :meth:`save` writes it to ``<directory>/run.json``.

    Args:
        directory: the run's folder.
        command: what was run, for example ``train``.
        config: its validated configuration as plain values.
        seeds: every seed that the run used, by name.
    """

    def __init__(
        self,
        directory: Path,
        command: str,
        config: Mapping[str, Any],
        seeds: Mapping[str, int] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.content: dict[str, Any] = {
            "command": command,
            "outcome": "running",
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "platform": platform.platform(),
            "versions": library_versions(),
            "config": dict(config),
            "seeds": dict(seeds or {}),
            "inputs": {},
            "durations_s": {},
            "results": {},
        }
        self._start = time.monotonic()

    def add_input(self, name: str, digest: str) -> None:
        """Name an input (a file, a data set, a bundle) by its hash."""
        self.content["inputs"][name] = digest

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; a stage that raises leaves outcome ``failed`` behind."""
        start = time.monotonic()
        try:
            yield
        except BaseException as error:
            self.content["outcome"] = "failed"
            self.content["error"] = str(error) or type(error).__name__
            raise
        finally:
            self.content["durations_s"][name] = round(time.monotonic() - start, 3)
            self.save()

    def finish(self, **results: Any) -> None:
        """Mark the run done and keep its results."""
        self.content["outcome"] = "done"
        self.content["durations_s"]["total"] = round(time.monotonic() - self._start, 3)
        self.content["results"].update(results)
        self.save()

    def save(self) -> None:
        """Write ``run.json`` atomically."""
        write_json(self.directory / "run.json", self.content)
