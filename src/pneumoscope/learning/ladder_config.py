"""Configuration of a ladder: named variations of one training run, each with a sentence for people.

A TOML file has ``[base]`` (keys of a training run) and one ``[[rung]]`` a variation. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from pneumoscope.core.config import Config, load_config
from pneumoscope.core.errors import ConfigError
from pneumoscope.learning.config import TrainConfig

_OF_ALL_RUNGS = ("name", "seed")


class RungTable(Config):
    """A ``[[rung]]`` as it is written.

    Attributes:
        name: also the folder's and the bundle's.
        says: what the rung is, as a sentence for people.
        group: heading under which its readers look for it.
        control: the rung that it differs from in one thing; the page shows the two side by side.
        train: keys of the training run that differ from ``[base]``.
        vary: keys with lists of values: one rung for each combination.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    says: str = Field(min_length=1)
    group: str = "Networks"
    control: str | None = None
    train: dict[str, Any] = Field(default_factory=dict)
    vary: dict[str, tuple[bool | int | float | str, ...]] = Field(default_factory=dict)


class LadderConfig(Config):
    """A ladder.

    Attributes:
        folds: parts into which the images are split by patient; all rungs share them.
        run_folds: how many of the folds are run, from the first.
        weights: network name -> safetensors file, folder or hub name, used where ``init`` is ``auto``.
        base: keys of the training run that all rungs share.
        rung: the rungs, in reading order.
    """

    folds: int = Field(5, ge=2, le=100)
    run_folds: int = Field(5, ge=1, le=100)
    weights: dict[str, str] = Field(default_factory=dict)
    base: dict[str, Any] = Field(default_factory=dict)
    rung: tuple[RungTable, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> LadderConfig:
        if self.run_folds > self.folds:
            raise ValueError(f"run_folds is {self.run_folds}, but there are {self.folds} folds")
        for rung in self.rung:
            for key in _OF_ALL_RUNGS:
                if key in rung.train or key in rung.vary:
                    raise ValueError(
                        f"rung '{rung.name}' cannot set '{key}': all rungs share the folds' seed"
                    )
        return self


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung, ready to be trained; ``changes`` is what it sets beyond the base, by key."""

    name: str
    says: str
    group: str
    control: str | None
    changes: Mapping[str, Any]
    config: TrainConfig


def load_ladder(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> LadderConfig:
    """The ladder of ``file``, or the one that ships with the package.

    Args:
        file: TOML file, or None.
        overrides: values of flags, as :func:`load_config` takes them.

    Raises:
        ConfigError: the file cannot be parsed, a key is unknown, or a value is out of range.
    """
    if file is not None:
        return load_config(LadderConfig, file, overrides)
    with resources.as_file(resources.files("pneumoscope.learning") / "ladder.toml") as shipped:
        return load_config(LadderConfig, shipped, overrides)


def make_rungs(ladder: LadderConfig, only: tuple[str, ...] = ()) -> tuple[Rung, ...]:
    """The rungs of ``ladder`` in its order, ``vary`` spelled out.

    Args:
        ladder: checked here for the first time as training runs.
        only: names of the wanted rungs; none means all. The name of a rung with ``vary`` stands for all its
            combinations.

    Raises:
        ConfigError: a key or value that a training run does not take, a name that is there twice, or an
            unknown name in ``only`` or ``control``.
    """
    written = [
        (table, _rung(ladder, table, values)) for table in ladder.rung for values in _combinations(table)
    ]
    names = Counter(rung.name for _, rung in written)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice:
        raise ConfigError("a rung is there twice", where=f"rung '{twice}'", remedy="give it another name")
    groups = {table.name for table in ladder.rung}
    asked = [("--only", name) for name in only if name not in groups]
    asked += [(f"control of rung '{rung.name}'", rung.control) for _, rung in written if rung.control]
    for where, name in asked:
        if name not in names:
            raise ConfigError(
                f"there is no rung '{name}'", where=where, expected=f"one of {', '.join(names)}"
            )
    return tuple(rung for table, rung in written if not only or {table.name, rung.name} & set(only))


def _combinations(table: RungTable) -> Iterator[dict[str, Any]]:
    for values in product(*table.vary.values()):
        yield dict(zip(table.vary, values, strict=True))


def _rung(ladder: LadderConfig, table: RungTable, varied: Mapping[str, Any]) -> Rung:
    name = "-".join([table.name, *map(_short, varied.values())])
    words = ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in varied.items())
    changes = {**table.train, **varied}
    values = {**_merged(ladder.base, changes), "name": name}
    if values.get("init", "auto") == "auto":
        values["init"] = ladder.weights.get(values.get("network", _default_network()), "auto")
    try:
        config = load_config(TrainConfig, overrides=values)
    except ConfigError as error:
        raise ConfigError(
            error.problem, where=f"rung '{name}'", expected=error.expected, remedy=error.remedy
        ) from error
    says = f"{table.says} ({words})" if words else table.says
    return Rung(name, says, table.group, table.control, changes, config)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``; a table is merged key by key."""
    merged = dict(base)
    for key, value in changes.items():
        tables = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if tables else value
    return merged


def _default_network() -> str:
    return str(TrainConfig.model_fields["network"].default)


def _short(value: Any) -> str:
    """A value as part of a name: 0.0005 and 5e-4 alike."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
