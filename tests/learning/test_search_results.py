"""The files of a search, from a study whose trials are known."""

import tomllib

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from pneumoscope.core.config import load_config
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.search_space import SearchConfig
from pneumoscope.learning.search_study import results, to_toml, write_results
from pneumoscope.learning.training import training_set

SEARCH = SearchConfig(
    space={"fixed": ["optimiser", "weight_decay", "augmentation_strength", "dropout", "label_smoothing",
                     "ema_decay", "dense_layers", "size", "batch_size"]}
)  # fmt: skip
SPACE = {
    "learning_rate": FloatDistribution(5e-5, 3e-3, log=True),
    "stage": CategoricalDistribution(("full", "frozen", "fine-tune-last", "staged")),
}


def study_of(count):
    """The log loss is the distance of the learning rate from 0.0005 in powers of ten."""
    rng = np.random.default_rng(2)
    study = optuna.create_study()
    study.set_user_attr("inputs", {"dataset": "ab", "split": "cd"})
    for _ in range(count):
        rate = float(np.exp(rng.uniform(np.log(5e-5), np.log(3e-3))))
        loss = abs(np.log10(rate / 5e-4))
        study.add_trial(
            optuna.create_trial(
                params={"learning_rate": rate, "stage": str(rng.choice(["full", "frozen"]))},
                distributions=SPACE, value=loss, intermediate_values={2: loss, 1: loss + 1},
                user_attrs={"log_loss": loss, "auc": 0.9},
            )
        )  # fmt: skip
    return study


@pytest.fixture(scope="module")
def films(dataset):
    return training_set(dataset)


def test_a_row_says_what_a_trial_was(films):
    study = study_of(3)
    row = results(study, SEARCH, films)["trials"][1]
    trial = study.trials[1]
    assert row == {
        "number": 1, "state": "complete", "value": trial.value, "log_loss": trial.value, "auc": 0.9,
        "epochs": 2, "seconds": row["seconds"], "reason": None, "parameters": trial.params,
        "folder": "trials/1",
        "curve": [trial.value + 1, trial.value],
    }  # fmt: skip


def test_the_parameter_that_matters_is_named_once_there_are_trials_enough(films):
    assert results(study_of(7), SEARCH, films)["importances"] == {}
    shares = results(study_of(40), SEARCH, films)["importances"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["learning_rate"] > 0.8
    assert set(shares) == {"learning_rate", "stage"}


def test_the_base_is_named_where_it_lies_in_the_space(films):
    assert results(study_of(1), SEARCH, films)["base"] == 0
    outside = SEARCH.model_copy(update={"base": TrainConfig(learning_rate=1.0)})
    assert results(study_of(1), outside, films)["base"] is None


def test_the_best_file_is_that_of_the_best_trial(films, tmp_path):
    study = study_of(12)
    document = results(study, SEARCH, films)
    write_results(document, SEARCH, tmp_path)
    text = (tmp_path / "best.toml").read_text()
    best = load_config(TrainConfig, tmp_path / "best.toml")
    assert best.learning_rate == float(f"{study.best_params['learning_rate']:.4g}")
    assert best.stage == study.best_params["stage"]
    assert text.startswith(f"# Trial {study.best_trial.number} of 12: log-loss ")


def test_any_configuration_survives_toml():
    config = TrainConfig(
        init='weights "of" \\ mine', stage="staged", dense_layers=(8, 4), ema_decay=0.0,
        augmentation={"noise": 0.1}, distillation={"folds": 4},
    )  # fmt: skip
    text = to_toml(config)
    assert TrainConfig(**tomllib.loads(text)) == config
    assert "threads" not in text, "None has no word in TOML; it is the default"
