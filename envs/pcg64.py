"""NumPy's default generator in torch: a stream for each world, all of them advanced at once, on any device.

PCG-64 (O'Neill, "PCG: a family of simple fast space-efficient statistically good algorithms for random number generation",
2014) is a linear congruential generator of 128 bits: here four limbs of 32 bits in int64 tensors, so that worlds which draw
numbers need neither Python nor the host. What is drawn equals `np.random.Generator(np.random.PCG64(...))` bit for bit.
"""

from itertools import pairwise

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
_LIMBS = 4
_LOW = 0xFFFFFFFF  # a limb's 32 bits


class Streams:
    """A stream of uniform numbers for each of n worlds.

    Args:
        num_envs: Worlds n; their streams begin anywhere, until they are seeded.
        device: Where numbers are drawn.
    """

    def __init__(self, num_envs: int, device: torch.device | str = "cpu") -> None:
        words = np.random.SeedSequence().generate_state(2 * _LIMBS * num_envs, np.uint32).astype(np.int64)
        self._state, self._increment = torch.from_numpy(words).view(2, num_envs, _LIMBS).to(device).unbind()
        self._increment[:, 0] |= 1  # odd, or the period is shorter
        self._worlds = torch.arange(num_envs, device=device)
        multiplier = _limbs(_MULTIPLIER)
        # [i, k]: what limb i of the state is multiplied by in limb k of the product; what overflows 128 bits is dropped.
        table = [[multiplier[k - i] if k >= i else 0 for k in range(_LIMBS)] for i in range(_LIMBS)]
        self._multiplier = torch.tensor(table, device=device)
        self._unsigned = torch.tensor([(1 << (64 - by)) - 1 if by else -1 for by in range(64)], device=device)

    def __len__(self) -> int:
        return len(self._worlds)

    def seed(self, world: int, seed: int) -> None:
        """Begins a world's stream as Gymnasium's generator of this seed does."""
        generator, _ = gym.utils.seeding.np_random(seed)
        state = generator.bit_generator.state["state"]
        for stored, key in ((self._state, "state"), (self._increment, "inc")):
            stored[world] = torch.tensor(_limbs(state[key]), device=stored.device)

    def worlds(self, which: Tensor) -> "Streams":
        """The same streams of some of the worlds, by their numbers."""
        some = object.__new__(Streams)
        some.__dict__.update(self.__dict__)
        some._worlds = self._worlds.index_select(0, which)
        return some

    def uniform(self, low: float, high: float, size: int) -> Tensor:
        """The next numbers of each world, in [low, high): `[k, size]`, float64."""
        return low + (high - low) * torch.stack([self._next() for _ in range(size)], dim=1)

    def _next(self) -> Tensor:
        """The next number of each world in [0, 1), `[k]`: the 53 upper bits of PCG's XSL-RR output."""
        one, two, three, four = self._advance().unbind(dim=1)
        word = ((four ^ two) << 32) | (three ^ one)
        by = four >> 26  # the state's upper six bits
        # Rotated right; shifts of negative numbers copy the sign, and a shift by 64 bits is none.
        rotated = ((word >> by) & self._unsigned.index_select(0, by)) | ((word << 1) << (63 - by))
        return ((rotated >> 11) & ((1 << 53) - 1)).double() * 2.0**-53

    def _advance(self) -> Tensor:
        """Multiplies the state and adds the increment, modulo 2^128: limbs `[k, 4]`, the lowest first."""
        products = self._state.index_select(0, self._worlds).unsqueeze(2) * self._multiplier
        limbs = (products & _LOW).sum(dim=1).add_(self._increment.index_select(0, self._worlds))
        limbs[:, 1:].add_(((products >> 32) & _LOW).sum(dim=1)[:, :-1])
        parts = limbs.unbind(dim=1)
        for lower, upper in pairwise(parts):
            upper.add_(lower >> 32)
        limbs.bitwise_and_(_LOW)
        self._state.index_copy_(0, self._worlds, limbs)
        return limbs


def _limbs(number: int) -> list[int]:
    """A number of 128 bits as limbs, the lowest first."""
    return [(number >> (32 * k)) & _LOW for k in range(_LIMBS)]
