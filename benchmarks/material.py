"""What the benchmarks work on: real images where there are some, else phantoms; a bundle.

In: the environment variable PNEUMOSCOPE_DATA (a folder with ``kermany224`` and ``kermany_original``) or
nothing. Out: a data set with its pixel cache, a list of files, a bundle directory. Everything that needs
NumPy or torch is done in processes of their own, see :mod:`benchmarks.measuring`.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import answered, measure, module_command

__all__ = ["Material", "find_bundle", "find_films", "find_twin"]

DATA_VARIABLE = "PNEUMOSCOPE_DATA"
SIZE = 224
"""Side of the network's input, in pixels, while training."""
VALIDATION = 8
"""Images at the end of a data set that are not trained on: the training loop wants some to validate with."""

_FOLDERS = {"small": "kermany224", "original": "kermany_original"}
_PHANTOM_HEIGHTS = {"small": 224, "original": 1300}  # the median original image is about 1,300 pixels wide


@dataclass(frozen=True)
class Material:
    """Images on disk.

    Attributes:
        name: what they are, in words.
        dataset: directory of a data set of them, with a cache at :data:`SIZE` pixels.
        files: the files, in the data set's order.
        cache_seconds: time to decode and cache all of them, once.
    """

    name: str
    dataset: str
    files: list[str]
    cache_seconds: float


def find_films(kind: str, count: int, workspace: Path) -> Material:
    """At most ``count`` images, chosen at random with a fixed seed.

    Args:
        kind: ``small`` (files of 224 x 224 pixels) or ``original`` (as the hospital made them).
        count: images.
        workspace: for the data set, and for phantoms where there are no images.
    """
    command = module_command("benchmarks.material", "films", kind=kind, count=count, workspace=str(workspace))
    return Material(**measure(command).values)


def find_bundle(workspace: Path) -> str:
    """The reference bundle where the package ships it, else an untrained one of the same network."""
    return str(
        measure(module_command("benchmarks.material", "bundle", workspace=str(workspace))).values["bundle"]
    )


def find_twin(bundle: str, workspace: Path) -> str:
    """``reference-int8`` where the package ships it, else ``bundle`` quantised with random images."""
    command = module_command("benchmarks.material", "twin", bundle=bundle, workspace=str(workspace))
    return str(measure(command).values["bundle"])


def prepare_films(kind: str, count: int, workspace: str) -> dict[str, Any]:
    """Save a data set of the images, and build its cache."""
    import time

    from pneumoscope.core.files import sha256_file
    from pneumoscope.core.records import Preprocessing, Sample
    from pneumoscope.data.cache import build_cache
    from pneumoscope.data.dataset import Dataset

    root, name = _root(kind, count, Path(workspace))
    found = sorted(path for path in root.rglob("*.jpeg"))
    chosen = random.Random(0).sample(found, min(count, len(found)))
    samples = tuple(
        Sample(path.relative_to(root).as_posix(), sha256_file(path), path.stem, path.stem, _label(path))
        for path in sorted(chosen)
    )
    directory = Path(workspace) / f"{kind}-{count}"
    dataset = Dataset(directory, root, name, "folders", samples)
    dataset.save()
    start = time.perf_counter()
    build_cache(dataset, Preprocessing(size=SIZE))
    return {
        "name": name,
        "dataset": str(directory),
        "files": [str(dataset.file(sample)) for sample in samples],
        "cache_seconds": time.perf_counter() - start,
    }


def _root(kind: str, count: int, workspace: Path) -> tuple[Path, str]:
    """The folder of the images and what they are called; draws phantoms where there is none."""
    data = os.environ.get(DATA_VARIABLE)
    if data:
        return Path(data) / _FOLDERS[kind], _FOLDERS[kind]
    from pneumoscope.data.phantoms import WriteConfig, write_phantoms

    height = _PHANTOM_HEIGHTS[kind]
    root = workspace / f"phantoms-{kind}-{count}"
    if not root.exists():
        write_phantoms(root, WriteConfig(count=count, size=height))
    return root, f"phantoms, {height} px high"


def _label(path: Path) -> Any:
    from pneumoscope.core.records import Label
    from pneumoscope.data.patients import guangzhou_etiology

    return Label.NORMAL if path.parent.name == "NORMAL" else guangzhou_etiology(path.stem) or Label.PNEUMONIA


def prepare_bundle(workspace: str) -> dict[str, Any]:
    """Name of the reference bundle, or directory of an untrained one whose gate lets every image pass."""
    from pneumoscope.inference.bundle import shipped_bundles

    if "reference" in shipped_bundles():
        return {"bundle": "reference"}
    return {"bundle": str(_untrained_bundle(Path(workspace)))}


def prepare_twin(bundle: str, workspace: str) -> dict[str, Any]:
    """Name of the 8-bit bundle, or directory of one made with random images: its speed is the same."""
    from pneumoscope.inference.bundle import load_bundle, shipped_bundles, write_bundle

    if bundle == "reference" and "reference-int8" in shipped_bundles():
        return {"bundle": "reference-int8"}
    import numpy as np

    from pneumoscope.learning.quantisation import quantise_model

    source = load_bundle(bundle)
    size = source.preprocessing.size
    films = np.random.default_rng(0).random((4, 1, size, size), np.float32)
    model = Path(workspace) / "twin.onnx"
    quantise_model(source.directory / "model.onnx", [films], model)
    document = {**source.document, "name": "untrained-int8"}
    return {"bundle": str(write_bundle(Path(workspace) / "twin", model, document, source.arrays).directory)}


def _untrained_bundle(workspace: Path) -> Path:
    import numpy as np
    import torch

    from pneumoscope.inference.bundle import write_bundle
    from pneumoscope.learning.export import export_onnx
    from pneumoscope.learning.networks import NetworkConfig, create_network

    size = 160  # as configs/reference.toml
    torch.manual_seed(0)
    network = create_network(NetworkConfig(name="mobilenet-v2", classes=3, size=size)).eval()
    with torch.inference_mode():
        channels, *grid = network.features(torch.zeros(1, 1, size, size)).shape[1:]
    weight = network.head_weight()
    arrays = {
        "head_weight": np.zeros((3, channels)) if weight is None else weight.numpy(),
        "gate_mean": np.zeros(channels),
        "gate_components": np.eye(1, channels),
        "gate_variances": np.ones(1),
        "gate_residual_variance": np.ones(()),
    }
    document = {
        "name": "untrained",
        "task": "three-class",
        "classes": ["normal", "bacterial", "viral"],
        "network": {"name": "mobilenet-v2", "parameters": 0, "feature_shape": [channels, *grid]},
        "preprocessing": {
            "size": size, "fit": "squash", "exposure": "percentile", "percentiles": [0.5, 99.5],
        },
        "calibration": {"method": "temperature", "temperature": 1.0},
        "operating_points": [{"name": "balanced", "threshold": 0.5}],
        "default_operating_point": "balanced",
        "etiology": {"margin": 0.1},
        "explanation": {"method": "class-activation"},
        "gate": {"warn_distance": 1e9, "refuse_distance": 1e9, "false_refusal_rate": 0.0, "n": 0},
        "training": {"dataset_name": "none", "films": [], "patients": []},
        "validation": {},
        "intended_use": "Measuring speed; its answers mean nothing.",
        "limitations": ["It was not trained."],
    }  # fmt: skip
    export_onnx(network, size, workspace / "untrained.onnx")
    return write_bundle(workspace / "untrained", workspace / "untrained.onnx", document, arrays).directory


if __name__ == "__main__":
    answered({"films": prepare_films, "bundle": prepare_bundle, "twin": prepare_twin})
