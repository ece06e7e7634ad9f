"""A bundle small enough to reason about: the feature map is the image itself at 1/8 size, and its negative.

``features`` has two channels, 8 x 8 block means of the image and their negatives; the logits are linear in
the channels' means m and -m (a class-activation network): normal 0, bacterial ``12 (m - 0.5)``, viral
``4 (m - 0.5)``. So an image of mean 0.5 has logits 0, 0, 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pneumoscope.core.records import Task
from pneumoscope.inference.bundle import Bundle, write_bundle

SIZE = 64
CELL = 8
CELLS = SIZE // CELL
SLOPES = {"normal": 0.0, "bacterial": 12.0, "viral": 4.0, "pneumonia": 12.0}


def head_weight(task: Task) -> np.ndarray:
    """(K, 2) float32."""
    return np.array([[SLOPES[name] / 2, -SLOPES[name] / 2] for name in task.classes], np.float32)


def write_model(file: Path, task: Task = Task.THREE_CLASS) -> Path:
    weight = head_weight(task)
    bias = np.array([-0.5 * SLOPES[name] for name in task.classes], np.float32)
    constants = {"weight": weight.T, "bias": bias, "axes": np.array([2, 3], np.int64)}
    nodes = [
        helper.make_node("AveragePool", ["image"], ["mean"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Neg", ["mean"], ["negative"]),
        helper.make_node("Concat", ["mean", "negative"], ["features"], axis=1),
        helper.make_node("ReduceMean", ["features", "axes"], ["pooled"], keepdims=0),
        helper.make_node("Gemm", ["pooled", "weight", "bias"], ["logits"]),
    ]
    shapes = {
        "image": ["n", 1, SIZE, SIZE],
        "logits": ["n", len(task.classes)],
        "features": ["n", 2, CELLS, CELLS],
    }
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes.items()}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [info["image"]],
        [info["logits"], info["features"]],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, file)
    return file


def document(task: Task = Task.THREE_CLASS, **changes: Any) -> dict[str, Any]:
    """A complete ``bundle.json``; ``changes`` replace keys."""
    content: dict[str, Any] = {
        "name": "tiny",
        "task": task.value,
        "classes": list(task.classes),
        "network": {"name": "tiny", "parameters": 0, "feature_shape": [2, CELLS, CELLS]},
        "preprocessing": {"size": SIZE, "fit": "squash", "exposure": "none", "percentiles": [0.5, 99.5]},
        "calibration": {"method": "temperature", "temperature": 1.0},
        "operating_points": [
            {"name": "balanced", "threshold": 0.7, "sensitivity": 0.9, "specificity": 0.9, "n": 10},
            {"name": "sensitive", "threshold": 0.6, "sensitivity": 0.99, "specificity": 0.7, "n": 10},
        ],
        "default_operating_point": "balanced",
        "etiology": {"margin": 0.1},
        "explanation": {"method": "class-activation"},
        "gate": {"warn_distance": 50.0, "refuse_distance": 100.0, "false_refusal_rate": 0.01, "n": 10},
        "training": {
            "dataset_name": "phantoms",
            "dataset_hash": "0" * 64,
            "split": {"method": "fractions", "seed": 0},
            "films": [],
            "patients": [],
            "versions": {},
            "seeds": {},
            "config": {},
        },
        "validation": {"auc": {"value": 0.9, "low": 0.8, "high": 1.0, "n": 10, "method": "bootstrap"}},
        "intended_use": "Tests.",
        "limitations": ["It knows nothing about pneumonia."],
    }
    return {**content, **changes}


def arrays(task: Task = Task.THREE_CLASS) -> dict[str, np.ndarray]:
    return {
        "head_weight": head_weight(task),
        "gate_mean": np.array([1.0, -1.0]) / np.sqrt(2),
        "gate_components": np.array([[1.0, -1.0]]) / np.sqrt(2),
        "gate_variances": np.array([0.02]),
        "gate_residual_variance": np.array(0.02),
    }


def write_tiny_bundle(directory: Path, task: Task = Task.THREE_CLASS, **changes: Any) -> Bundle:
    """Write the bundle to ``directory``; ``changes`` replace keys of ``bundle.json``."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    model = write_model(directory.parent / f"{directory.name}.onnx", task)
    return write_bundle(directory, model, document(task, **changes), arrays(task))
