"""Figures and limits of a shortcut audit on answers that can be counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pneumoscope.evaluation.shortcut_audit import (
    ShortcutConfig,
    check_limits,
    failed_checks,
    release_verdict,
    score_maps,
    score_probes,
    within_auc_statistic,
)
from tests.evaluation.audits import FILMS, made_up_maps, made_up_probes, made_up_table

CONFIG = ShortcutConfig(resamples=200)
ILL = np.arange(FILMS) % 2 == 1


def checks_of(columns=None, maps=None, config=CONFIG, **facts) -> dict[str, dict]:
    rows = score_probes(made_up_table(columns, **facts), made_up_probes(), config)
    found = score_maps(maps or made_up_maps(), config)
    return {check["name"]: check for check in check_limits(rows, found, config)}


def test_pairs_of_films_of_one_examiner_are_counted() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(FILMS)
    owners = np.repeat(["a", "b"], [15, 25])
    statistic = within_auc_statistic(ILL, score, owners.tolist())
    weights = rng.integers(0, 3, (4, FILMS)).astype(float)
    right = pairs = np.zeros(4)
    for name in ("a", "b"):
        rows = owners == name
        count = (weights[:, rows & ILL].sum(axis=1)) * (weights[:, rows & ~ILL].sum(axis=1))
        area = [roc_auc_score(ILL[rows], score[rows], sample_weight=some[rows]) for some in weights]
        right, pairs = right + area * count, pairs + count
    assert statistic(weights) == pytest.approx(right / pairs)
    one = within_auc_statistic(ILL, score, ["a"] * FILMS)
    assert one(np.ones((1, FILMS)))[0] == pytest.approx(roc_auc_score(ILL, score))


def test_levels_of_their_own_do_not_hide_what_each_fold_knows() -> None:
    levels = np.where(np.arange(FILMS) < 20, 0.1, 0.6) + np.where(ILL, 0.2, 0.0)
    row = score_probes(made_up_table({"lungs-black": levels}), made_up_probes(), CONFIG)[1]
    assert row["estimates"]["auc_within"]["value"] == 1
    assert row["estimates"]["roc_auc"]["value"] == 0.75


def test_a_fold_without_a_class_counts_no_pairs() -> None:
    owners = ["a"] * 20 + ["b"] * 20
    statistic = within_auc_statistic(
        np.arange(FILMS) % 4 < 2 * (np.arange(FILMS) < 20), np.ones(FILMS), owners
    )
    assert statistic(np.ones((1, FILMS))).tolist() == [0.5]
    none = within_auc_statistic(np.zeros(FILMS, dtype=bool), np.ones(FILMS), owners)
    assert np.isnan(none(np.ones((1, FILMS)))).all()


def test_a_network_that_knows_without_lungs_fails() -> None:
    chance = np.full(FILMS, 0.5)
    checks = checks_of({"lungs-black": chance, "black-box": 1 - np.where(ILL, 0.9, 0.1)})
    assert (checks["lungs-black"]["value"], checks["lungs-black"]["verdict"]) == (0.5, "pass")
    box = checks["black-box"]
    assert (box["value"], box["verdict"]) == (1, "fail")  # wrong everywhere is as telling
    assert box["low"] < box["value"] <= box["high"] == 1
    assert checks_of()["lungs-black"]["verdict"] == "fail"


def test_lost_accuracy_is_held_against_its_limit() -> None:
    worse = np.where(ILL, 0.9, 0.1)
    worse[0] = 0.9  # one of 40
    checks = checks_of({"frame": worse}, width=100, height=80)
    assert checks["frame"]["value"] == pytest.approx(2.5)
    assert checks["frame"]["low"] <= 2.5 <= checks["frame"]["high"]
    assert checks["frame"]["verdict"] == "fail"
    assert (checks["jpeg-50"]["value"], checks["jpeg-50"]["verdict"]) == (0, "pass")
    assert checks["proportions"]["verdict"] == "pass"
    assert str(checks["jpeg-50"]["value"]) == "0.0"
    lenient = CONFIG.model_copy(update={"max_accuracy_loss": 2.5})
    assert checks_of({"frame": worse}, config=lenient)["frame"]["verdict"] == "pass"


def test_square_films_have_no_proportions_to_lose() -> None:
    check = checks_of(width=224, height=224)["proportions"]
    assert (check["verdict"], check["value"], check["n"]) == ("open", None, None)


def test_maps_are_means_over_films() -> None:
    found = score_maps(made_up_maps(), CONFIG)
    assert found["films"] == found["patients"] == 2
    assert found["energy"]["lungs"]["share"]["value"] == pytest.approx(0.5)
    ratio = found["energy"]["lungs"]["ratio"]
    assert (ratio["value"], ratio["low"], ratio["high"]) == pytest.approx((2, 1.6, 2.4))
    assert found["energy"]["wide"]["ratio"]["value"] == pytest.approx(1.6)
    deletion = found["fidelity"]["deletion"]
    assert deletion["random"]["value"] == pytest.approx(0.5)
    assert deletion["gain"]["value"] == pytest.approx(0.5 - deletion["area"]["value"])
    assert deletion["area"]["value"] == pytest.approx(1 / 3, abs=0.002)
    assert found["curves"]["insertion"][-1] == 1


def test_a_film_without_evidence_has_no_energy() -> None:
    one, other = made_up_maps()
    found = score_maps((one, replace(other, energy=float("nan"))), CONFIG)
    share = found["energy"]["lungs"]["share"]
    assert (share["value"], share["n"]) == (pytest.approx(0.6), 1)
    assert found["energy"]["lungs"]["ratio"]["value"] == pytest.approx(2.4)
    nothing = score_maps([replace(one, energy=float("nan"), agreement=None)], CONFIG)
    assert nothing["energy"]["lungs"]["share"] is None
    assert nothing["agreement"] == {}


def test_maps_are_held_against_their_limits() -> None:
    checks = checks_of()
    verdicts = {name: check["verdict"] for name, check in checks.items()}
    assert {verdicts[name] for name in ("energy", "agreement", "deletion", "insertion")} == {"pass"}
    occlusion = [replace(one, method="occlusion") for one in made_up_maps()]
    assert checks_of(maps=occlusion)["agreement"]["verdict"] == "open"  # it is what others are held against
    strict = ShortcutConfig(resamples=200, min_energy_ratio=2.1, min_fidelity_gain=0.3)
    assert [checks_of(config=strict)[name]["verdict"] for name in ("energy", "deletion")] == ["fail", "fail"]


def test_the_gate_needs_every_limit_kept_and_the_first_measured() -> None:
    strict = CONFIG.model_copy(update={"min_energy_ratio": 2.1})
    chance = np.full(FILMS, 0.5)
    checks = list(checks_of({"lungs-black": chance, "black-box": chance}, config=strict).values())
    assert failed_checks(checks) == [check["title"] for check in checks if check["name"] == "energy"]
    assert release_verdict(checks) == "fail"
    kept = [check for check in checks if check["verdict"] != "fail"]
    assert release_verdict(kept) == "pass"
    unknown = [{**check, "verdict": "open"} if check["name"] == "lungs-black" else check for check in kept]
    assert release_verdict(unknown) == "open"


def test_without_films_with_pneumonia_maps_are_open() -> None:
    rows = score_probes(made_up_table(), made_up_probes(), CONFIG)
    open_ones = [check["name"] for check in check_limits(rows, None, CONFIG) if check["verdict"] == "open"]
    assert open_ones == ["energy", "agreement", "deletion", "insertion"]
