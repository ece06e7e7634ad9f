"""Validated configuration: one small model per command, from TOML and from flags, unknown keys refused."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pneumoscope.core.errors import ConfigError


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
            _put(values, key, value)
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        raise ConfigError(
            f"unknown key '{key}'" if unknown else f"'{key}': {first['msg']} (got {first.get('input')!r})",
            where=file,
            expected=_known_keys(kind, first["loc"][:-1]) if unknown else None,
            remedy="correct the configuration or the flag",
        ) from error


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``values["a"]["b"]`` for the key ``a.b``."""
    *tables, last = key.split(".")
    for name in tables:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"'{key}': '{name}' is a single value", remedy="correct the flag")
    values[last] = value


def _known_keys(kind: type[Config], table: tuple[int | str, ...]) -> str | None:
    """What may stand in a table of the configuration, in words; None for the tables of a list."""
    for name in table:
        inner = kind.model_fields[str(name)].annotation
        if not (isinstance(inner, type) and issubclass(inner, Config)):
            return None
        kind = inner
    return f"one of {', '.join(kind.model_fields)}"


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("no such configuration file", where=file) from error
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=file) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"not valid TOML: {error}", where=file, remedy="see docs/configuration.md"
        ) from error
