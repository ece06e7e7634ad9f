"""ONNX export of a trained network, compared with torch, so that prediction needs no torch.

``model.onnx`` has the input ``image`` (N, 1, S, S) float32 in [0, 1] and the outputs ``logits`` (N, K) and
``features`` (N, C, h, w), N free; batch norms and padding are folded into the convolutions.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.files import atomic_path
from pneumoscope.learning.networks import Network

# Largest difference between torch and ONNX Runtime, relative to the largest output and at least absolute:
# float32 sums in another order differ by about 1e-6 of that.
TOLERANCE = 1e-4


def export_onnx(network: Network, size: int, file: Path) -> float:
    """Write ``network`` to ``file`` and compare it with torch on random images.

    Args:
        network: left as it is; its copy is exported in evaluation mode, in float32, on the CPU.
        size: side S of the images in pixels; the written model takes no other.
        file: written atomically, and only when the comparison holds.

    Returns:
        Largest absolute difference between torch and ONNX Runtime, over both outputs, divided by the largest
        output where that is above 1.

    Raises:
        PneumoscopeError: the written model answers differently by more than 1e-4.
    """
    frozen = copy.deepcopy(network).cpu().float().eval()
    films = torch.rand(3, 1, size, size, generator=torch.Generator().manual_seed(0))
    with atomic_path(file) as temporary:
        with _quiet_exporter():
            # Traced with another batch than it is checked with: a fixed batch would show.
            torch.onnx.export(
                frozen,
                (films[:2],),
                str(temporary),
                input_names=["image"],
                output_names=["logits", "features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        _drop_traces(temporary)
        difference = _difference(frozen, films, temporary)
        if not difference <= TOLERANCE:
            raise PneumoscopeError(
                f"ONNX Runtime and torch differ by {difference:.1e}",
                where=file,
                expected=f"at most {TOLERANCE:.0e}",
                remedy="train another network, or report this one",
            )
    return difference


def _difference(network: Network, films: Tensor, file: Path) -> float:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    answers = session.run(["logits", "features"], {"image": films.numpy()})
    with torch.inference_mode():
        expected = network(films)
    return max(
        float((torch.from_numpy(answer) - wanted).abs().max() / max(1.0, float(wanted.abs().max())))
        for answer, wanted in zip(answers, expected, strict=True)
    )


def _drop_traces(file: Path) -> None:
    """Remove the source lines and paths that the exporter notes at every node."""
    model = onnx.load(file)
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, file)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep two messages of the exporter away that are about its own insides."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    # "torchvision is not installed": none of the networks uses its operators.
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch copies pytree specifications through a class that it has deprecated itself.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        registration.setLevel(level)
