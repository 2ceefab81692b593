"""An optimiser's step along a gradient that is given, and not longer than it may be."""

import torch
from torch import Tensor, nn

from dibs_rl.agents.adam import is_plain, quick_step
from dibs_rl.gradients import flat_gradient


class ClippedStep:
    """Steps of an optimiser along given gradients, whose norm is limited.

    Args:
        optimizer: Its parameters that are not among `parameters` stay as they are.
        parameters: What the gradients are by, in their order.
        max_norm: Largest norm of a gradient.

    Attributes:
        recordable: Whether a step may be recorded as a CUDA graph: it does not look at tensors.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], max_norm: float) -> None:
        self._max_norm = max_norm
        self._flat, parts = flat_gradient(parameters)
        optimizer.zero_grad()
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part
        self.recordable = is_plain(optimizer)
        self._step = quick_step(optimizer)

    def along(self, gradient: Tensor, mask: Tensor | None = None) -> None:
        """One step along minus a gradient `[p]`, the same in all ranks.

        Args:
            gradient: `[p]`.
            mask: `[]` float32: no step where it is 1.

        Raises:
            ValueError: If the gradient has not as many entries as the parameters.
        """
        if gradient.shape != self._flat.shape:
            raise ValueError(f"The gradient must have {len(self._flat)} entries; found shape {list(gradient.shape)}.")
        scale = (self._max_norm / torch.linalg.vector_norm(gradient).add_(1e-6)).clamp_(max=1.0)  # as torch's clip_grad_norm_
        torch.mul(gradient, scale, out=self._flat)
        self._step(mask)
