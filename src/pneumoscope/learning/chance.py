"""Draws that all random changes of films are made of.

In: a count, a range and a seeded generator. Out: tensors of draws.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    """(count,) float32, uniform in [low, high)."""
    return torch.rand(count, generator=generator) * (high - low) + low


def chosen(count: int, probability: float, generator: Generator) -> Tensor:
    """Indices of the films that a change with this probability falls on."""
    return torch.nonzero(torch.rand(count, generator=generator) < probability).flatten()
