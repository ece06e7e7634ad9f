"""Validated configuration: one small model per command, from TOML and from flags, unknown keys refused.

In: a pydantic model, an optional TOML file, overrides from the command line. Out: a frozen configuration
that is saved with the run it steered.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pneumoscope.core.errors import ConfigError

__all__ = ["Config", "load_config"]


class Config(BaseModel):
    """Base of every configuration: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


C = TypeVar("C", bound=Config)


def load_config(kind: type[C], file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> C:
    """A ``kind`` from defaults, then ``file`` (TOML), then ``overrides``.

    Args:
        kind: the configuration's model.
        file: TOML file, or None.
        overrides: values of flags; None means that the flag was not given; a dot reaches into a table
            (``augmentation.rotation_degrees``).

    Raises:
        ConfigError: the file cannot be parsed, a key is unknown, or a value is out of range.
    """
    values = _read_toml(file) if file else {}
    for key, value in (overrides or {}).items():
        if value is not None:
            *tables, last = key.split(".")
            table = values
            for name in tables:
                table = table.setdefault(name, {})
            table[last] = value
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(kind.model_fields)
        unknown = first["type"] == "extra_forbidden"
        raise ConfigError(
            f"unknown key '{key}'" if unknown else f"'{key}': {first['msg']} (got {first.get('input')!r})",
            where=file,
            expected=f"one of {known}" if unknown else None,
            remedy="correct the configuration or the flag",
        ) from error


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("no such configuration file", where=file) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"not valid TOML: {error}", where=file, remedy="see docs/configuration.md"
        ) from error
