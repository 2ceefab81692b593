"""Sums and roundings in the order in which MO-Gymnasium's NumPy code does them, so that rewards equal its own bit for bit."""

import torch
from torch import Tensor

_LANES = 8  # running sums that NumPy keeps side by side
_LONGEST = 128  # what is longer it halves first


def sum_rows(values: Tensor) -> Tensor:
    """`np.sum` of each row of `[n, k]`.

    Raises:
        ValueError: If k > 128, from where on NumPy's order is another one.
    """
    k = values.shape[1]
    if k > _LONGEST:
        raise ValueError(f"At most {_LONGEST} numbers are summed in NumPy's order; found {k}.")
    if k < _LANES:
        return _one_by_one(values[:, 0], values[:, 1:])
    whole = k - k % _LANES
    first, *others = values[:, :whole].split(_LANES, dim=1)
    lanes = first
    for part in others:
        lanes = lanes + part
    pairs = lanes[:, 0::2] + lanes[:, 1::2]
    fours = pairs[:, 0::2] + pairs[:, 1::2]
    return _one_by_one(fours[:, 0] + fours[:, 1], values[:, whole:])


def energy(actions: Tensor, weight: float) -> Tensor:
    """Minus the sum of squared actions `[n, k]`, times a weight and divided by it: Gymnasium undone, rounding and all."""
    return -(weight * sum_rows(actions.square())) / weight


def vector_reward(*components: Tensor) -> Tensor:
    """`np.array([...], dtype=np.float32)` of each world: components `[n]`, of any float type, to `[n, m]`."""
    return torch.stack([component.float() for component in components], dim=1)


def add_to_all(reward: Tensor, amount: Tensor) -> Tensor:
    """`reward += amount`: added in float64 and rounded to the reward's float32, `[n, m]` and `[n]` to `[n, m]`."""
    return (reward.double() + amount.double().unsqueeze(1)).float()


def _one_by_one(total: Tensor, values: Tensor) -> Tensor:
    for value in values.unbind(dim=1):
        total = total + value
    return total
