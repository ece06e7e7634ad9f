"""Configuration of a training run, saved with it as ``config.json``; imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pneumoscope.core.config import Config
from pneumoscope.core.records import Preprocessing, Task
from pneumoscope.evaluation.operating_points import CostConfig
from pneumoscope.evaluation.selective import SelectionConfig

Share = Annotated[float, Field(ge=0, le=1)]

LUNG_PERCENTILES = 1.0, 99.0
"""Of a lung field: it has no black border and no marker, so that its ends are anatomy already."""


_WITHDRAWN = ("body_probability", "hidden_lungs_probability")


class AugmentationConfig(Config):
    """Random changes of training images; each range is drawn uniformly, per image.

    ``horizontal_flip`` is off because a mirrored chest shows the heart on the wrong side (situs inversus),
    and its side marker would be wrong; switch it on only for data that is already mixed.
    """

    enabled: bool = True
    rotation_degrees: float = Field(12.0, ge=0, le=180)
    translation: float = Field(0.06, ge=0, le=0.5, description="share of the side")
    scale: float = Field(0.15, ge=0, lt=1, description="zoom by 1 +- scale")
    aspect: float = Field(0.12, ge=0, lt=1, description="stretch one axis against the other by 1 +- aspect")
    shear_degrees: float = Field(5.0, ge=0, le=45)
    horizontal_flip: bool = False
    brightness: float = Field(0.12, ge=0, le=1, description="added")
    contrast: float = Field(0.3, ge=0, lt=1, description="multiplied round the image's mean, 1 +- contrast")
    gamma: float = Field(0.35, ge=0, le=2, description="exponent exp(+-gamma)")
    histogram_probability: Share = Field(
        0.0, description="share of images that take, in part, the grey-level histogram of another image"
    )
    tone_probability: Share = Field(0.0, description="share of images sent through a random tone curve")
    sharpness_probability: Share = Field(0.0, description="share of images that are blurred or sharpened")
    noise: float = Field(0.04, ge=0, le=1, description="largest standard deviation of white noise")
    soften_probability: Share = 0.2
    soften_scale: float = Field(
        0.4,
        gt=0,
        le=1,
        description="smallest size of a softened image, as a share",
        json_schema_extra={"no_change": 1},
    )
    background_probability: Share = Field(
        0.0, description="share of images that get the surroundings of another image's chest, or plain grey"
    )
    erasing_probability: Share = 0.25
    erasing_area: float = Field(0.12, gt=0, le=0.9, description="largest share of the image that is erased")
    border_probability: Share = Field(0.25, description="share of images whose border is blanked")
    border_width: float = Field(0.08, ge=0, le=0.4, description="largest blanked border, share of the side")

    @model_validator(mode="before")
    @classmethod
    def _without_withdrawn(cls, values: Any) -> Any:
        """Keys of earlier releases are read where they ask for nothing."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if key not in _WITHDRAWN or value}


class MixingConfig(Config):
    """How often the images of a batch are mixed with one another; a batch undergoes one of them or none."""

    mixup_probability: Share = Field(0.0, description="share of batches blended with another order of theirs")
    mixup_share: float = Field(0.5, gt=0, le=0.5, description="largest share of the second image in a blend")
    cutmix_probability: Share = Field(0.0, description="share of batches with patches of another image")

    @property
    def enabled(self) -> bool:
        """Whether any image is mixed."""
        return self.mixup_probability + self.cutmix_probability > 0

    @model_validator(mode="after")
    def _check(self) -> MixingConfig:
        if self.mixup_probability + self.cutmix_probability > 1:
            raise ValueError("mixup_probability and cutmix_probability add up to more than 1")
        return self


class DistillationConfig(Config):
    """Learning the etiology from networks that did not see the image (cross-fitted teachers)."""

    folds: int = Field(
        3, ge=2, description="parts of the training images; a teacher for each of them and size"
    )
    sizes: tuple[Annotated[int, Field(ge=16, le=1024)], ...] = Field(
        (64, 96), min_length=1, description="sides of the teachers' inputs in pixels"
    )
    epochs: int | None = Field(None, ge=1, description="of a teacher; None: as many as the network's own")
    share: Share = Field(0.5, description="share of the teachers in the etiology; the rest is the label")


class UnfreezeStep(Config):
    """From ``epoch`` on, train the last ``blocks`` blocks (0: the head alone; -1: all)."""

    epoch: int = Field(ge=0)
    blocks: int = Field(ge=-1)


class TrainConfig(Config):
    """A training run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9._-]+$", description="name of the bundle")
    network: str = "mobilenet-v2"
    task: Task = Task.THREE_CLASS
    init: str = Field(
        "auto",
        description="'auto' (the publisher's weights, or from scratch when they cannot be had), 'hub' (the "
        "publisher's weights or an error), 'random', or a local safetensors file or folder",
    )
    stage: Literal["full", "frozen", "fine-tune-last", "staged"] = Field(
        "full", description="which part is trained; with init = 'random' 'full' is training from scratch"
    )
    last_blocks: int = Field(4, ge=1, description="blocks that 'fine-tune-last' trains besides the head")
    unfreeze: tuple[UnfreezeStep, ...] = Field(
        (UnfreezeStep(epoch=0, blocks=0), UnfreezeStep(epoch=2, blocks=4), UnfreezeStep(epoch=4, blocks=-1)),
        description="steps of 'staged'",
    )
    layer_decay: float = Field(1.0, gt=0, le=1, description="learning-rate factor per block from the head")

    size: int = Field(224, ge=16, le=1024, description="side of the model input in pixels")
    fit: Literal["squash", "letterbox", "lungs"] = Field(
        "squash",
        description="how an image becomes square: both axes stretched, padded, or the box of both lungs "
        "stretched",
    )
    exposure: Literal["percentile", "none"] = "percentile"

    epochs: int = Field(10, ge=1)
    patience: int = Field(5, ge=1, description="epochs without a better validation loss before stopping")
    checkpoint: Literal["best", "last"] = Field(
        "best", description="which epoch's weights are kept: of the lowest validation loss, or the last"
    )
    batch_size: int = Field(32, ge=2)
    optimiser: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    learning_rate: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    schedule: Literal["cosine", "one-cycle", "constant"] = "cosine"
    warmup: Share = Field(0.05, description="share of the steps with a rising learning rate")
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    dense_layers: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="widths of hidden dense layers in the head; without them class-activation maps exist"
    )
    output_stride: Literal[16, 32] = Field(
        32,
        description="pixels for one cell of the last feature map; 16 makes heat maps twice as fine along "
        "each side (MobileNetV2)",
    )
    dilated: bool = Field(
        True, description="with stride 16: keep the published reach of the last convolutions by dilation"
    )
    ema_decay: float | None = Field(0.995, ge=0, lt=1, description="average of the weights; 0 or None: none")
    gradient_clip: float | None = Field(5.0, gt=0)
    imbalance: Literal["weighted-loss", "sampler", "none"] = "weighted-loss"
    augmentation: AugmentationConfig = AugmentationConfig()
    mixing: MixingConfig = MixingConfig()
    distillation: DistillationConfig | None = None

    seed: int = Field(0, ge=0)
    deterministic: bool = False
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(
        "auto", description="kind of device: `cpu`, `gpu`, `cuda`, `mps`, or what there is"
    )
    devices: int = Field(
        1,
        ge=1,
        description="devices that share a step, each with a batch of its own; with several, progress is in "
        "`history.csv` only and `tune` ends no trial early",
    )
    strategy: Literal["auto", "ddp_spawn", "ddp_fork"] = Field(
        "auto", description="how several devices work together: a process each, gradients averaged (DDP)"
    )
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    threads: int | None = Field(None, ge=1, description="torch threads; None: all cores")
    heat_map: Literal["class-activation", "occlusion"] = Field(
        "class-activation", description="method of the bundle's heat maps; a head without weights: occlusion"
    )
    usual_ages: tuple[float, float] | None = Field(
        None, description="lowest and highest age of the patients in years; others get a warning or no answer"
    )
    false_refusal_rate: float = Field(0.01, gt=0, lt=0.5, description="of the gate, on validation images")
    default_operating_point: Literal["balanced", "screening", "rule-in", "cost"] = "balanced"
    selection: SelectionConfig = SelectionConfig()
    costs: CostConfig = CostConfig()

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.stage != "full" and self.init == "random":
            raise ValueError(f"stage '{self.stage}' builds on pretrained weights, but init is 'random'")
        if self.stage == "frozen" and (self.distillation or self.mixing.enabled):
            raise ValueError("stage 'frozen' learns from fixed features: no mixing, no distillation")
        if self.distillation and self.task is Task.BINARY:
            raise ValueError("distillation softens the etiology, but the task is 'binary'")
        if self.stage == "staged" and (not self.unfreeze or self.unfreeze[0].epoch != 0):
            raise ValueError("the first step of 'unfreeze' must have epoch = 0")
        return self

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing that the bundle will carry."""
        percentiles = LUNG_PERCENTILES if self.fit == "lungs" else Preprocessing().percentiles
        return Preprocessing(self.size, self.fit, self.exposure, percentiles)
