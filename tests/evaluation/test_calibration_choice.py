"""Which calibration is chosen, and on which images."""

from __future__ import annotations

import numpy as np
import pytest

from pneumoscope.core.errors import InputError
from pneumoscope.evaluation.calibration import FALLBACK, FITS, choose_calibration, fit_calibration

from .films import softmax


def _drawn(n: int, scale: float = 1.0, bias: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    right = rng.normal(scale=2, size=(n, 3))
    targets = (softmax(right).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return scale * (right - [0.0, bias, bias]), targets


def _names(n: int) -> list[str]:
    return [f"p{number // 2}" for number in range(n)]


def test_where_all_do_as_well_the_simplest_is_taken() -> None:
    logits, targets = _drawn(400, scale=3.0)
    found = choose_calibration(logits, targets, _names(400))
    assert found["method"] == "temperature"
    assert [one["method"] for one in found["candidates"]] == list(FITS)
    assert min(one["above_best"] for one in found["candidates"]) == 0
    assert found["temperature"] == fit_calibration(logits, targets, method="temperature")["temperature"]


def test_a_bias_that_a_temperature_cannot_undo_is_found() -> None:
    logits, targets = _drawn(600, bias=2.5)
    found = choose_calibration(logits, targets, _names(600))
    temperature = found["candidates"][0]
    assert found["method"] in ("platt", "bias-corrected-temperature")
    assert temperature["above_best"] > 3 * temperature["standard_error"] > 0


def test_the_flexible_are_not_taken_for_fitting_noise() -> None:
    for seed in range(5):
        logits, targets = _drawn(90, seed=seed)
        found = choose_calibration(logits, targets, _names(90))
        assert found["method"] not in ("isotonic", "beta")


def test_films_of_one_patient_are_never_fitted_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = _drawn(60)
    logits[:, 0] += 1e-3 * np.arange(60)  # so that an image can be told by its logits
    patients = {tuple(row): name for row, name in zip(logits.tolist(), _names(60), strict=True)}
    fitted: list[set[str]] = []

    def fit(values: np.ndarray, index: np.ndarray, method: str) -> dict:
        fitted.append({patients[tuple(row)] for row in values.tolist()})
        return fit_calibration(values, index, method=method)

    monkeypatch.setattr("pneumoscope.evaluation.calibration.fit_calibration", fit)
    choose_calibration(logits, targets, _names(60))
    everyone = set(_names(60))
    assert fitted[-1] == everyone
    left_out = [everyone - names for names in fitted[:5]]
    assert set().union(*left_out) == everyone
    assert sum(map(len, left_out)) == len(everyone)


def test_a_class_of_one_patient_falls_back() -> None:
    logits, targets = _drawn(40)
    patients = [f"p{n}" if k != 2 else "one" for n, k in enumerate(targets)]
    found = choose_calibration(logits, targets, patients)
    assert (found["method"], found["candidates"]) == (FALLBACK, [])


def test_a_class_without_films_is_refused() -> None:
    with pytest.raises(InputError, match="cannot calibrate"):
        choose_calibration(np.zeros((4, 3)), np.array([0, 0, 1, 1]), ["a", "b", "c", "d"])
