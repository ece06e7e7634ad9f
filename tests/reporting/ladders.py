"""The content of a ``ladder.json`` with figures that are made up, but tested and ranked for real."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from pneumoscope.core.records import Label, Sample, Task
from pneumoscope.evaluation.comparison import Contestant, compare_pairs, ranking
from pneumoscope.evaluation.evaluate import EvaluationConfig, estimate_figures
from pneumoscope.evaluation.predictions import tabulate

NOISE = {"good": 1.0, "as-good": 1.05, "poor": 3.0}
"""Standard deviation of the logit's error by rung."""


def ladder_document(films: int = 200) -> dict[str, Any]:
    """Three rungs that were compared, the second with two classes, and a fourth that could not be run."""
    rng = np.random.default_rng(0)
    labels = [(Label.NORMAL, Label.BACTERIAL, Label.VIRAL)[number % 3] for number in range(films)]
    samples = [
        Sample(f"{n}.png", f"{n:064x}", f"p{n // 2}", f"p{n // 2}", label) for n, label in enumerate(labels)
    ]
    rows, contestants = [], []
    for name, noise in NOISE.items():
        task = Task.BINARY if name == "as-good" else Task.THREE_CLASS
        table = _answers(samples, task, rng.normal(scale=noise, size=(films, 3)))
        decided = table.probability >= 0.5
        contestants.append(Contestant(name, table.probability, decided))
        figures = estimate_figures(table, decided, EvaluationConfig(resamples=100))
        rows.append(_row(name, task, {key: asdict(value) for key, value in figures.items()}))
    pairs = compare_pairs(table.positive, contestants, table.patient_ids)
    planned = [("as-good", "good"), ("poor", "good")]
    controls = compare_pairs(table.positive, contestants, table.patient_ids, planned)
    names = list(NOISE)
    different = np.array(
        [[{i, j} in ({0, 2}, {1, 2}) for j in range(3)] for i in range(3)]
    )  # what the tests find, see test_ladder_tables
    return {
        "schema_version": 1,
        "dataset": {"name": "grey", "hash": "ab" * 32, "films": films},
        "protocol": {
            "folds": 5, "shared_folds": [1, 2], "seed": 0, "films": films, "patients": films // 2,
            "prevalence": 2 / 3, "operating_point": "balanced", "significance": 0.05, "resamples": 100,
            "speed_threads": 1,
        },
        "base": {"size": 64, "learning_rate": 5e-4},
        "rungs": [*rows, {**_row("hub", Task.BINARY, None), "failure": "cannot be <downloaded>"}],
        "pairs": [asdict(pair) for pair in pairs],
        "controls": [asdict(pair) for pair in controls],
        "ranking": {
            key: [
                [names[i] for i in place]
                for place in ranking([row["estimates"][key]["value"] for row in rows], different)
            ]
            for key in ("roc_auc", "accuracy")
        },
        "cut": ["Fold 3 was not run for all rungs (budget: 2 h)."],
        "versions": {"python": "3.11"},
    }  # fmt: skip


def _answers(samples: list[Sample], task: Task, noise: np.ndarray) -> Any:
    classes = len(task.classes)
    targets = np.array([task.target(sample.label) for sample in samples])
    logits = 2.0 * np.eye(classes)[targets] + noise[:, :classes]
    powers = np.exp(logits)
    return tabulate(samples, task, logits, powers / powers.sum(axis=1, keepdims=True))


def _row(name: str, task: Task, estimates: dict[str, Any] | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name, "says": f"the {name} network", "group": "First" if name != "poor" else "Second",
        "control": "good" if name != "good" else None, "network": "mlp", "task": task.value,
        "changes": {"network": "mlp", "augmentation": {"enabled": False}, "dense_layers": [8, 4]},
        "epochs": 2, "folds": [0, 1], "failure": None, "estimates": estimates,
    }  # fmt: skip
    if estimates is None:
        return {**row, "folds": []}
    history = {"epoch": [0.0, 1.0], "train_loss": [1.0, 0.6], "validation_loss": [0.9, 0.7]}
    return {
        **row, "parameters": 1_234_567, "bundle_bytes": 2_500_000, "initial_weights": "random",
        "training_seconds": 65.0, "milliseconds_per_film": 1.25, "thresholds": [0.4, 0.6], "history": history,
    }  # fmt: skip
