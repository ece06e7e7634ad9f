"""The plain recipe has the candidate's network, weights and budget, and nothing that is special."""

from __future__ import annotations

from pathlib import Path

import pytest

from pneumoscope.core.errors import BundleError
from pneumoscope.evaluation.release import ReleaseConfig
from pneumoscope.inference.bundle import Bundle, load_bundle
from pneumoscope.learning.config import (
    AugmentationConfig,
    DistillationConfig,
    MixingConfig,
    TrainConfig,
    UnfreezeStep,
)
from pneumoscope.learning.release_recipes import SHARED, Recipes, plain_recipe, recipes_of

from .phantoms import small_run

SPECIAL = TrainConfig(
    name="special",
    network="cnn-small",
    init="random",
    size=64,
    epochs=3,
    patience=2,
    batch_size=8,
    learning_rate=1e-3,
    optimiser="sgd",
    seed=7,
    threads=1,
    checkpoint="last",
    dropout=0.5,
    label_smoothing=0.1,
    imbalance="sampler",
    fit="letterbox",
    output_stride=16,
    augmentation=AugmentationConfig(histogram_probability=0.5),
    mixing=MixingConfig(mixup_probability=0.3),
    distillation=DistillationConfig(),
    unfreeze=(UnfreezeStep(epoch=0, blocks=1),),
)


def bundle_of(config: object) -> Bundle:
    training = {} if config is None else {"config": config}
    return Bundle(Path(), {"id": "made-up@0", "training": training})


def test_the_plain_recipe_has_the_same_budget_and_defaults() -> None:
    plain = plain_recipe(SPECIAL)
    assert {key: getattr(plain, key) for key in SHARED} == {key: getattr(SPECIAL, key) for key in SHARED}
    rest = set(TrainConfig.model_fields) - set(SHARED) - {"name"}
    usual = TrainConfig()
    assert {key: getattr(plain, key) for key in rest} == {key: getattr(usual, key) for key in rest}
    assert plain.augmentation == AugmentationConfig()
    assert plain.mixing == MixingConfig()
    assert (plain.distillation, plain.output_stride, plain.fit) == (None, 32, "squash")


def test_the_candidate_is_what_the_bundle_says() -> None:
    found = recipes_of(bundle_of(SPECIAL.model_dump(mode="json")), ReleaseConfig())
    assert found == Recipes(SPECIAL, plain_recipe(SPECIAL))
    threaded = recipes_of(bundle_of(SPECIAL.model_dump(mode="json")), ReleaseConfig(threads=2))
    assert (threaded.candidate.threads, threaded.plain.threads) == (2, 2)


def test_weights_of_elsewhere_have_to_be_named(tmp_path: Path) -> None:
    reference = load_bundle("reference")
    with pytest.raises(BundleError, match="--init"):
        recipes_of(reference, ReleaseConfig())
    weights = tmp_path / "weights"
    weights.mkdir()
    found = recipes_of(reference, ReleaseConfig(init=str(weights)))
    assert (found.candidate.init, found.plain.init) == (str(weights), str(weights))
    assert {values["init"] for values in found.to_dict().values()} == {"weights"}


@pytest.mark.parametrize("config", [None, {}, "none"])
def test_a_bundle_without_a_configuration_is_refused(config: object) -> None:
    with pytest.raises(BundleError, match="does not say how it was trained") as caught:
        recipes_of(bundle_of(config), ReleaseConfig())
    assert caught.value.exit_code == 2


def test_a_configuration_of_another_version_is_refused() -> None:
    values = small_run().model_dump(mode="json") | {"unheard_of": 1}
    with pytest.raises(BundleError, match="unheard_of"):
        recipes_of(bundle_of(values), ReleaseConfig())
