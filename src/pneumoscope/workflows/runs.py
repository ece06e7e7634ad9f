"""What all workflows share: result folders, progress, configuration, and results as dict, table and HTML."""

from __future__ import annotations

import copy
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pneumoscope.core.errors import ConfigError, InputError, MissingExtraError
from pneumoscope.core.files import read_json
from pneumoscope.core.records import Progress, data_frame

if TYPE_CHECKING:
    from pneumoscope.core.config import Config
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.inference.bundle import Bundle

    C = TypeVar("C", bound=Config)

StageProgress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)`` by a workflow."""


class Tabular(ABC):
    """A result that is shown as a table: one row (a dict) per figure or item."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the table, all with the same keys."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values that JSON can hold."""

    def to_frame(self) -> Any:
        """The rows as a ``pandas.DataFrame``.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return data_frame(self.rows())

    def _repr_html_(self) -> str:
        """The rows as an HTML table, for notebooks."""
        rows = self.rows()
        head = "".join(f"<th>{escape(name)}</th>" for name in rows[0]) if rows else ""
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(_shown(cell))}</td>' for cell in row.values())}</tr>" for row in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True)
class Result(Tabular):
    """What a workflow has written: its folder, and the content of its main JSON file."""

    directory: Path
    document: Mapping[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """A copy of the JSON document."""
        return copy.deepcopy(dict(self.document))


def estimate_rows(estimates: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per estimate: figure, value, low and high (95 % interval), n."""
    return [
        {"figure": name, **{key: estimate[key] for key in ("value", "low", "high", "n")}}
        for name, estimate in estimates.items()
    ]


def configured(kind: type[C], config: C | Path | str | None, options: Mapping[str, Any]) -> C:
    """The configuration of a workflow: ``config`` (an object), or a TOML file and ``options``, which win.

    Args:
        kind: the configuration's model.
        config: an object of it, a TOML file, or None.
        options: keys of the configuration; a dot reaches into a table; None: not given.

    Raises:
        ConfigError: an unknown key, a value out of range, or an object with options.
    """
    from pneumoscope.core.config import load_config

    if not isinstance(config, kind):
        return load_config(kind, None if config is None else Path(str(config)), options)
    if given := [name for name, value in options.items() if value is not None]:
        raise ConfigError(
            f"both a {kind.__name__} and {', '.join(given)}",
            expected="the configuration, or keys of it",
        )
    return config


def open_dataset(source: Dataset | Path | str, progress: StageProgress | None = None) -> Dataset:
    """``source`` itself, the data set in that directory, or the import of that folder, table or archive."""
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.data.importers import open_or_import

    if isinstance(source, Dataset):
        return source
    return open_or_import(Path(source), progress=of_stage(progress, "reading images"))


def open_bundle(bundle: Bundle | Path | str) -> Bundle:
    """``bundle`` itself, or the one in that directory or of that shipped name."""
    from pneumoscope.inference.bundle import Bundle, load_bundle

    return bundle if isinstance(bundle, Bundle) else load_bundle(bundle)


def of_stage(progress: StageProgress | None, stage: str) -> Progress | None:
    """The progress callback of one stage."""
    return None if progress is None else partial(progress, stage)


def result_directory(output: Path | str | None, command: str, *names: str) -> Path:
    """The folder for the results of ``command``: ``output``, or ``runs/<time>-<command>-<names>``.

    Raises:
        InputError: ``output`` holds the results of another command.
    """
    if output is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        return Path("runs", "-".join((stamp, command, *names)))
    file = Path(output) / "run.json"
    if file.is_file() and (found := read_json(file).get("command")) != command:
        raise InputError(
            f"the folder holds another run ({found})",
            where=output,
            expected=f"a new folder, or one of an earlier '{command}'",
        )
    return Path(output)


def require(what: str, *modules: str) -> None:
    """Make sure that the libraries ``modules``, which ``what`` needs, are installed.

    Raises:
        MissingExtraError: names those that are not.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{what} needs {', '.join(missing)}",
            remedy="pip install 'pneumoscope[train]' -c constraints.txt",
        )


def _shown(cell: object) -> str:
    return f"{cell:.4f}" if isinstance(cell, float) else "" if cell is None else str(cell)
