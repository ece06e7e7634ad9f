"""The search space of a hyper-parameter search, and the training run that each of its points stands for.

Imports neither torch nor optuna.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from pneumoscope.core.config import Config
from pneumoscope.core.errors import ConfigError
from pneumoscope.learning.config import AugmentationConfig, TrainConfig

DIGITS = 4
"""Of a drawn value: finer differences change nothing, and people read and copy the configuration."""

NEAREST = 0.95
"""Share of the way to an excluded bound (a zoom of 1 would divide by 0): as near as a value may come."""

Value = str | int | float
Parameters = Mapping[str, Value]
Stage = Literal["full", "frozen", "fine-tune-last", "staged"]
Optimiser = Literal["adamw", "adam", "sgd", "rmsprop"]


class Range(Config):
    """Numbers from ``low`` to ``high``; ``log`` draws their logarithm evenly. Equal ends fix the value."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low is {self.low:g}, above high, {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must begin above 0, not at {self.low:g}")
        return self


class SearchSpace(Config):
    """The searched keys: choices as lists, ranges as tables; one choice, or equal ends, fixes a key.

    The ranges of rates and decays are logarithmic and centred on what fine-tuning this project's networks
    uses (learning rate and weight decay of ``TrainConfig``), a factor of about ten each way (Bengio 2012,
    "Practical recommendations for gradient-based training", sections 3.1 and 3.3).
    """

    optimiser: Annotated[tuple[Optimiser, ...], Field(min_length=1)] = ("adamw", "adam", "sgd", "rmsprop")
    learning_rate: Range = Field(
        Range(low=5e-5, high=3e-3, log=True), description="of the adaptive optimisers"
    )
    sgd_rate_factor: float = Field(
        30.0,
        gt=0,
        description="the learning rate of sgd is so many times higher: it does not divide by the gradient's "
        "size (0.05 against 0.001 in Loshchilov and Hutter 2019, section 6)",
    )
    batch_size: Annotated[tuple[int, ...], Field(min_length=1)] = (16, 32, 64)
    weight_decay: Range = Range(low=1e-4, high=0.2, log=True)
    augmentation_strength: Range = Field(
        Range(low=0.0, high=2.0), description="0: no augmentation, 1: that of the base configuration"
    )
    dropout: Range = Range(low=0.0, high=0.5)
    label_smoothing: Range = Range(low=0.0, high=0.15)
    ema_decay: Annotated[tuple[float, ...], Field(min_length=1)] = (0.0, 0.99, 0.995, 0.999)
    dense_layers: Annotated[tuple[tuple[int, ...], ...], Field(min_length=1)] = ((), (128,), (512, 128))
    size: Annotated[tuple[int, ...], Field(min_length=1)] = (112, 160, 224)
    stage: Annotated[tuple[Stage, ...], Field(min_length=1)] = (
        "full",
        "frozen",
        "fine-tune-last",
        "staged",
    )
    fixed: tuple[str, ...] = Field((), description="keys that stay as the base configuration has them")

    @model_validator(mode="after")
    def _check(self) -> SearchSpace:
        keys = [name for name in type(self).model_fields if name not in ("fixed", "sgd_rate_factor")]
        unknown = [name for name in self.fixed if name not in keys]
        if unknown:
            raise ValueError(f"'fixed' names {', '.join(unknown)}; it can name {', '.join(keys)}")
        if len(set(self.fixed)) == len(keys):
            raise ValueError("'fixed' names every key; there is nothing to search")
        return self

    def searched(self) -> dict[str, Range | tuple[Value, ...]]:
        """The searched keys; choices as the plain values that a study can store."""
        found: dict[str, Range | tuple[Value, ...]] = {}
        for name in type(self).model_fields:
            if name in ("fixed", "sgd_rate_factor", *self.fixed):
                continue
            value = getattr(self, name)
            found[name] = value if isinstance(value, Range) else tuple(_plain(choice) for choice in value)
        return found


class SearchConfig(Config):
    """A search: the run that it varies, the space, what is optimised and how hopeless trials are ended.

    ``log-loss`` is the default objective: on images like those of Guangzhou the AUC of pneumonia is 0.998 for
    many configurations, within its interval, while the log loss of all classes still tells them apart.
    """

    base: TrainConfig = TrainConfig()
    space: SearchSpace = SearchSpace()
    objective: Literal["log-loss", "auc"] = "log-loss"
    pruner: Literal["median", "halving", "none"] = "median"
    startup_trials: int = Field(8, ge=1, description="random trials before the sampler and pruner learn")

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Which values of the objective are better, in optuna's words."""
        return "minimize" if self.objective == "log-loss" else "maximize"


class Suggests(Protocol):
    """The part of ``optuna.Trial`` that draws values."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number of a range."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of some values."""


def suggest(trial: Suggests, space: SearchSpace) -> dict[str, Value]:
    """Draw a point of ``space`` from ``trial``."""
    point: dict[str, Value] = {}
    for name, kind in space.searched().items():
        if isinstance(kind, Range):
            point[name] = trial.suggest_float(name, kind.low, kind.high, log=kind.log)
        else:
            point[name] = trial.suggest_categorical(name, kind)
    return point


def trial_config(base: TrainConfig, space: SearchSpace, point: Parameters) -> TrainConfig:
    """The run that ``point`` stands for: ``base`` with the point's values, to ``DIGITS`` significant digits.

    Raises:
        ConfigError: such a run cannot be.
    """
    changes: dict[str, Any] = {
        name: _rounded(value) if isinstance(value, float) else value for name, value in point.items()
    }
    strength = changes.pop("augmentation_strength", None)
    if strength is not None:
        changes["augmentation"] = scale_augmentation(base.augmentation, float(strength)).model_dump()
    if "dense_layers" in changes:
        changes["dense_layers"] = _layers(str(changes["dense_layers"]))
    if "learning_rate" in changes:
        factor = _rate_factor(space, str(changes.get("optimiser", base.optimiser)))
        changes["learning_rate"] = _rounded(changes["learning_rate"] * factor)
    try:
        return TrainConfig(**{**base.model_dump(), **changes})
    except ValidationError as error:
        named = ", ".join(f"{name} = {value!r}" for name, value in point.items())
        raise ConfigError(
            f"no training run can have {named}: {error.errors()[0]['msg']}",
            remedy="change the search space or the base configuration",
        ) from error


def base_parameters(base: TrainConfig, space: SearchSpace) -> dict[str, Value]:
    """The point of ``space`` that ``base`` itself stands for; keys whose value lies outside are left out."""
    values: dict[str, Any] = {
        **base.model_dump(),
        "augmentation_strength": 1.0 if base.augmentation.enabled else 0.0,
        "ema_decay": base.ema_decay or 0.0,
        "learning_rate": base.learning_rate / _rate_factor(space, base.optimiser),
    }
    point = {name: _plain(values[name]) for name in space.searched()}
    return {name: value for name, value in point.items() if _holds(space.searched()[name], value)}


def check_space(space: SearchSpace, base: TrainConfig, *, pretrained: bool) -> SearchSpace:
    """``space`` for ``base``, once every choice and both ends of every range have been tried on it.

    Args:
        space: the wished space. Where ``stage`` was not asked for, only stages that ``base`` can have stay.
        base: the configuration to vary.
        pretrained: whether its network starts from weights.

    Raises:
        ConfigError: a value of the space cannot be used, or ``base`` trains teachers.
    """
    if base.distillation is not None:
        raise ConfigError(
            "every trial would train the teachers of 'distillation' anew",
            expected="a base configuration without [distillation]",
            remedy="search without it and add it to best.toml",
        )
    if "stage" not in space.model_fields_set and "stage" not in space.fixed:
        possible = tuple(stage for stage in space.stage if _can_have(base, stage, pretrained))
        space = space.model_copy(update={"stage": possible})
    for name, kind in space.searched().items():
        for value in (kind.low, kind.high) if isinstance(kind, Range) else kind:
            trial_config(base, space, {name: value})
            if name == "stage" and not _can_have(base, str(value), pretrained):
                raise ConfigError(
                    f"stage '{value}' builds on pretrained weights, and {base.network} starts without",
                    expected='stage = ["full"] in the search space',
                    remedy="correct the space, or give weights with init",
                )
    return space


def _can_have(base: TrainConfig, stage: str, pretrained: bool) -> bool:
    if stage != "full" and not pretrained:
        return False
    try:
        TrainConfig(**{**base.model_dump(), "stage": stage})
    except ValidationError:
        return False
    return True


def scale_augmentation(config: AugmentationConfig, strength: float) -> AugmentationConfig:
    """``config`` with every range ``strength`` times as wide: 0 is no augmentation, 1 is ``config``.

    A number that changes nothing at 0 is multiplied by ``strength``; a factor, which changes nothing at 1 and
    says so (``no_change`` in the field's ``json_schema_extra``), is raised to its power. Both stay within the
    field's own bounds, where very high strengths end. What is not a number (switches, words, lists) stays,
    and so does a number that can be neither. Probabilities are scaled as well: twice the strength is more
    images changed, each by more.

    Args:
        config: the augmentation at strength 1.
        strength: at least 0.
    """
    if strength == 1:
        return config
    if strength == 0:
        return config.model_copy(update={"enabled": False})
    values: dict[str, Any] = config.model_dump()
    for name, field in AugmentationConfig.model_fields.items():
        value, neutral = values[name], _no_change(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or neutral is None:
            continue
        scaled = _within(field, value**strength if neutral == 1 else value * strength, value)
        values[name] = round(scaled) if isinstance(value, int) else _rounded(scaled)
    return AugmentationConfig(**values)


def _no_change(field: FieldInfo) -> int | None:
    """The value at which an augmentation changes nothing, 0 or 1; None when it is neither."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "no_change" in extra:
        return int(str(extra["no_change"]))
    low = next((x for kind in ("ge", "gt") if (x := _bound(field, kind)) is not None), -1.0)
    return 0 if low <= 0 else None


def _within(field: FieldInfo, wanted: float, present: float) -> float:
    """``wanted``, or the bound that it passes; ``NEAREST`` of the way to a bound that is itself excluded."""
    for kind, excluding, limit in (("ge", "gt", max), ("le", "lt", min)):
        bound, excluded = _bound(field, kind), _bound(field, excluding)
        if excluded is not None:
            bound = present + NEAREST * (excluded - present)
        if bound is not None:
            wanted = limit(bound, wanted)
    return wanted


def _bound(field: FieldInfo, kind: str) -> float | None:
    return next((float(getattr(m, kind)) for m in field.metadata if hasattr(m, kind)), None)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _rate_factor(space: SearchSpace, optimiser: str) -> float:
    return space.sgd_rate_factor if optimiser == "sgd" else 1.0


def _plain(value: Any) -> Value:
    """A choice as a study can store it: dense layers as ``512-128`` or ``none``."""
    if isinstance(value, list | tuple):
        return "-".join(map(str, value)) or "none"
    plain: Value = value
    return plain


def _layers(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(int(width) for width in text.split("-"))


def _holds(kind: Range | tuple[Value, ...], value: Value) -> bool:
    if isinstance(kind, Range):
        return kind.low <= float(value) <= kind.high
    return value in kind
