"""Run manifest ``run.json``: inputs with hashes, versions, seeds, durations and outcome.

It is written at the start, after every stage and at the end, so that a killed run can be told from a
finished one.
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

from pydantic import ValidationError

from pneumoscope.core.config import Config
from pneumoscope.core.errors import ConfigError
from pneumoscope.core.files import read_json, write_json

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


def earlier_run(
    directory: Path, command: str, config: Config, inputs: Mapping[str, str]
) -> dict[str, Any] | None:
    """What ``run.json`` says of the run that ``directory`` holds and that may go on; None for a new folder.

    Args:
        directory: the run's folder; it need not exist.
        command: what is to run there.
        config: with which configuration.
        inputs: on which inputs, by name; an input that the earlier run did not name is not compared.

    Raises:
        ConfigError: the folder holds a run of another command, configuration or input.
    """
    file = Path(directory) / "run.json"
    if not file.exists():
        return None
    content: dict[str, Any] = read_json(file)
    if content["command"] != command:
        what = f"of another kind ({content['command']})"
    elif not _is_same(config, content["config"]):
        what = "with another configuration"
    elif any(content["inputs"].get(name, digest) != digest for name, digest in inputs.items()):
        what = "on other images or with another split of them"
    else:
        return content
    raise ConfigError(f"the folder holds a run {what}", where=directory, remedy="choose another folder")


def _is_same(config: Config, values: Mapping[str, Any]) -> bool:
    try:
        return type(config)(**values) == config
    except ValidationError:
        return False
