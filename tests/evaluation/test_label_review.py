"""Confident learning by its equations, and flipped labels among the first that are shown."""

import numpy as np
import pytest

from pneumoscope.core.records import Label, Task
from pneumoscope.evaluation.label_review import ReviewKind, confident_classes, normalised_margin, review
from pneumoscope.evaluation.predictions import PredictionTable

LABELS = (Label.NORMAL, Label.BACTERIAL, Label.VIRAL)


def test_the_confident_class_is_the_likeliest_above_its_own_threshold():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.45, 0.55], [0.85, 0.15]])
    targets = np.array([0, 0, 1, 1, 1])
    # Thresholds: class 0 has (0.9 + 0.7) / 2 = 0.8, class 1 has (0.8 + 0.55 + 0.15) / 3 = 0.5.
    assert confident_classes(probabilities, targets).tolist() == [0, -1, 1, 1, 0]


def test_the_margin_is_towards_the_likeliest_other_class():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    assert normalised_margin(probabilities, np.array([0, 1])) == pytest.approx([0.2, -0.5])


def table(count=600, flipped=0, seed=0):
    """Images whose network is nearly always right; the labels of the first ``flipped`` are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=count)
    logits = rng.normal(size=(count, 3)) + 5 * np.eye(3)[truth]
    powers = np.exp(logits)
    given = truth.copy()
    given[:flipped] = (truth[:flipped] + 1) % 3
    names = tuple(f"{n}.png" for n in range(count))
    labels = tuple(LABELS[k] for k in given)
    return PredictionTable(
        names, names, names, labels, Task.THREE_CLASS, logits, powers / powers.sum(axis=1, keepdims=True)
    )


def test_flipped_labels_come_first_with_the_right_suggestion():
    right, wrong = table(), table(flipped=18)
    shown = [film for film in review(wrong, 18) if film.kind is ReviewKind.LABEL]
    found = [film for film in shown if int(film.path.removesuffix(".png")) < 18]
    assert len(found) >= 16
    for film in found:
        assert film.suggested is right.labels[right.paths.index(film.path)]
        assert film.given is not film.suggested
        assert film.score == pytest.approx(film.probability - film.suggested_probability)
    scores = [film.score for film in shown]
    assert scores == sorted(scores)


def test_hard_films_bear_a_plausible_label_and_films_are_shown_once():
    films = review(table(flipped=18), 20)
    hard = [film for film in films if film.kind is ReviewKind.HARD]
    assert len(hard) == 20
    assert len({film.path for film in films}) == len(films)
    assert np.mean([film.score for film in hard]) < 0.9


def test_labels_that_are_too_coarse_take_no_part():
    some = table(30)
    coarse = PredictionTable(
        some.paths, some.sha256, some.patient_ids, (Label.PNEUMONIA, *some.labels[1:]), some.task,
        some.logits, some.probabilities,
    )  # fmt: skip
    assert some.paths[0] not in {film.path for film in review(coarse, 100)}
