"""Action values of many objectives: an ensemble for each, all of them in one batched network."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dibs_rl.popart import Moments, PopArt, rescale_head


class QEnsemble(PopArt):
    """m times k perceptrons, k for each of m objectives: one batched matrix product a layer in place of m * k small ones.

    The members of an objective learn the same target from different starts, and the least of their values is believed (clipped
    double Q: Fujimoto et al. 2018, arXiv 1802.09477). Objectives share no parameter. Each has PopArt units of its own, the
    same for all its members.

    Args:
        inputs: Width d of the input.
        hidden: Widths of the hidden layers.
        activation: Between the layers.
        objectives: Number of objectives m.
        members: Perceptrons k for each.
        rate: Least step size of the moments; a batch is one gradient step's.
        popart: Learn in the targets' units.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        activation: type[nn.Module],
        *,
        objectives: int,
        members: int = 2,
        rate: float = 1e-3,
        popart: bool = True,
    ) -> None:
        super().__init__()
        self.objectives, self.members = objectives, members
        widths = [inputs, *hidden, 1]
        # One net after the other, as SB3 makes its critics: with one objective they start from the same numbers.
        nets = [[nn.Linear(a, b) for a, b in pairwise(widths)] for _ in range(objectives * members)]
        layers = list(zip(*nets, strict=True))
        self.weights = nn.ParameterList([torch.stack([part.weight.detach() for part in layer]) for layer in layers])
        self.biases = nn.ParameterList([torch.stack([part.bias.detach() for part in layer]) for layer in layers])
        self.activation = activation()
        self.start_units(objectives, rate=rate, enabled=popart)

    def normalised(self, inputs: Tensor) -> Tensor:
        """Values in the objectives' own units, `[m, k, b]`: what is trained.

        Args:
            inputs: `[b, d]`, or each objective's own, `[m, b, d]`.
        """
        m, k, b = self.objectives, self.members, inputs.shape[-2]
        output = inputs.expand(m, b, -1).unsqueeze(1).expand(m, k, b, -1).reshape(m * k, b, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            output = self.activation(output) if i else output
            output = torch.baddbmm(bias.unsqueeze(1), output, weight.transpose(1, 2))
        return output.view(m, k, b)

    def least(self, inputs: Tensor) -> Tensor:
        """The least value of each objective's members, `[m, b]`, in its own units."""
        return self.normalised(inputs).min(dim=1).values

    def forward(self, inputs: Tensor) -> Tensor:
        """Values in the rewards' units, `[k, b, m]`."""
        return self.unnormalise(self.normalised(inputs).permute(1, 2, 0))

    def _rescale(self, old: Moments, new: Moments) -> None:
        weight, bias = self.weights[-1].view(self.objectives, -1), self.biases[-1].view(self.objectives, -1)
        rescale_head(weight, bias.t(), old, new)
