"""Exports that trace each architecture once in a process: to trace takes seconds, whatever the weights are.

``export_onnx`` compares every file with torch all the same, so weights in a wrong place would not pass.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from torch import nn

trace = torch.onnx.export
_traced: dict[Hashable, tuple[Any, Any]] = {}


def export(network: nn.Module, films: tuple[torch.Tensor], file: str | Path, **options: Any) -> None:
    """``torch.onnx.export``, with the graph of an earlier network of the same architecture."""
    saved = {"external_data": options.pop("external_data")}
    key = _architecture(network), films[0].shape, str(options)
    if key not in _traced:
        program = trace(network, films, **options, optimize=False)
        _traced[key] = program, program.model.clone()
    program, graph = _traced[key]
    program.model = graph.clone()
    weights = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    program.apply_weights(
        {name: value.detach() for name, value in weights.items() if name in graph.graph.initializers}
    )
    program.optimize()
    program.save(file, **saved)
    program.model = None  # the weights are let go


def _architecture(network: nn.Module) -> Hashable:
    """What the graph follows from: modules, their plain attributes, names and shapes of the weights."""
    plain = (bool, int, float, str, tuple)
    attributes = [
        (name, sorted((key, str(value)) for key, value in vars(module).items() if isinstance(value, plain)))
        for name, module in network.named_modules()
    ]
    shapes = [(name, tuple(value.shape), str(value.dtype)) for name, value in network.state_dict().items()]
    return f"{network!r} {attributes} {shapes}"
