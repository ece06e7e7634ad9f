"""A bundle's network taken apart: its ONNX graph run by torch, so that it has gradients and can be altered.

Inference needs neither and has no torch. The audit of shortcuts needs both: integrated gradients, and the
same network with random weights. Every bundle can be opened, also without the run that trained it, as long
as its graph holds only the operators below; networks in 8 bits have the gradient of what their rounding
stands for (straight-through estimator, Bengio, Léonard & Courville, arXiv 1308.3432).

In: a :class:`Bundle`. Out: an :class:`OpenedNetwork`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

from pneumoscope.core.errors import BundleError
from pneumoscope.core.records import FloatArray
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.prediction import BATCH
from pneumoscope.inference.session import INPUT, OUTPUTS

GRADIENT_STEPS = 24
"""Points of the path of integrated gradients; Sundararajan et al. (section 5) find 20 to 300 enough. On eight
real films and two networks 48 points came within 6 % of the change of the answer; already 16 gave the map, in
cells of a twelfth of the side, that 128 give (rank correlation 0.98 to 1.00)."""

_LAYERS = ("Conv", "DequantizeLinear", "Gemm", "MatMul")  # operators that take weights

Values = list[Tensor]
Attributes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Step:
    """One operator of the graph."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Attributes


class OpenedNetwork:
    """A network as its ONNX graph says, in torch on the CPU.

    Args:
        model: the graph; its operators must be among :data:`OPERATORS`.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._steps = tuple(
            _Step(
                node.op_type,
                tuple(node.input),
                tuple(node.output),
                MappingProxyType({a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}),
            )
            for node in model.graph.node
        )
        self._constants = {one.name: _tensor(one) for one in model.graph.initializer}

    def __call__(self, images: Tensor, replaced: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and features (N, C, h, w) of films (N, 1, S, S) in [0, 1].

        Args:
            images: the films.
            replaced: constants of the graph to use instead of its own, by name.
        """
        values = {**self._constants, **(replaced or {}), INPUT: images}
        for step in self._steps:
            inputs = [values[name] for name in step.inputs if name]
            values[step.outputs[0]] = OPERATORS[step.kind](inputs, step.attributes)
        logits, features = (values[name] for name in OUTPUTS)
        return logits, features

    def integrated_gradients(self, image: FloatArray, target: int) -> FloatArray:
        """What each pixel adds to the log-odds of ``target`` against normal, beyond a plain grey film.

        Sundararajan, Taly & Yan, Axiomatic Attribution for Deep Networks, ICML 2017, equation 1, by the
        midpoint rule; the baseline is the film's own mean, as in :func:`~.explanation.occlusion`.

        Args:
            image: (1, S, S).
            target: class index; 0 is normal.

        Returns:
            (S, S) float32 in logits.
        """
        film = torch.from_numpy(np.array(image, np.float32))
        baseline = torch.full_like(film, float(film.mean()))
        shares = (torch.arange(GRADIENT_STEPS) + 0.5) / GRADIENT_STEPS
        total = torch.zeros_like(film)
        for part in shares.split(BATCH):
            path = baseline.lerp(film, part.view(-1, 1, 1, 1)).requires_grad_(True)
            logits, _ = self(path)
            (gradient,) = torch.autograd.grad((logits[:, target] - logits[:, 0]).sum(), path)
            total += gradient.sum(dim=0)
        return np.asarray(((film - baseline) * total / GRADIENT_STEPS)[0].numpy())

    def randomised_features(self, images: FloatArray, share: float, seed: int) -> FloatArray:
        """The last feature maps of films when the weights of some layers are random.

        The values of each layer's weights are shuffled, which keeps their distribution: the batch norms that
        would hold fresh random weights at bay are folded into them.

        Args:
            images: (N, 1, S, S).
            share: of the layers before the head, counted from the head.
            seed: of the shuffling.

        Returns:
            (N, C, h, w) float32.
        """
        names = self._weights()
        chosen = names[len(names) - round(share * len(names)) :]
        generator = torch.Generator().manual_seed(seed)
        shuffled = {}
        for name in chosen:
            weight = self._constants[name]
            order = torch.randperm(weight.numel(), generator=generator)
            shuffled[name] = weight.flatten()[order].view_as(weight)
        with torch.inference_mode():
            parts = [self(films, shuffled)[1] for films in torch.from_numpy(np.array(images)).split(BATCH)]
        return np.asarray(torch.cat(parts).numpy())

    def _weights(self) -> list[str]:
        """Names of the layers' weights from the film to the feature map."""
        names: list[str] = []
        for step in self._steps:
            for name in step.inputs:
                own = step.kind in _LAYERS and name in self._constants and name not in names
                if own and self._constants[name].ndim >= 2:
                    names.append(name)
            if OUTPUTS[1] in step.outputs:
                break
        return names


def open_network(bundle: Bundle) -> OpenedNetwork:
    """The network of ``bundle``.

    Raises:
        BundleError: its graph has an operator that is not known here.
    """
    model = _load(bundle)
    unknown = _unknown(model)
    if unknown:
        raise BundleError(
            f"no gradients for the operators {', '.join(unknown)}",
            where=bundle.id,
            expected=", ".join(OPERATORS),
        )
    return OpenedNetwork(model)


def unknown_operators(bundle: Bundle) -> tuple[str, ...]:
    """Operators for which the network of ``bundle`` cannot be opened; none when it can."""
    return _unknown(_load(bundle))


def _load(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load(bundle.directory / "model.onnx")


def _unknown(model: onnx.ModelProto) -> tuple[str, ...]:
    return tuple(sorted({node.op_type for node in model.graph.node} - set(OPERATORS)))


def _tensor(constant: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(constant).copy())


def _convolve(inputs: Values, attributes: Attributes) -> Tensor:
    films, weight, *bias = inputs
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    return F.conv2d(
        F.pad(films, (left, right, top, bottom)),
        weight,
        bias[0] if bias else None,
        stride=attributes.get("strides", [1, 1]),
        dilation=attributes.get("dilations", [1, 1]),
        groups=attributes.get("group", 1),
    )


def _gemm(inputs: Values, attributes: Attributes) -> Tensor:
    a, b, *c = inputs
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    product = attributes.get("alpha", 1.0) * (a @ b)
    return product + attributes.get("beta", 1.0) * c[0] if c else product


def _reduce_mean(inputs: Values, attributes: Attributes) -> Tensor:
    axes = inputs[1].tolist() if len(inputs) > 1 else list(attributes["axes"])
    return inputs[0].mean(dim=axes, keepdim=bool(attributes.get("keepdims", 1)))


def _max_pool(inputs: Values, attributes: Attributes) -> Tensor:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    padded = F.pad(inputs[0], (left, right, top, bottom), value=-torch.inf)
    return F.max_pool2d(padded, attributes["kernel_shape"], attributes.get("strides"))


def _average_pool(inputs: Values, attributes: Attributes) -> Tensor:
    return F.avg_pool2d(inputs[0], attributes["kernel_shape"], attributes.get("strides"))


def _quantise(inputs: Values, attributes: Attributes) -> Tensor:
    """To whole numbers of 8 bits; for gradients, as if nothing were rounded."""
    scale, zero = _channelled(inputs, attributes)
    exact = inputs[0] / scale + zero
    limits = torch.iinfo(inputs[2].dtype)
    return (exact + (exact.round() - exact).detach()).clamp(limits.min, limits.max)


def _dequantise(inputs: Values, attributes: Attributes) -> Tensor:
    scale, zero = _channelled(inputs, attributes)
    return (inputs[0].float() - zero) * scale


def _channelled(inputs: Values, attributes: Attributes) -> Values:
    """Scale and zero point as float32, shaped for the axis that they belong to."""
    value, *parameters = inputs
    axis = attributes.get("axis", 1) % max(1, value.ndim)
    shape = [-1 if place == axis else 1 for place in range(value.ndim)]
    return [one.float().reshape(shape if one.numel() > 1 else []) for one in parameters]


OPERATORS: Mapping[str, Callable[[Values, Attributes], Tensor]] = MappingProxyType(
    {
        "Add": lambda x, _: x[0] + x[1],
        "AveragePool": _average_pool,
        "Clip": lambda x, _: x[0].clamp(x[1], x[2]),
        "Concat": lambda x, a: torch.cat(x, dim=a["axis"]),
        "Conv": _convolve,
        "DequantizeLinear": _dequantise,
        "Div": lambda x, _: x[0] / x[1],
        "Gelu": lambda x, a: F.gelu(x[0], approximate=a.get("approximate", b"none").decode()),
        "Gemm": _gemm,
        "LayerNormalization": lambda x, a: F.layer_norm(x[0], x[1].shape, x[1], x[2], a.get("epsilon", 1e-5)),
        "MatMul": lambda x, _: x[0] @ x[1],
        "MaxPool": _max_pool,
        "Mul": lambda x, _: x[0] * x[1],
        "Neg": lambda x, _: -x[0],
        "QuantizeLinear": _quantise,
        "ReduceMean": _reduce_mean,
        "Relu": lambda x, _: F.relu(x[0]),
        "Reshape": lambda x, _: x[0].reshape([int(n) for n in x[1]]),
        "Sigmoid": lambda x, _: x[0].sigmoid(),
        "Sub": lambda x, _: x[0] - x[1],
        "Transpose": lambda x, a: x[0].permute(*a["perm"]),
        "Unsqueeze": lambda x, _: x[0].reshape(_unsqueezed(x[0], x[1])),
    }
)
"""What the networks of the project are exported to, by the ONNX specification (opset 20); the attributes that
the exporter leaves at their defaults are not asked for."""


def _unsqueezed(value: Tensor, axes: Tensor) -> list[int]:
    shape = list(value.shape)
    rank = len(shape) + axes.numel()
    for axis in sorted(int(one) % rank for one in axes):
        shape.insert(axis, 1)
    return shape
