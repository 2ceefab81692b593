"""DiBS in TorchJD's `mtl_backward`: two regressions in different units, on one trunk with a head for each.

Each head learns from its own loss, whose unit Adam does not mind; the trunk follows the direction that DiBS makes of both.
"""

import torch
from torch import nn
from torchjd.autojac import jac_to_grad, mtl_backward

from dibs_rl import DiBS


def data(rows=512):
    """Distance in metres and cost in thousands, of the same four numbers."""
    x = torch.randn(rows, 4)
    return x, x[:, :2].norm(dim=1, keepdim=True), 1e6 * (x[:, 2:3] * x[:, 3:4]).tanh()


def main(steps=500, cost_unit=1.0):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
    distance_head, cost_head = nn.Linear(32, 1), nn.Linear(32, 1)
    optimizer = torch.optim.Adam([*trunk.parameters(), *distance_head.parameters(), *cost_head.parameters()], lr=3e-3)
    x, distance, cost = data()
    scale = cost.std()  # a head's outputs are about 1; the loss is in the cost's own unit
    for _ in range(steps):
        optimizer.zero_grad()
        features = trunk(x)
        losses = [
            (distance_head(features) - distance).square().mean(),
            cost_unit * (scale * cost_head(features) - cost).square().mean(),
        ]
        mtl_backward(losses, features=features)
        jac_to_grad(trunk.parameters(), DiBS())
        optimizer.step()
    return trunk, [loss.item() for loss in losses]


if __name__ == "__main__":
    print("squared errors:", main()[1])
